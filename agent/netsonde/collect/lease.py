"""A lease on one shard of the flow records: one collector at a time reads with a consumer.

The lease is a key of the bucket `<root>-collectors`. Its holder writes it every RENEW_SEC. Another
collector may take it after LEASE_SEC without a write, measured by that collector's own clock, so
no two clocks have to agree. A holder that cannot write for FENCE_SEC stops reading before that.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import msgspec
from nats.aio.msg import Msg

from ..bus.kv import KeyValue, KeyValueError, WrongRevisionError
from ..errors import NetsondeError
from .source import Source

LEASE_SEC = 15.0
FENCE_SEC = 10.0
RENEW_SEC = 3.0
POLL_SEC = 1.0


class LeaseLostError(NetsondeError):
    """Another collector may read now. Messages that are not on disk are delivered to it."""


class _Holder(msgspec.Struct):
    """The value of the key."""

    holder: str
    by: str = ""


def collectors_bucket(root: str) -> str:
    """Returns `capture-collectors` for the root `capture`."""
    return f"{root.replace('.', '-')}-collectors"


class Slots:
    """Counts the shards that this process may hold at once."""

    def __init__(self, limit: int) -> None:
        self._left = limit

    def take(self) -> bool:
        """Returns False if no slot is left."""
        if self._left == 0:
            return False
        self._left -= 1
        return True

    def free(self) -> None:
        self._left += 1


class Lease:
    """One shard's lease. by: user and host of this collector, for people."""

    def __init__(self, bucket: KeyValue, key: str, *, by: str, slots: Slots) -> None:
        self._bucket = bucket
        self._key = key
        self._value = msgspec.json.encode(_Holder(uuid.uuid4().hex, by))
        self._slots = slots
        self._revision = 0
        self._written_sec = 0.0

    @property
    def valid(self) -> bool:
        return time.monotonic() - self._written_sec < FENCE_SEC

    async def acquire(self) -> None:
        """Waits until the lease is free. Raises KeyValueError."""
        try:
            await self._bucket.get(self._key)
        except KeyValueError:
            await self._bucket.ensure()
        seen, seen_sec = -1, time.monotonic()
        while True:
            found = await self._bucket.get(self._key)
            revision = 0 if found is None else found.revision
            if revision != seen:
                seen, seen_sec = revision, time.monotonic()
            free = found is None or found.deleted or time.monotonic() - seen_sec > LEASE_SEC
            if free and self._slots.take():
                if await self._write(self._value, revision):
                    return
                self._slots.free()
            await asyncio.sleep(POLL_SEC)

    async def _write(self, value: bytes, last: int) -> bool:
        """Returns False if another collector wrote first."""
        began_sec = time.monotonic()
        try:
            self._revision = await self._bucket.put(self._key, value, last=last)
        except WrongRevisionError:
            return False
        self._written_sec = began_sec
        return True

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(RENEW_SEC)
            with contextlib.suppress(KeyValueError):  # the next renewal may succeed
                if not await self._write(self._value, self._revision):
                    self._written_sec = 0.0
                    return

    @asynccontextmanager
    async def held(self) -> AsyncIterator[Lease]:
        """Renews the acquired lease until the end of the block, and releases it then."""
        renewing = asyncio.create_task(self._renew())
        try:
            yield self
        finally:
            renewing.cancel()
            await asyncio.gather(renewing, return_exceptions=True)
            self._slots.free()
            if self.valid:
                with contextlib.suppress(KeyValueError):
                    await self._bucket.put(self._key, b"", last=self._revision)


class LeasedSource:
    """A source that ends with LeaseLostError when the lease is no longer valid."""

    def __init__(self, source: Source, lease: Lease) -> None:
        self._source = source
        self._lease = lease

    @property
    def window(self) -> int:
        return self._source.window

    def _check(self) -> None:
        if not self._lease.valid:
            raise LeaseLostError("The lease of this shard was lost.")

    async def open(self) -> None:
        self._check()
        await self._source.open()

    async def fetch(self) -> list[Msg]:
        self._check()
        found = await self._source.fetch()
        self._check()
        return found

    async def acknowledge(self, messages: Sequence[Msg]) -> None:
        """Acks also after the lease was lost: the messages are on disk here."""
        await self._source.acknowledge(messages)

    async def drained(self) -> bool:
        return await self._source.drained()
