"""A NATS object store bucket of this host: made on demand, bounded in size and age.

The format is that of every NATS client (ADR-20): chunks under one subject, then a message
with the object's name, size and digest, which alone makes it an object. A few chunks are
under way at a time, so that memory is bounded by the server's pace; an upload that does not
come to its end leaves nothing behind. When the bucket is full its oldest objects go.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import secrets
from collections import deque
from datetime import UTC, datetime
from types import TracebackType
from typing import Any

import msgspec

from ..errors import ObjectStoreUnavailable
from .connection import Requester

TIMEOUT_SEC = 10.0
WITHDRAW_SEC = 1.0
CHUNK_BYTES = 128 << 10
CHUNK_HEADROOM_BYTES = 1024  # of max_payload, for headers
WINDOW_CHUNKS = 8
MESSAGE_BYTES = 1024  # around a payload in the stream's files, at most
_ROOM_UNLIMITED = 1 << 62
NS_PER_SEC = 1_000_000_000
_STREAM_NOT_FOUND = 10059  # err_code of the JetStream API
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


class _Entry(msgspec.Struct):
    nuid: str


class _Response(msgspec.Struct):
    """Of the JetStream API, or of a publish: what is looked at of it."""

    error: _ApiError | None = None
    seq: int = 0
    config: _Limits = msgspec.field(default_factory=_Limits)
    state: _State = msgspec.field(default_factory=_State)
    message: _Stored | None = None


def bucket_name(root: str, host: str) -> str:
    """`capture-packets-web1`; a root of several tokens is joined by underscores."""
    return f"{root.replace('.', '_')}-packets-{host}"


class Bucket:
    def __init__(
        self, connection: Requester, name: str, *, bytes_max: int, age_max_sec: int
    ) -> None:
        self.name = name
        self._connection = connection
        self._stream = f"OBJ_{name}"
        self._bytes_max = bytes_max
        self._age_max_sec = age_max_sec

    def upload(self, name: str, description: str) -> Upload:
        """An async context; what is not committed in it is withdrawn at its end."""
        return Upload(self, name, description)

    @property
    def chunk_bytes(self) -> int:
        return min(CHUNK_BYTES, self._connection.max_payload - CHUNK_HEADROOM_BYTES)

    async def ensure(self) -> None:
        """The bucket exists. One that is there is left as its operator made it."""
        answer = await self._api(f"STREAM.INFO.{self._stream}")
        if answer.error is not None and answer.error.err_code == _STREAM_NOT_FOUND:
            answer = await self._api(f"STREAM.CREATE.{self._stream}", self._configuration())
        if answer.error is not None:
            raise ObjectStoreUnavailable(f"Bucket {self.name}: {answer.error.description}.")

    def _configuration(self) -> dict[str, Any]:
        return {
            "name": self._stream,
            "description": "packets that were asked for with netsonde",
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
        """The message's number in the stream."""
        answer = await self._ask(subject, payload, headers)
        if answer.error is not None or not answer.seq:
            words = answer.error.description if answer.error else "it is no stream"
            raise ObjectStoreUnavailable(f"Bucket {self.name}: {words}.")
        return answer.seq

    async def make_room(self, wanted_bytes: int) -> int:
        """How much fits now, after the oldest objects were removed if that was less."""
        while True:
            answer = await self._api(f"STREAM.INFO.{self._stream}")
            if answer.error is not None:
                raise ObjectStoreUnavailable(f"Bucket {self.name}: {answer.error.description}.")
            limit = answer.config.max_bytes
            room = limit - answer.state.bytes if limit > 0 else _ROOM_UNLIMITED
            if room >= wanted_bytes:
                return room
            if not await self._remove_oldest():
                raise ObjectStoreUnavailable(
                    f"Bucket {self.name} is full; ask for less, or raise [buffer] bucket_mb."
                )

    async def purge(self, subject: str) -> None:
        await self._api(f"STREAM.PURGE.{self._stream}", {"filter": subject})

    async def _remove_oldest(self) -> bool:
        """False: there is no whole object left to remove."""
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
        return await self._ask(f"$JS.API.{verb}", payload, None)

    async def _ask(self, subject: str, payload: bytes, headers: dict[str, str] | None) -> _Response:
        reply = await self._connection.request(subject, payload, TIMEOUT_SEC, headers)
        if not reply:
            raise ObjectStoreUnavailable(
                "JetStream does not answer: it is not enabled here, away, or closed to this agent."
            )
        try:
            return msgspec.json.decode(reply, type=_Response)
        except msgspec.DecodeError as error:
            raise ObjectStoreUnavailable(f"JetStream's answer is unreadable: {error}.") from None


class Upload:
    """One object on its way. Chunks are numbered by the stream: one out of order ends it."""

    def __init__(self, bucket: Bucket, name: str, description: str) -> None:
        self.bucket = bucket
        self._name = name
        self._description = description
        self._nuid = secrets.token_hex(11)
        self._subject = f"$O.{bucket.name}.C.{self._nuid}"
        self._under_way: deque[asyncio.Task[int]] = deque()
        self._last_seq = 0
        self._room = 0
        self._digest = hashlib.sha256()
        self._bytes = 0
        self._chunks = 0
        self._committed = False

    async def __aenter__(self) -> Upload:
        await self.bucket.ensure()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._committed:
            return
        if self._under_way:  # the server stores what is under way even after a purge
            await asyncio.wait(self._under_way, timeout=WITHDRAW_SEC)
        for task in self._under_way:
            task.cancel()
        await asyncio.gather(*self._under_way, return_exceptions=True)
        if self._chunks:
            # What the bus does not let us remove now, the bucket's age limit will.
            with contextlib.suppress(ObjectStoreUnavailable):
                await self.bucket.purge(self._subject)

    async def write(self, data: memoryview) -> None:
        """Returns when all but the window's chunks are stored; `data` may be reused then."""
        size = self.bucket.chunk_bytes
        for start in range(0, len(data), size):
            chunk = bytes(data[start : start + size])
            await self._reserve(len(chunk))
            while len(self._under_way) >= WINDOW_CHUNKS:
                await self._settle_one()
            self._digest.update(chunk)
            self._bytes += len(chunk)
            self._chunks += 1
            sending = self.bucket.publish(self._subject, chunk)
            self._under_way.append(asyncio.create_task(sending))
            await asyncio.sleep(0)  # handed over before the next one is made

    async def _reserve(self, size: int) -> None:
        """Room is made before it is needed: a chunk refused among others would leave a hole."""
        needed = size + 2 * MESSAGE_BYTES  # the entry that makes it an object fits as well
        if self._room < needed:
            await self._settle_all()
            self._room = await self.bucket.make_room(needed)
        self._room -= size + MESSAGE_BYTES

    async def _settle_all(self) -> None:
        while self._under_way:
            await self._settle_one()

    async def _settle_one(self) -> None:
        seq = await asyncio.shield(self._under_way[0])
        self._under_way.popleft()
        if seq <= self._last_seq:
            raise ObjectStoreUnavailable(f"Bucket {self.bucket.name}: chunks came out of order.")
        self._last_seq = seq

    async def commit(self) -> None:
        """From here on it is an object."""
        await self._settle_all()
        entry = {
            "name": self._name,
            "description": self._description,
            "bucket": self.bucket.name,
            "nuid": self._nuid,
            "size": self._bytes,
            "chunks": self._chunks,
            "mtime": datetime.now(UTC).isoformat(),
            "digest": f"SHA-256={base64.urlsafe_b64encode(self._digest.digest()).decode()}",
            "options": {"max_chunk_size": self.bucket.chunk_bytes},
        }
        token = base64.urlsafe_b64encode(self._name.encode()).decode()
        subject = f"$O.{self.bucket.name}.M.{token}"
        await self.bucket.publish(subject, msgspec.json.encode(entry), _ROLLUP)
        self._committed = True
