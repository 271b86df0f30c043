"""First replies by Request-Id, so that a retry gets the reply and is not executed again.

Bounded in time, entries and bytes; a body is kept as its digest. Replies to requests that change
something are evicted last. Each operation takes constant time. Time is an argument.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from dataclasses import dataclass

from ..errors import RequestIdReused

LIFETIME_SEC = 600.0
ENTRIES_MAX = 4096
BYTES_MAX = 8 << 20


@dataclass(frozen=True, slots=True)
class StoredReply:
    """A reply as sent. keep=False: the request was rejected and may be retried. light: the
    request was malformed, so this reply is evicted early."""

    payload: bytes
    headers: dict[str, str]
    keep: bool = True
    light: bool = False


@dataclass(slots=True)
class _Entry:
    fingerprint: bytes
    born_sec: float
    changes: bool
    reply: asyncio.Future[StoredReply]
    size: int = 0


class Replays:
    def __init__(self) -> None:
        self._entries: dict[str, _Entry] = {}
        # Ids of finished requests, oldest first: those that changed nothing, and those that did.
        self._finished: dict[bool, OrderedDict[str, None]] = {
            False: OrderedDict(),
            True: OrderedDict(),
        }
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    def find(
        self, request_id: str, fingerprint: bytes, now_sec: float
    ) -> asyncio.Future[StoredReply] | None:
        """Returns the future of the first reply, or None for a new id (call `begin`). Raises
        RequestIdReused."""
        self._expire(now_sec)
        entry = self._entries.get(request_id)
        if entry is None:
            return None
        if entry.reply.done() and _expired(entry, now_sec):
            self._remove(request_id)
            return None
        if entry.fingerprint != fingerprint:
            raise RequestIdReused
        return entry.reply

    def begin(self, request_id: str, fingerprint: bytes, now_sec: float, *, changes: bool) -> None:
        reply: asyncio.Future[StoredReply] = asyncio.get_running_loop().create_future()
        self._entries[request_id] = _Entry(fingerprint, now_sec, changes, reply)

    def end(self, request_id: str, reply: StoredReply) -> None:
        """Resolves the future and stores the reply."""
        entry = self._entries.get(request_id)
        if entry is None or entry.reply.done():
            return
        entry.reply.set_result(reply)
        if not reply.keep:
            del self._entries[request_id]
            return
        entry.changes &= not reply.light
        entry.size = len(reply.payload)
        self._bytes += entry.size
        self._finished[entry.changes][request_id] = None
        self._evict()

    def _expire(self, now_sec: float) -> None:
        for finished in self._finished.values():
            while finished:
                request_id = next(iter(finished))
                if not _expired(self._entries[request_id], now_sec):
                    break
                self._remove(request_id)

    def _evict(self) -> None:
        while len(self._entries) > ENTRIES_MAX or self._bytes > BYTES_MAX:
            finished = self._finished[False] or self._finished[True]
            if not finished:
                return
            self._remove(next(iter(finished)))

    def _remove(self, request_id: str) -> None:
        entry = self._entries.pop(request_id)
        del self._finished[entry.changes][request_id]
        self._bytes -= entry.size


def _expired(entry: _Entry, now_sec: float) -> bool:
    return now_sec - entry.born_sec >= LIFETIME_SEC
