"""The collector's loop: fetch, skip duplicates, write, then ack.

A commit writes the data to disk, then the state that describes them, then sends the acks.
Memory holds at most COMMIT_BYTES plus one fetch, so a slow disk slows down the stream.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

from nats.aio.msg import Msg

from .batches import UnreadableError, WrongHostError, read_batch
from .dead_letters import DeadLetters
from .files import Files
from .source import Source
from .state import State, StateFile

COMMIT_BYTES = 16 << 20
COMMIT_SEC = 1.0
NOTICES_MAX = 20  # dead letters that are reported one by one

Notify = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Rotation:
    bytes_max: int
    age_max_sec: float


class Collector:
    """Writes batches from a source to files. state_file and dead_letters: None for standard
    output."""

    def __init__(
        self,
        files: Files,
        state_file: StateFile | None,
        state: State,
        *,
        rotation: Rotation,
        notify: Notify,
        dead_letters: DeadLetters | None = None,
    ) -> None:
        self.files = files
        self._dead_letters = dead_letters or DeadLetters(None)
        self.state = state
        self._state_file = state_file
        self._rotation = rotation
        self._notify = notify
        self._held: list[Msg] = []
        self._held_bytes = 0
        self._noticed = 0
        self._unwritten = False  # the state is ahead of the disk
        self._committed_sec = time.monotonic()
        self.stopping = asyncio.Event()

    async def run(self, source: Source, *, idle_sec: float | None = None) -> None:
        """Runs until `stopping` is set, or the source was idle for idle_sec and has nothing left.
        Can be called again with a new source after an error: unacked messages are delivered
        again."""
        self._held.clear()
        self._held_bytes = 0
        await source.open()
        heard_sec = self._committed_sec = time.monotonic()
        next_fetch = asyncio.ensure_future(source.fetch())
        try:
            while not self.stopping.is_set():
                messages = await next_fetch
                next_fetch = asyncio.ensure_future(source.fetch())  # runs during the write
                await asyncio.sleep(0)  # sends its request
                for message in messages:
                    self.add(message)
                now = time.monotonic()
                if messages:
                    heard_sec = now
                if not messages or self._must_commit(source, now):
                    await self.commit(source)
                if messages or idle_sec is None or now - heard_sec < idle_sec:
                    continue
                if await source.drained():
                    return
            await self.commit(source)
        finally:
            # Messages of this fetch are not acked, so they are delivered again.
            next_fetch.cancel()
            await asyncio.gather(next_fetch, return_exceptions=True)

    def _must_commit(self, source: Source, now: float) -> bool:
        """A full window stops the server, so half of it is acked while it sends the rest."""
        return (
            now - self._committed_sec >= COMMIT_SEC
            or self._held_bytes >= COMMIT_BYTES
            or len(self._held) >= source.window // 2
        )

    def add(self, message: Msg) -> None:
        self._unwritten = True
        self._held.append(message)
        self._held_bytes += len(message.data)
        totals, ledger = self.state.totals, self.state.ledger
        try:
            batch = read_batch(message.subject, message.data, message.headers)
            if ledger.knows(batch.host, batch.boot, batch.seq):
                totals.repeated += 1
                return
            records, packets, size = self.files.add(batch)
        except UnreadableError as error:
            self._set_aside(message, error)
            return
        ledger.note(batch.host, batch.boot, batch.seq)
        totals.batches += 1
        totals.records += records
        totals.packets += packets
        totals.bytes += size

    def _set_aside(self, message: Msg, error: UnreadableError) -> None:
        totals = self.state.totals
        totals.dead_letters += 1
        totals.unreadable += not isinstance(error, WrongHostError)
        self._dead_letters.add(message, error.detail)
        self._noticed += 1
        if self._noticed <= NOTICES_MAX:
            self._notify(f"{message.subject}: {error.detail}")
        if self._noticed == NOTICES_MAX:
            self._notify("more dead letters are only counted")

    async def commit(self, source: Source) -> None:
        held, self._held = self._held, []
        self._held_bytes = 0
        self._committed_sec = time.monotonic()
        await self._write_pending()
        if held:
            await source.acknowledge(held)
        if self.state.closing:
            await asyncio.to_thread(self.files.poll, self.state)
        if self._is_due():
            await self.rotate()

    async def _write_pending(self) -> None:
        """Writes data and state. Also retries after a failed write, when no message is held: the
        state must not be ahead of the files."""
        if self._unwritten:
            await asyncio.to_thread(self._write)
            self._unwritten = False

    def _write(self) -> None:
        self.files.commit(self.state)
        self._dead_letters.commit(self.state)
        if self._state_file is not None:
            self._state_file.save(self.state)

    def _is_due(self) -> bool:
        file = self.state.file
        if file is None:
            return False
        age_sec = time.time() - file.since
        # A negative age: the clock was set back, so the real age is unknown.
        is_old = not 0 <= age_sec < self._rotation.age_max_sec
        return is_old or file.bytes >= self._rotation.bytes_max

    async def rotate(self) -> None:
        """Completes the current file. Everything must be committed."""
        if self.state.file is not None:
            self._unwritten = True
            await asyncio.to_thread(self.files.rotate, self.state)
            await self._write_pending()

    async def finish(self) -> None:
        """Completes the last file. Returns when every file has its final name."""
        await self._write_pending()
        await self.rotate()
        if self.state.closing:
            self._unwritten = True
            await asyncio.to_thread(self.files.drain, self.state)
            await self._write_pending()
