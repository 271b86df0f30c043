"""First replies by Request-Id, so that a retry gets the reply and is not executed again.

Bounded in time, entries and bytes. Replies to requests that change something are evicted last.
Time is an argument.
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
        self._entries: OrderedDict[str, _Entry] = OrderedDict()  # oldest first
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
        self._evict()

    def _expire(self, now_sec: float) -> None:
        while self._entries:
            request_id, entry = next(iter(self._entries.items()))
            if now_sec - entry.born_sec < LIFETIME_SEC or not entry.reply.done():
                return
            self._remove(request_id)

    def _evict(self) -> None:
        while len(self._entries) > ENTRIES_MAX or self._bytes > BYTES_MAX:
            done = [(i, e.changes) for i, e in self._entries.items() if e.reply.done()]
            if not done:
                return
            self._remove(next((i for i, changes in done if not changes), done[0][0]))

    def _remove(self, request_id: str) -> None:
        self._bytes -= self._entries.pop(request_id).size
