"""The event streams: lifecycle, capture, alarm, audit.

Events are queued and published in order while NATS is connected. The queue is bounded and
drops the oldest event, counted in `dropped`. An alarm of one name is sent once a minute at most.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from collections.abc import Callable
from typing import Any

import msgspec
import structlog

from ..bus.connection import PayloadTooLargeError
from ..bus.publisher import Publisher
from ..wire.events import Event, EventKind
from ..wire.instant import rfc3339

QUEUE_EVENTS_MAX = 1024
ALARM_INTERVAL_SEC = 60.0


class Events:
    def __init__(self, publisher: Publisher) -> None:
        self._publisher = publisher
        self.listener: Callable[[], None] | None = None  # called after each change of state
        self._queue: deque[Event] = deque()
        self._waiting = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._seq = 0
        self._alarmed: dict[str, float] = {}
        self._log = structlog.get_logger()
        self.counts: Counter[tuple[str, str]] = Counter()  # by kind and name
        self.alarm_times: dict[str, float] = {}  # last alarm of each name, since the epoch
        self.dropped = 0

    def emit(
        self,
        kind: EventKind,
        event: str,
        detail: str = "",
        *,
        session_id: str | None = None,
        time_ns: int | None = None,
        data: dict[str, Any] | None = None,
    ) -> None:
        """Never blocks and never fails."""
        if kind == "alarm" and not self._may_alarm(event):
            return
        self._seq += 1
        self.counts[kind, event] += 1
        if kind == "alarm":
            self.alarm_times[event] = time.time()
        made = Event(
            host=self._publisher.host,
            boot=self._publisher.boot,
            seq=self._seq,
            kind=kind,
            event=event,
            time=rfc3339(time_ns or time.time_ns()),
            detail=detail,
            session_id=session_id,
            data=data or {},
        )
        note = self._log.warning if kind == "alarm" else self._log.info
        # The host's own log keeps the audit trail too.
        extra = {"data": data} if kind == "audit" else {}
        note(f"{kind}: {event}", detail=detail, session_id=session_id, **extra)
        if len(self._queue) >= QUEUE_EVENTS_MAX:
            self._queue.popleft()
            self.dropped += 1
        self._queue.append(made)
        self._idle.clear()
        self._waiting.set()
        if self.listener is not None and kind != "audit":
            self.listener()

    async def run(self) -> None:
        """Publishes until cancelled."""
        while True:
            await self._waiting.wait()
            await self._publisher.wait_connected()
            while self._queue:
                event = self._queue[0]
                if not await self._publish(event):
                    await asyncio.sleep(0.1)
                    break
                if self._queue and self._queue[0] is event:  # emit may have dropped it
                    self._queue.popleft()
            else:
                self._waiting.clear()
                self._idle.set()

    async def _publish(self, event: Event) -> bool:
        """Returns False if the event must be retried."""
        payload = msgspec.json.encode(event)
        try:
            return await self._publisher.event(event.kind, payload, seq=event.seq)
        except PayloadTooLargeError as error:  # would block all later events
            self.dropped += 1
            self._log.warning(
                "dropped an event larger than max_payload",
                event_name=event.event,
                error=error.detail,
            )
            return True

    async def flushed(self, timeout_sec: float) -> bool:
        """Waits until the queue is empty. Returns False on timeout."""
        try:
            async with asyncio.timeout(timeout_sec):
                await self._idle.wait()
        except TimeoutError:
            return False
        return True

    def _may_alarm(self, event: str) -> bool:
        now = time.monotonic()
        if now - self._alarmed.get(event, -ALARM_INTERVAL_SEC) < ALARM_INTERVAL_SEC:
            return False
        self._alarmed[event] = now
        return True
