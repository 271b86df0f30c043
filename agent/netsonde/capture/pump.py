"""Moves flow records from the C core's ring to a sink.

The pump wakes on the session's eventfd and drains rendered batches. While the bus is down one
batch waits here and the others in the ring, whose overflow the core counts; capture never
blocks. Full batches leave at once, small ones after LINGER_SEC at most.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import Protocol

import structlog

from ..core.capture import DRAIN_RECORDS_MAX, IPFIX, JSON, MSGPACK, Capture
from ..core.values import Batch, CoreEvent, Stats
from ..sinks.composer import Encoding
from ..wire.records import SpoolState

LINGER_SEC = 0.25
TICK_SEC = 1.0
# A request takes this many turns of the event loop from its bytes to its reply. The pump leaves
# them free after each batch, so that a request waits for one batch at most.
REQUEST_TURNS = 8
_ENCODINGS: dict[Encoding, int] = {"json": JSON, "msgpack": MSGPACK, "ipfix": IPFIX}


class Sink(Protocol):
    """Where batches go. `lasting`: batches it accepted survive an agent restart."""

    lasting: bool

    @property
    def bytes_max(self) -> int: ...

    async def send(self, session_id: str, encoding: Encoding, batch: Batch) -> bool: ...

    def mark(self, session_id: str, stats: Stats) -> None: ...

    def unmark(self) -> None: ...

    async def barrier(self) -> bool: ...

    def state(self) -> SpoolState | None: ...


class Pump:
    """on_event runs on the event loop, in the core's order."""

    def __init__(
        self,
        capture: Capture,
        sink: Sink,
        *,
        session_id: str,
        encoding: Encoding,
        on_event: Callable[[CoreEvent], None],
    ) -> None:
        self._capture = capture
        self._sink = sink
        self._session_id = session_id
        self._encoding = encoding
        self._on_event = on_event
        self._waiting = asyncio.Event()
        self._stopping = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._unsent: Batch | None = None
        self._abandoned = False
        self._log = structlog.get_logger().bind(session_id=session_id)
        self.records_sent = 0
        self.packets_sent = 0
        self.records_unsent = 0
        self.packets_unsent = 0

    @property
    def spool(self) -> SpoolState | None:
        return self._sink.state()

    def start(self, tasks: asyncio.TaskGroup) -> None:
        self._task = tasks.create_task(self._run())

    async def _run(self) -> None:
        """Runs until `finish`."""
        loop = asyncio.get_running_loop()
        loop.add_reader(self._capture.event_fd, self._on_readable)
        self._mark()  # before the first batch, which its totals must not hold
        ticker = asyncio.create_task(self._tick())
        try:
            self._waiting.set()  # records from before the reader was added
            while not self._stopping.is_set():
                await self._waiting.wait()
                self._waiting.clear()
                if 0 < await self._drain() < DRAIN_RECORDS_MAX:
                    await self._linger()
            await self._drain()
        finally:
            ticker.cancel()
            loop.remove_reader(self._capture.event_fd)
            await asyncio.gather(ticker, return_exceptions=True)

    async def finish(self, timeout_sec: float) -> None:
        """Sends the remaining records of a stopped capture. Records not sent in time are counted
        as unsent."""
        self._stopping.set()
        self._waiting.set()
        if self._task is not None:
            await asyncio.wait({self._task}, timeout=timeout_sec)
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self._take_events()
        await self._drop_rest()
        if self._abandoned:
            return  # the mark stays
        self._sink.unmark()
        if self.records_sent and not await self._sink.barrier():
            self._log.warning("the bus did not confirm the last records")

    def abandon(self) -> dict[str, int]:
        """Stops sending without waiting. Returns the records not sent, and the packets of these and
        of flows that have no record yet. The sink keeps a mark with the same figures."""
        stats = self._mark()
        self._abandoned = True
        self._stopping.set()
        if self._task is not None:
            self._task.cancel()
        records = stats.records - stats.records_dropped - self.records_sent
        packets = stats.packets_metered - stats.packets_records_dropped - self.packets_sent
        return {"records_lost": max(records, 0), "packets_lost": max(packets, 0)}

    def _on_readable(self) -> None:
        try:
            os.read(self._capture.event_fd, 8)
        except BlockingIOError:
            return
        self._take_events()
        self._waiting.set()

    async def _tick(self) -> None:
        # A ring that is not empty raises no edge, so events need polling while the bus is down.
        while True:
            await asyncio.sleep(TICK_SEC)
            self._mark()
            self._take_events()

    def _mark(self) -> Stats:
        stats = self._capture.stats()
        if not self._abandoned:
            self._sink.mark(self._session_id, stats)
        return stats

    def _take_events(self) -> None:
        while events := self._capture.events():
            for event in events:
                self._on_event(event)

    async def _drain(self) -> int:
        """Sends until the ring is empty. Returns the number of records taken."""
        taken = 0
        while batch := self._next_batch():
            self._unsent = batch
            sent = await self._sink.send(self._session_id, self._encoding, batch)
            self._unsent = None
            if sent:
                self.records_sent += batch.records
                self.packets_sent += batch.packets
            else:
                self._drop(batch)
            taken += batch.records
            for _ in range(REQUEST_TURNS):  # publishing does not yield
                await asyncio.sleep(0)
        return taken

    def _next_batch(self) -> Batch | None:
        return self._capture.drain(
            encoding=_ENCODINGS[self._encoding], bytes_max=self._sink.bytes_max
        )

    async def _linger(self) -> None:
        try:
            async with asyncio.timeout(LINGER_SEC):
                await self._stopping.wait()
        except TimeoutError:
            pass

    def _drop(self, batch: Batch) -> None:
        self.records_unsent += batch.records
        self.packets_unsent += batch.packets

    async def _drop_rest(self) -> None:
        if self._unsent is not None:
            self._drop(self._unsent)
            self._unsent = None
        while (rest := await self._capture.discard()).records:
            self._drop(rest)
        if self.records_unsent:
            self._log.warning("records were not sent", records=self.records_unsent)
