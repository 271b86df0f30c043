"""One key-value bucket on a real JetStream, and replies that are not what ADR-8 promises."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from nats.aio.msg import Msg

from deadlines import TIMEOUT_SEC
from netsonde.bus.connection import Connection
from netsonde.bus.embedded import EmbeddedServer
from netsonde.bus.kv import KeyValue, KeyValueError, WrongRevisionError
from netsonde.bus.nats_client import GuardedClient
from netsonde.config.sections import NatsSection


@asynccontextmanager
async def rig(*, jetstream: bool = True) -> AsyncIterator[tuple[KeyValue, GuardedClient]]:
    async with asyncio.timeout(TIMEOUT_SEC), EmbeddedServer(jetstream=jetstream) as server:
        connection = Connection(NatsSection(servers=[server.url]), host="alpha", purpose="data")
        run = asyncio.create_task(connection.run())
        await connection.wait_connected()
        client = GuardedClient()
        await client.connect([server.url])
        try:
            yield KeyValue(connection, "hosts"), client
        finally:
            await client.close()
            run.cancel()
            await asyncio.gather(run, return_exceptions=True)


@asynccontextmanager
async def answering(reply: bytes, headers: dict[str, str]) -> AsyncIterator[KeyValue]:
    """A bucket whose server answers every request of the key `a` with this reply."""

    async def answer(request: Msg) -> None:
        await client.publish(request.reply, reply, headers=headers)

    async with rig(jetstream=False) as (bucket, client):
        await client.subscribe("$JS.API.DIRECT.GET.KV_hosts.$KV.hosts.a", cb=answer)
        await client.subscribe("$KV.hosts.a", cb=answer)
        await client.flush()
        yield bucket


async def test_a_value_is_written_read_and_deleted() -> None:
    async with rig() as (bucket, client):
        await bucket.ensure()
        await bucket.ensure()  # an existing bucket stays as it is
        assert await bucket.get("a") is None
        first = await bucket.put("a", b"one")
        assert first == 1
        entry = await bucket.get("a")
        assert entry is not None
        assert (entry.value, entry.revision, entry.deleted) == (b"one", first, False)
        assert entry.time.startswith("20")
        await client.jetstream().publish("$KV.hosts.a", headers={"KV-Operation": "DEL"})
        entry = await bucket.get("a")
        assert entry is not None
        assert (entry.value, entry.revision, entry.deleted) == (b"", first + 1, True)


async def test_a_write_may_require_the_last_revision() -> None:
    async with rig() as (bucket, _):
        await bucket.ensure()
        first = await bucket.put("a", b"one", last=0)
        with pytest.raises(WrongRevisionError, match="a was written meanwhile"):
            await bucket.put("a", b"two", last=0)
        second = await bucket.put("a", b"two", last=first)
        with pytest.raises(WrongRevisionError):
            await bucket.put("a", b"three", last=first)
        assert second == first + 1
        assert (await bucket.put("a", b"three")) == second + 1
        entry = await bucket.get("a")
        assert entry is not None
        assert entry.value == b"three"


async def test_a_missing_bucket_is_named() -> None:
    async with rig() as (bucket, _):
        with pytest.raises(KeyValueError, match="hosts is missing or not readable"):
            await bucket.get("a")
        with pytest.raises(KeyValueError, match="hosts is missing or not writable"):
            await bucket.put("a", b"one")


@pytest.mark.parametrize("headers", [{"Other": "1"}, {"Nats-Sequence": "no number"}])
async def test_a_read_reply_without_revision_is_malformed(headers: dict[str, str]) -> None:
    async with answering(b"value", headers) as bucket:
        with pytest.raises(KeyValueError, match="Bucket hosts: malformed reply"):
            await bucket.get("a")


@pytest.mark.parametrize(
    ("reply", "why"),
    [
        (b"{}", "the reply is not a PubAck"),
        (b"no JSON", "malformed reply"),
        (b'{"error": {"err_code": 10077, "description": "full"}}', "Bucket hosts: full"),
    ],
)
async def test_a_write_without_pub_ack_fails(reply: bytes, why: str) -> None:
    async with answering(reply, {"Other": "1"}) as bucket:
        with pytest.raises(KeyValueError, match=why):
            await bucket.put("a", b"one")


async def test_a_repeated_write_finds_its_own_value() -> None:
    """The ack of the first try is lost, so its writer does not know the new revision."""
    async with rig() as (bucket, _):
        await bucket.ensure()
        first = await bucket.put("a", b"one", last=0)
        second = await bucket.put("a", b"two", last=first)
        assert await bucket.put_once("a", b"two", last=first, again=True) == second
        with pytest.raises(WrongRevisionError):
            await bucket.put_once("a", b"two", last=first, again=False)
        with pytest.raises(WrongRevisionError):
            await bucket.put_once("a", b"other", last=first, again=True)
