"""From the C core's record ring to the bus: the one module that takes records up.

Wakes on the session's eventfd, drains rendered batches and gives them to a sink. While the
bus is away one batch waits here and the rest in the core's ring, whose overflow the core
counts; capture is never held up. Full batches leave at once, small ones at most every
LINGER_SEC, so that a record is never older than that when it leaves.
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
# Turns of the event loop from a request's bytes to its reply's: were there a batch in each,
# a request would wait for as many. A turn in which nothing is asked costs microseconds.
REQUEST_TURNS = 8
_ENCODINGS: dict[Encoding, int] = {"json": JSON, "msgpack": MSGPACK, "ipfix": IPFIX}


class Sink(Protocol):
    """Where batches go. `lasting`: what it has taken outlives the bus and the agent."""

    lasting: bool

    @property
    def bytes_max(self) -> int: ...

    async def send(self, session_id: str, encoding: Encoding, batch: Batch) -> bool: ...

    def mark(self, session_id: str, stats: Stats) -> None: ...

    def unmark(self) -> None: ...

    async def barrier(self) -> bool: ...

    def state(self) -> SpoolState | None: ...


class Pump:
    """on_event is called on the event loop, in the core's order."""

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
        self._in_hand: Batch | None = None
        self._log = structlog.get_logger().bind(session_id=session_id)
        self.records_sent = 0
        self.records_unsent = 0
        self.packets_unsent = 0

    @property
    def spool(self) -> SpoolState | None:
        return self._sink.state()

    def start(self, tasks: asyncio.TaskGroup) -> None:
        self._task = tasks.create_task(self._run())

    async def _run(self) -> None:
        """Until `finish`."""
        loop = asyncio.get_running_loop()
        loop.add_reader(self._capture.event_fd, self._on_readable)
        ticker = asyncio.create_task(self._tick())
        try:
            self._waiting.set()  # what came before the reader was there
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
        """After the capture was stopped: hands over every record that is left. What the bus
        does not take in time is counted as unsent."""
        self._stopping.set()
        self._waiting.set()
        if self._task is not None:
            await asyncio.wait({self._task}, timeout=timeout_sec)
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self._take_events()
        self._give_up_rest()
        self._sink.unmark()
        if self.records_sent and not await self._sink.barrier():
            self._log.warning("the bus did not confirm the last records")

    def _on_readable(self) -> None:
        try:
            os.read(self._capture.event_fd, 8)
        except BlockingIOError:
            return
        self._take_events()
        self._waiting.set()

    async def _tick(self) -> None:
        # While a batch waits for the bus the ring is not empty, and events raise no edge.
        while True:
            self._sink.mark(self._session_id, self._capture.stats())
            await asyncio.sleep(TICK_SEC)
            self._take_events()

    def _take_events(self) -> None:
        while events := self._capture.events():
            for event in events:
                self._on_event(event)

    async def _drain(self) -> int:
        """Sends until the ring is empty; how many records."""
        taken = 0
        while batch := self._next_batch():
            self._in_hand = batch
            sent = await self._sink.send(self._session_id, self._encoding, batch)
            self._in_hand = None
            if sent:
                self.records_sent += batch.records
            else:
                self._give_up(batch)
            taken += batch.records
            for _ in range(REQUEST_TURNS):  # publishing never yields by itself
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

    def _give_up(self, batch: Batch) -> None:
        self.records_unsent += batch.records
        self.packets_unsent += batch.packets

    def _give_up_rest(self) -> None:
        if self._in_hand is not None:
            self._give_up(self._in_hand)
            self._in_hand = None
        while batch := self._next_batch():
            self._give_up(batch)
        if self.records_unsent:
            self._log.warning("records were not sent", records=self.records_unsent)
