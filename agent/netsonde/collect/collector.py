"""The collector's loop: fetch, tell what is new, write, and only then acknowledge.

A commit is one turn: the data to the disk, then the state that speaks of them, then the
acknowledgements. Between commits at most COMMIT_BYTES wait in memory, and no more than one fetch
beside them, so a slow disk slows the stream down and not the memory up.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

from nats.aio.msg import Msg

from .batches import UnreadableError, read_batch
from .files import Files
from .source import Source
from .state import State, StateFile

COMMIT_BYTES = 16 << 20
COMMIT_SEC = 1.0

Notify = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Rotation:
    bytes_max: int
    age_max_sec: float


class Collector:
    """state_file: None where nothing is kept."""

    def __init__(
        self,
        files: Files,
        state_file: StateFile | None,
        state: State,
        *,
        rotation: Rotation,
        notify: Notify,
    ) -> None:
        self.files = files
        self.state = state
        self._state_file = state_file
        self._rotation = rotation
        self._notify = notify
        self._held: list[Msg] = []
        self._held_bytes = 0
        self._unwritten = False  # the state speaks of what is not on disk yet
        self._committed_sec = time.monotonic()
        self.stopping = asyncio.Event()

    async def run(self, source: Source, *, idle_sec: float | None = None) -> None:
        """Until `stopping` is set, or nothing has come for idle_sec. May be called again with
        another source after this one failed: what it held is delivered again."""
        self._held.clear()
        self._held_bytes = 0
        await source.open()
        heard_sec = time.monotonic()
        fetching = asyncio.ensure_future(source.fetch())
        try:
            while not self.stopping.is_set():
                messages = await fetching
                fetching = asyncio.ensure_future(source.fetch())  # comes while these are written
                for message in messages:
                    self.take(message)
                now = time.monotonic()
                if messages:
                    heard_sec = now
                due = now - self._committed_sec >= COMMIT_SEC or self._held_bytes >= COMMIT_BYTES
                if due or not messages:
                    await self.commit(source)
                if not messages and idle_sec is not None and now - heard_sec >= idle_sec:
                    return
            await self.commit(source)
        finally:
            # What it has in hand was not acknowledged, so it comes again.
            fetching.cancel()
            await asyncio.gather(fetching, return_exceptions=True)

    def take(self, message: Msg) -> None:
        self._unwritten = True
        self._held.append(message)
        self._held_bytes += len(message.data)
        totals = self.state.totals
        try:
            batch = read_batch(message.data, message.headers)
            if not self.state.ledger.note(batch.host, batch.boot, batch.seq):
                totals.repeated += 1
                return
            records, packets, size = self.files.add(batch)
        except UnreadableError as error:
            totals.unreadable += 1
            self._notify(f"{message.subject}: {error.detail}")
            return
        totals.batches += 1
        totals.records += records
        totals.packets += packets
        totals.bytes += size

    async def commit(self, source: Source) -> None:
        held, self._held = self._held, []
        self._held_bytes = 0
        self._committed_sec = time.monotonic()
        await self._settle()
        if held:
            await source.acknowledge(held)
        if self.state.closing:
            await asyncio.to_thread(self.files.tend, self.state)
        if self._is_due():
            await self.rotate()

    async def _settle(self) -> None:
        """What failed before is tried again, too: that no message waits for it is no reason to
        let the state say more than the files hold."""
        if self._unwritten:
            await asyncio.to_thread(self._write)
            self._unwritten = False

    def _write(self) -> None:
        self.files.commit(self.state)
        if self._state_file is not None:
            self._state_file.save(self.state)

    def _is_due(self) -> bool:
        file = self.state.file
        if file is None:
            return False
        age_sec = time.time() - file.since
        # Begun in the future: the clock was set back, and nobody knows how old the file is.
        is_old = not 0 <= age_sec < self._rotation.age_max_sec
        return is_old or file.bytes >= self._rotation.bytes_max

    async def rotate(self) -> None:
        """Completes the file, if there is one; nothing may be uncommitted."""
        if self.state.file is not None:
            self._unwritten = True
            await asyncio.to_thread(self.files.rotate, self.state)
            await self._settle()

    async def finish(self) -> None:
        """The last file is complete, and each has its name."""
        await self._settle()
        await self.rotate()
        if self.state.closing:
            self._unwritten = True
            await asyncio.to_thread(self.files.settle, self.state)
            await self._settle()
