"""The pump: order, batches, losses while the bus is unreachable, and the end."""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import AsyncIterator
from typing import Any, cast

import pytest
import pytest_asyncio

from deadlines import TIMEOUT_SEC, eventually
from netsonde.capture.pump import Pump
from netsonde.core.capture import DRAIN_RECORDS_MAX, Capture
from netsonde.core.values import Batch, CoreEvent, Stats


class FakeCapture:
    """A record ring and an eventfd, without the core."""

    def __init__(self) -> None:
        self.event_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.ring: deque[Batch] = deque()
        self.told: deque[CoreEvent] = deque()

    def put(self, records: int, data: bytes = b"[]") -> None:
        if not self.ring:
            os.eventfd_write(self.event_fd, 1)
        self.ring.append(Batch(data, records, records * 10, 1, 2))

    def drain(self, *, encoding: int, bytes_max: int) -> Batch | None:
        return self.ring.popleft() if self.ring else None

    async def discard(self) -> Batch:
        records = sum(batch.records for batch in self.ring)
        self.ring.clear()
        return Batch(b"", records, records * 10, 1, 2)

    def stats(self) -> Stats:
        return Stats()

    def events(self) -> list[CoreEvent]:
        events = list(self.told)
        self.told.clear()
        return events


class FakeSink:
    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.open = asyncio.Event()
        self.open.set()
        self.accepts = True
        self.barriers = 0
        self.marks = 0
        self.sent_at_first_mark: int | None = None
        self.arrived = asyncio.Event()

    @property
    def bytes_max(self) -> int:
        return 1 << 20

    async def send(self, session_id: str, encoding: str, batch: Batch) -> bool:
        await self.open.wait()
        self.sent.append(bytes(batch.data))
        self.arrived.set()
        return self.accepts

    async def barrier(self) -> bool:
        self.barriers += 1
        return True

    def mark(self, session_id: str, stats: Stats) -> None:
        if self.sent_at_first_mark is None:
            self.sent_at_first_mark = len(self.sent)
        self.marks += 1

    def unmark(self) -> None:
        self.marks = 0


class Rig:
    def __init__(self, tasks: asyncio.TaskGroup) -> None:
        self.capture = FakeCapture()
        self.sink = FakeSink()
        self.events: list[CoreEvent] = []
        self.pump = Pump(
            cast(Capture, self.capture),
            cast(Any, self.sink),
            session_id="s",
            encoding="json",
            on_event=self.events.append,
        )
        self.pump.start(tasks)


@pytest_asyncio.fixture
async def rig() -> AsyncIterator[Rig]:
    async with asyncio.TaskGroup() as tasks:
        rig = Rig(tasks)
        await asyncio.sleep(0)
        yield rig
        await rig.pump.finish(0.2)
    os.close(rig.capture.event_fd)


async def test_record_is_sent_soon(rig: Rig) -> None:
    rig.capture.put(1, b"[1]")
    await eventually(rig.sink.arrived.is_set, "the record")
    assert rig.sink.sent == [b"[1]"]


async def test_sink_is_marked_before_the_first_batch() -> None:
    async with asyncio.TaskGroup() as tasks:
        rig = Rig(tasks)
        rig.capture.put(DRAIN_RECORDS_MAX)  # there when the pump first runs
        await eventually(rig.sink.arrived.is_set, "the record")
        assert rig.sink.sent_at_first_mark == 0
        await rig.pump.finish(TIMEOUT_SEC)
    os.close(rig.capture.event_fd)


async def test_batches_keep_their_order(rig: Rig) -> None:
    for number in range(50):
        rig.capture.put(DRAIN_RECORDS_MAX, b"[%d]" % number)
    await rig.pump.finish(TIMEOUT_SEC)
    assert rig.sink.sent == [b"[%d]" % number for number in range(50)]
    assert rig.pump.records_sent == 50 * DRAIN_RECORDS_MAX
    assert rig.sink.barriers == 1


async def test_finish_sends_records_that_arrive_last(rig: Rig) -> None:
    rig.capture.put(1, b"[1]")
    await eventually(rig.sink.arrived.is_set, "the record")
    rig.capture.put(2, b"[2]")  # while the pump lingers
    await rig.pump.finish(TIMEOUT_SEC)
    assert rig.sink.sent == [b"[1]", b"[2]"]


async def test_only_one_batch_leaves_the_ring_while_the_bus_blocks(rig: Rig) -> None:
    rig.sink.open.clear()
    for _ in range(5):
        rig.capture.put(3)
    await eventually(lambda: len(rig.capture.ring) < 5, "the first batch to be taken")
    for _ in range(10):
        await asyncio.sleep(0)
    assert len(rig.capture.ring) == 4
    assert rig.pump.records_sent == 0
    rig.sink.open.set()
    await rig.pump.finish(TIMEOUT_SEC)
    assert rig.pump.records_sent == 15


async def test_unsent_records_are_counted(rig: Rig) -> None:
    rig.sink.open.clear()
    for _ in range(5):
        rig.capture.put(3)
    await eventually(lambda: len(rig.capture.ring) < 5, "the first batch to be taken")
    await rig.pump.finish(0.05)
    assert rig.pump.records_sent == 0
    assert rig.pump.records_unsent == 15
    assert rig.pump.packets_unsent == 150
    assert not rig.capture.ring


async def test_rejected_batch_is_counted(rig: Rig) -> None:
    rig.sink.accepts = False
    rig.capture.put(4)
    await rig.pump.finish(TIMEOUT_SEC)
    assert (rig.pump.records_sent, rig.pump.records_unsent) == (0, 4)


async def test_events_arrive_while_the_bus_is_unreachable(rig: Rig) -> None:
    rig.sink.open.clear()
    rig.capture.put(1)
    await eventually(lambda: not rig.capture.ring, "the batch to be taken")
    rig.capture.told.append(CoreEvent(1, 2, 3, "x"))  # no wake-up: the ring was not empty
    await eventually(lambda: rig.events, "the event")
    assert rig.events[0].detail == "x"
    rig.sink.open.set()


@pytest.mark.parametrize("rounds", [200])
async def test_other_tasks_run_under_load(rig: Rig, rounds: int) -> None:
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(other())
    for _ in range(rounds):
        rig.capture.put(DRAIN_RECORDS_MAX)
    await rig.pump.finish(TIMEOUT_SEC)
    task.cancel()
    assert turns >= rounds
