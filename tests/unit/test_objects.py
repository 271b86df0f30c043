"""A bucket on a real JetStream: what is stored, what makes room, what is read back."""

from __future__ import annotations

import asyncio
import hashlib
import os
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nats
import pytest
from nats.aio.client import Client
from nats.js.api import StreamInfo

from deadlines import TIMEOUT_SEC
from netsonde.bus.connection import Connection
from netsonde.bus.embedded import EmbeddedServer
from netsonde.bus.objects import CHUNK_BYTES, Bucket, SiteBucket, bucket_name, site_bucket_name
from netsonde.config.sections import NatsSection
from netsonde.errors import ObjectStoreUnavailable
from netsonde.fleet.download import DownloadError, download
from netsonde.fleet.part_file import PartFile

KIB = 1024


@dataclass
class Rig:
    connection: Connection
    client: Client
    digests: dict[str, str] = field(default_factory=dict)

    def bucket(self, kib: int = 4096) -> Bucket:
        name = bucket_name("my.root", "alpha")
        return Bucket(self.connection, name, bytes_max=kib * KIB, age_max_sec=77)

    async def put(self, bucket: Bucket, name: str, content: bytes) -> None:
        self.digests[name] = hashlib.sha256(content).hexdigest()
        async with bucket.upload(name, "words") as upload:
            await upload.write(memoryview(content))
            await upload.commit()

    async def get(self, bucket: Bucket, name: str) -> bytes:
        return await fetched(
            self.client, bucket.name, name, sha256=self.digests.get(name, "unknown")
        )

    async def info(self, bucket: Bucket) -> StreamInfo:
        return await self.client.jetstream().stream_info(f"OBJ_{bucket.name}", subjects_filter=">")


async def fetched(client: Client, bucket: str, name: str, **options: str) -> bytes:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "part")
        with PartFile(path) as part:
            await download(client, bucket, name, part, **options)
        return await asyncio.to_thread(path.read_bytes)


@asynccontextmanager
async def rig(*, jetstream: bool = True) -> AsyncIterator[Rig]:
    async with asyncio.timeout(TIMEOUT_SEC), EmbeddedServer(jetstream=jetstream) as server:
        connection = Connection(NatsSection(servers=[server.url]), host="alpha", purpose="data")
        run = asyncio.create_task(connection.run())
        await connection.wait_connected()
        client = await nats.connect(server.url)
        try:
            yield Rig(connection, client)
        finally:
            await client.close()
            run.cancel()
            await asyncio.gather(run, return_exceptions=True)


async def test_bucket_is_created_as_configured() -> None:
    async with rig() as made:
        bucket = made.bucket(2048)
        assert bucket.name == "my_root-packets-alpha"
        await bucket.ensure()
        await made.bucket(4096).ensure()  # an existing one stays as it is
        config = (await made.info(bucket)).config
        assert config.max_bytes == 2048 * KIB
        assert config.max_age == 77
        assert config.subjects == [f"$O.{bucket.name}.C.>", f"$O.{bucket.name}.M.>"]
        assert config.num_replicas == 1
        assert config.allow_direct
        assert config.allow_rollup_hdrs
        assert str(config.discard).lower().endswith("new")
        assert str(config.storage).lower().endswith("file")


@pytest.mark.parametrize(
    "size", [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 70 * CHUNK_BYTES + 5]
)
async def test_object_is_read_back(size: int) -> None:
    content = os.urandom(size)
    async with rig() as made:
        bucket = made.bucket(16 * KIB)
        await made.put(bucket, "a b.pcapng", content)
        assert await made.get(bucket, "a b.pcapng") == content
        theirs = await (await made.client.jetstream().object_store(bucket.name)).get("a b.pcapng")
        assert theirs.data == content  # nats-py reads it as well
        assert theirs.info.description == "words"
        assert theirs.info.chunks == -(-size // CHUNK_BYTES)
        assert theirs.info.size == size


async def test_oldest_object_makes_room() -> None:
    async with rig() as made:
        bucket = made.bucket(1024)
        for number in range(4):
            await made.put(bucket, f"o{number}", bytes([number]) * (300 * KIB))
        with pytest.raises(DownloadError, match="no longer in the bucket"):
            await made.get(bucket, "o0")
        for number in (1, 2, 3):
            assert await made.get(bucket, f"o{number}") == bytes([number]) * (300 * KIB)
        assert (await made.info(bucket)).state.bytes <= 1024 * KIB


async def test_object_above_the_bound_is_refused_and_leaves_nothing() -> None:
    async with rig() as made:
        bucket = made.bucket(1024)
        await made.put(bucket, "small", b"x")
        with pytest.raises(ObjectStoreUnavailable, match=r"is full.*bucket_mb"):
            await made.put(bucket, "large", bytes(2048 * KIB))
        assert (await made.info(bucket)).state.messages == 0


async def test_host_uses_the_bucket_of_the_site() -> None:
    """Unless it has a bucket itself."""
    content = os.urandom(3 * CHUNK_BYTES)
    async with rig() as made:
        site = SiteBucket(
            made.connection, site_bucket_name("my.root"), "alpha",
            bytes_max=1024 * KIB, age_max_sec=77,
        )  # fmt: skip
        own = bucket_name("my.root", "alpha")
        bucket = Bucket(made.connection, own, bytes_max=1024 * KIB, age_max_sec=77, site=site)
        await SiteBucket.ensure(site)
        async with bucket.upload("x", "words") as upload:
            await upload.write(memoryview(content))
            await upload.commit()
        assert upload.bucket is site
        info = await made.client.jetstream().stream_info(f"OBJ_{site.name}", subjects_filter=">")
        subjects = set(info.state.subjects or ())
        assert {subject.rpartition(".")[0] for subject in subjects} == {
            "$O.my_root-packets.C.alpha",
            "$O.my_root-packets.M.alpha",
        }
        digest = hashlib.sha256(content).hexdigest()
        found = await fetched(made.client, site.name, "x", sha256=digest, host="alpha")
        assert found == content
        with pytest.raises(DownloadError, match="no longer in the bucket"):
            await fetched(made.client, site.name, "x", sha256=digest, host="beta")
        await made.bucket().ensure()
        async with bucket.upload("y", "") as upload:
            assert upload.bucket.name == own


async def test_object_above_the_bound_of_a_site_is_refused() -> None:
    async with rig() as made:
        name = site_bucket_name("my.root")
        site = SiteBucket(made.connection, name, "alpha", bytes_max=1024 * KIB, age_max_sec=77)
        for number in range(4):  # the server drops the oldest
            await made.put(site, f"o{number}", bytes([number]) * (300 * KIB))
        assert (await made.info(site)).state.bytes <= 1024 * KIB
        with pytest.raises(ObjectStoreUnavailable, match=r"do not fit.*bucket_mb"):
            await made.put(site, "large", bytes(2048 * KIB))


async def test_upload_without_commit_is_removed() -> None:
    async with rig() as made:
        bucket = made.bucket()
        async with bucket.upload("cut", "") as upload:
            await upload.write(memoryview(bytes(3 * CHUNK_BYTES)))
        assert (await made.info(bucket)).state.messages == 0
        with pytest.raises(DownloadError):
            await made.get(bucket, "cut")


@pytest.mark.parametrize("damage", ["chunk", "entry"])
async def test_damage_is_reported(damage: str) -> None:
    async with rig() as made:
        bucket = made.bucket()
        await made.put(bucket, "x", bytes(3 * CHUNK_BYTES))
        js = made.client.jetstream()
        if damage == "chunk":
            await js.delete_msg(f"OBJ_{bucket.name}", 2)
            words = "a chunk is no longer in the bucket"
        else:
            entry = await js.get_msg(f"OBJ_{bucket.name}", 4)
            changed = entry.data.replace(b'"size":393216', b'"size":393217')  # type: ignore[union-attr]
            await js.publish(entry.subject, changed, headers={"Nats-Rollup": "sub"})  # type: ignore[arg-type]
            words = "it is damaged: the size or digest differs"
        with pytest.raises(DownloadError, match=words):
            await made.get(bucket, "x")


async def test_without_jetstream_the_reason_is_named() -> None:
    async with rig(jetstream=False) as made:
        with pytest.raises(ObjectStoreUnavailable, match="JetStream does not answer"):
            await made.put(made.bucket(), "x", b"x")


class Replies:
    """Answers each request with the next prepared reply."""

    max_payload = 1 << 20

    def __init__(self, *replies: bytes) -> None:
        self.replies = list(replies)
        self.asked: list[str] = []

    async def request(
        self, subject: str, payload: bytes, timeout_sec: float, headers: Any = None
    ) -> bytes | None:
        self.asked.append(subject)
        return self.replies.pop(0)


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (b"", "JetStream does not answer"),
        (b"{", "Malformed reply from JetStream"),
        (b'{"error": {"err_code": 10058, "description": "no room"}}', "Bucket b: no room"),
        (b'{"seq": 0}', "Bucket b: the reply is not a PubAck"),
    ],
)
async def test_malformed_replies_fail(reply: bytes, words: str) -> None:
    bucket = Bucket(Replies(reply), "b", bytes_max=1, age_max_sec=1)
    with pytest.raises(ObjectStoreUnavailable, match=words):
        await bucket.publish("s", b"")


async def test_chunks_stored_out_of_order_fail() -> None:
    room = b'{"config": {"max_bytes": 9000000}, "state": {"bytes": 0}}'
    replies = Replies(room, room, b'{"seq": 5}', b'{"seq": 5}', b"{}")
    bucket = Bucket(replies, "b", bytes_max=1, age_max_sec=1)

    async def put() -> None:
        async with bucket.upload("x", "") as upload:
            await upload.write(memoryview(bytes(2 * CHUNK_BYTES)))
            await upload.commit()

    with pytest.raises(ObjectStoreUnavailable, match="out of order"):
        await put()
    assert replies.asked[-1] == "$JS.API.STREAM.PURGE.OBJ_b"


async def test_chunks_leave_room_for_headers() -> None:
    replies = Replies()
    replies.max_payload = 100_000
    assert Bucket(replies, "b", bytes_max=1, age_max_sec=1).chunk_bytes == 100_000 - 1024
    replies.max_payload = 1 << 20
    assert Bucket(replies, "b", bytes_max=1, age_max_sec=1).chunk_bytes == CHUNK_BYTES
