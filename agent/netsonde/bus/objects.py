"""A NATS object store bucket for this host's packets: its own one, or the one of its site.

The host's own bucket is created on demand, bounded in size and age.

The format is ADR-20, as in every NATS client: chunks under one subject, then an entry with the
object's name, size and digest. Only the entry makes it an object. At most WINDOW_CHUNKS are in
flight, which bounds memory. An incomplete upload is removed. A full bucket drops its oldest
objects.

In the bucket of a site, subjects have the host as a token, so that nats-server can restrict each
host to its own objects: `$O.<bucket>.C.<host>.<nuid>` and `$O.<bucket>.M.<host>.<name>`. A host
only publishes there. The server drops the oldest messages of a full bucket. An incomplete upload
stays until then.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import secrets
from collections import deque
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec

from ..errors import ObjectStoreUnavailable
from ..wire.instant import NS_PER_SEC
from . import jetstream
from .connection import Requester

TIMEOUT_SEC = 10.0
WITHDRAW_SEC = 1.0
CHUNK_BYTES = 128 << 10
CHUNK_HEADROOM_BYTES = 1024  # reserved in max_payload for headers
WINDOW_CHUNKS = 8
MESSAGE_BYTES = 1024  # largest overhead per message in the stream's files
_ROOM_UNLIMITED = 1 << 62
STREAM_NOT_FOUND = 10059  # err_code of the JetStream API
PROBE = "probe"
NOT_STORED = {"Nats-Expected-Stream": "none"}  # a stream replies with an error
_ROLLUP = {"Nats-Rollup": "sub"}


class _ApiError(msgspec.Struct):
    description: str = ""
    err_code: int = 0


class _Limits(msgspec.Struct):
    max_bytes: int = -1


class _State(msgspec.Struct):
    bytes: int = 0


class _Stored(msgspec.Struct):
    subject: str
    data: str  # base64
    seq: int = 0


class _Entry(msgspec.Struct):
    nuid: str


class StoredObject(msgspec.Struct, kw_only=True):
    """The metadata of an object (ADR-20). owner: the caller whose request made it, if known."""

    name: str
    nuid: str
    size: int
    mtime: str
    description: str = ""
    deleted: bool = False
    owner: dict[str, str] = msgspec.field(name="metadata", default_factory=dict)
    subject: str = ""  # the entry's

    @property
    def time_ns(self) -> int:
        """Raises ValueError."""
        return int(datetime.fromisoformat(self.mtime).timestamp() * 1e9)


def read_object(data: bytes, subject: str) -> StoredObject | None:
    """Returns None for a deleted object, or an entry that no agent writes."""
    try:
        found = msgspec.json.decode(data, type=StoredObject)
        found.subject = subject
        return None if found.deleted or found.time_ns < 0 else found
    except (msgspec.DecodeError, ValueError, OverflowError):
        return None


class _Response(msgspec.Struct):
    """The used fields of a JetStream API reply or a PubAck."""

    error: _ApiError | None = None
    seq: int = 0
    domain: str = ""
    config: _Limits = msgspec.field(default_factory=_Limits)
    state: _State = msgspec.field(default_factory=_State)
    message: _Stored | None = None


def bucket_name(root: str, host: str) -> str:
    """Returns `capture-packets-web1`. Dots of the root become underscores."""
    return f"{root.replace('.', '_')}-packets-{host}"


def site_bucket_name(root: str) -> str:
    """Returns `capture-packets`."""
    return f"{root.replace('.', '_')}-packets"


class Bucket:
    def __init__(
        self,
        connection: Requester,
        name: str,
        *,
        bytes_max: int,
        age_max_sec: int,
        domain: str = "",
        site: SiteBucket | None = None,
    ) -> None:
        """site: used instead if it exists and this one does not."""
        self.name = name
        self.domain = domain
        self.infix = ""  # in subjects, before the name of an object or of its chunks
        self._site = site
        self._connection = connection
        self._stream = f"OBJ_{name}"
        self._bytes_max = bytes_max
        self._age_max_sec = age_max_sec

    def upload(self, name: str, description: str, owner: Mapping[str, str] | None = None) -> Upload:
        """Returns an async context. Without a commit the upload is removed at its end."""
        return Upload(self, name, description, owner or {})

    @property
    def chunk_bytes(self) -> int:
        return min(CHUNK_BYTES, self._connection.max_payload - CHUNK_HEADROOM_BYTES)

    async def ensure(self) -> Bucket:
        """Creates the bucket if it is missing. Leaves an existing one unchanged. Returns the
        bucket to use."""
        reply = await self._api(f"STREAM.INFO.{self._stream}")
        if reply.error is not None and reply.error.err_code == STREAM_NOT_FOUND:
            if self._site is not None and await self._site.exists():
                return self._site
            reply = await self._api(f"STREAM.CREATE.{self._stream}", self._configuration())
        if reply.error is not None:
            raise ObjectStoreUnavailable(f"Bucket {self.name}: {reply.error.description}.")
        return self

    def _configuration(self) -> dict[str, Any]:
        return {
            "name": self._stream,
            "description": "packets retrieved with netsonde",
            "subjects": [f"$O.{self.name}.C.>", f"$O.{self.name}.M.>"],
            "storage": "file",
            "discard": "new",
            "max_bytes": self._bytes_max,
            "max_age": self._age_max_sec * NS_PER_SEC,
            "num_replicas": 1,
            "allow_rollup_hdrs": True,
            "allow_direct": True,
        }

    async def publish(
        self, subject: str, payload: bytes, headers: dict[str, str] | None = None
    ) -> int:
        """Returns the message's sequence number in the stream."""
        reply = await self._request(subject, payload, headers)
        if reply.error is not None or not reply.seq:
            reason = reply.error.description if reply.error else "the reply is not a PubAck"
            raise ObjectStoreUnavailable(f"Bucket {self.name}: {reason}.")
        if jetstream.foreign(self.domain, reply.domain):
            raise ObjectStoreUnavailable(
                f"Bucket {self.name}: JetStream domain {reply.domain!r} stored the chunk, not "
                f"{self.domain!r}."
            )
        return reply.seq

    async def make_room(self, wanted_bytes: int, used_bytes: int = 0) -> int:
        """Removes the oldest objects until `wanted_bytes` fit. Returns the free bytes. used_bytes:
        size of the object so far."""
        while True:
            reply = await self._api(f"STREAM.INFO.{self._stream}")
            if reply.error is not None:
                raise ObjectStoreUnavailable(f"Bucket {self.name}: {reply.error.description}.")
            limit = reply.config.max_bytes
            room = limit - reply.state.bytes if limit > 0 else _ROOM_UNLIMITED
            if room >= wanted_bytes:
                return room
            if not await self._remove_oldest():
                raise ObjectStoreUnavailable(
                    f"Bucket {self.name} is full. Request less, or raise [buffer] bucket_mb."
                )

    async def purge(self, subject: str) -> None:
        await self._api(f"STREAM.PURGE.{self._stream}", {"filter": subject})

    async def objects(self) -> list[StoredObject]:
        """Returns all, oldest first; an empty list without the bucket."""
        objects: list[StoredObject] = []
        seq = 0
        while True:
            query = {"seq": seq + 1, "next_by_subj": f"$O.{self.name}.M.>"}
            found = await self._api(f"STREAM.MSG.GET.{self._stream}", query)
            if found.message is None:
                return objects
            seq = found.message.seq
            one = read_object(base64.b64decode(found.message.data), found.message.subject)
            if one is not None:
                objects.append(one)

    async def remove(self, stored: StoredObject) -> None:
        for subject in (stored.subject, f"$O.{self.name}.C.{stored.nuid}"):
            reply = await self._api(f"STREAM.PURGE.{self._stream}", {"filter": subject})
            if reply.error is not None:
                raise ObjectStoreUnavailable(f"Bucket {self.name}: {reply.error.description}.")

    async def _remove_oldest(self) -> bool:
        """Returns False if no complete object is left."""
        subject = f"$O.{self.name}.M.>"
        found = await self._api(
            f"STREAM.MSG.GET.{self._stream}", {"seq": 1, "next_by_subj": subject}
        )
        if found.message is None:
            return False
        entry = msgspec.json.decode(base64.b64decode(found.message.data), type=_Entry)
        await self.purge(f"$O.{self.name}.C.{entry.nuid}")
        await self.purge(found.message.subject)
        return True

    async def _api(self, verb: str, body: dict[str, Any] | None = None) -> _Response:
        payload = b"" if body is None else msgspec.json.encode(body)
        return await self._request(jetstream.api(self.domain, verb), payload, None)

    async def _request(
        self, subject: str, payload: bytes, headers: dict[str, str] | None
    ) -> _Response:
        reply = await self._connection.request(subject, payload, TIMEOUT_SEC, headers)
        if not reply:
            raise ObjectStoreUnavailable(
                "JetStream does not answer: disabled, unreachable, or not permitted to this agent."
            )
        try:
            return msgspec.json.decode(reply, type=_Response)
        except msgspec.DecodeError as error:
            raise ObjectStoreUnavailable(f"Malformed reply from JetStream: {error}.") from None


class SiteBucket(Bucket):
    """The bucket that the hosts of a site share. `ensure` needs the key `streams`; a host only
    publishes."""

    def __init__(
        self,
        connection: Requester,
        name: str,
        host: str,
        *,
        bytes_max: int,
        age_max_sec: int = 0,
        domain: str = "",
    ) -> None:
        super().__init__(
            connection, name, bytes_max=bytes_max, age_max_sec=age_max_sec, domain=domain
        )
        self.infix = f"{host}."

    async def exists(self) -> bool:
        """Sends a message that the stream rejects, because a host may not ask for more."""
        subject = f"$O.{self.name}.C.{self.infix}{PROBE}"
        return bool(await self._connection.request(subject, b"", TIMEOUT_SEC, NOT_STORED))

    async def make_room(self, wanted_bytes: int, used_bytes: int = 0) -> int:
        """Limits one object, which could otherwise drop its own first chunks."""
        room = self._bytes_max - used_bytes
        if room < wanted_bytes:
            raise ObjectStoreUnavailable(
                f"The packets do not fit into bucket {self.name}. Request less, or raise"
                " [buffer] bucket_mb."
            )
        return room

    async def purge(self, subject: str) -> None:
        """Does nothing: no host may purge. The chunks expire."""

    def _configuration(self) -> dict[str, Any]:
        # Without rollups: one message could remove every object.
        return super()._configuration() | {"discard": "old", "allow_rollup_hdrs": False}


class Upload:
    """The upload of one object. Fails if the stream stores its chunks out of order."""

    def __init__(
        self, bucket: Bucket, name: str, description: str, owner: Mapping[str, str]
    ) -> None:
        self._owner = dict(owner)
        self.bucket = bucket
        self._name = name
        self._description = description
        self._nuid = ""
        self._subject = ""
        self._in_flight: deque[asyncio.Task[int]] = deque()
        self._last_seq = 0
        self._room = 0
        self._digest = hashlib.sha256()
        self._bytes = 0
        self._chunks = 0
        self._committed = False

    async def __aenter__(self) -> Upload:
        self.bucket = await self.bucket.ensure()
        self._nuid = f"{self.bucket.infix}{secrets.token_hex(11)}"
        self._subject = f"$O.{self.bucket.name}.C.{self._nuid}"
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._committed:
            return
        if self._in_flight:  # the server would store these chunks after the purge
            await asyncio.wait(self._in_flight, timeout=WITHDRAW_SEC)
        for task in self._in_flight:
            task.cancel()
        await asyncio.gather(*self._in_flight, return_exceptions=True)
        if self._chunks:
            # If the purge fails, the chunks expire by the bucket's age limit.
            with contextlib.suppress(ObjectStoreUnavailable):
                await self.bucket.purge(self._subject)

    async def write(self, data: memoryview) -> None:
        """Returns with at most WINDOW_CHUNKS in flight. The caller may then reuse `data`."""
        size = self.bucket.chunk_bytes
        for start in range(0, len(data), size):
            chunk = bytes(data[start : start + size])
            await self._reserve(len(chunk))
            while len(self._in_flight) >= WINDOW_CHUNKS:
                await self._wait_oldest()
            self._digest.update(chunk)
            self._bytes += len(chunk)
            self._chunks += 1
            sending = self.bucket.publish(self._subject, chunk)
            self._in_flight.append(asyncio.create_task(sending))
            await asyncio.sleep(0)  # start this task before copying the next chunk

    async def _reserve(self, size: int) -> None:
        """Frees room before sending. A rejected chunk would leave a gap in the object."""
        needed = size + 2 * MESSAGE_BYTES  # room for the chunk and the final entry
        if self._room < needed:
            await self._wait_all()
            used = self._bytes + self._chunks * MESSAGE_BYTES
            self._room = await self.bucket.make_room(needed, used)
        self._room -= size + MESSAGE_BYTES

    async def _wait_all(self) -> None:
        while self._in_flight:
            await self._wait_oldest()

    async def _wait_oldest(self) -> None:
        seq = await asyncio.shield(self._in_flight[0])
        self._in_flight.popleft()
        if seq <= self._last_seq:
            raise ObjectStoreUnavailable(
                f"Bucket {self.bucket.name}: chunks stored out of order. Try again."
            )
        self._last_seq = seq

    async def commit(self) -> None:
        """Publishes the entry that makes the chunks an object."""
        await self._wait_all()
        entry = {
            "name": self._name,
            "description": self._description,
            "metadata": self._owner,
            "bucket": self.bucket.name,
            "nuid": self._nuid,
            "size": self._bytes,
            "chunks": self._chunks,
            "mtime": datetime.now(UTC).isoformat(),
            "digest": f"SHA-256={base64.urlsafe_b64encode(self._digest.digest()).decode()}",
            "options": {"max_chunk_size": self.bucket.chunk_bytes},
        }
        token = base64.urlsafe_b64encode(self._name.encode()).decode()
        subject = f"$O.{self.bucket.name}.M.{self.bucket.infix}{token}"
        headers = None if self.bucket.infix else _ROLLUP
        await self.bucket.publish(subject, msgspec.json.encode(entry), headers)
        self._committed = True
