"""Events are sent in order, in a bounded queue, and alarms are rate limited."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import cast

import msgspec
import pytest
import pytest_asyncio

from deadlines import TIMEOUT_SEC, eventually
from netsonde.bus.connection import PayloadTooLargeError
from netsonde.bus.publisher import Publisher
from netsonde.service import events as events_module
from netsonde.service.events import Events
from netsonde.wire.events import Event


class FakePublisher:
    host = "alpha"
    boot = "b"

    def __init__(self) -> None:
        self.published: list[Event] = []
        self.up = asyncio.Event()
        self.up.set()

    async def wait_connected(self) -> None:
        await self.up.wait()

    async def event(self, kind: str, payload: bytes, *, seq: int) -> bool:
        if not self.up.is_set():
            return False
        if len(payload) > 4096:
            raise PayloadTooLargeError("too large")
        self.published.append(msgspec.json.decode(payload, type=Event))
        return True


@pytest_asyncio.fixture
async def publisher() -> FakePublisher:
    return FakePublisher()


@pytest_asyncio.fixture
async def events(publisher: FakePublisher) -> AsyncIterator[Events]:
    events = Events(cast(Publisher, publisher))
    task = asyncio.create_task(events.run())
    yield events
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_events_are_sent_in_order_and_complete(
    events: Events, publisher: FakePublisher
) -> None:
    events.emit("lifecycle", "started", "now", session_id="s", time_ns=1, data={"a": 1})
    events.emit("capture", "finished")
    assert await events.flushed(TIMEOUT_SEC)
    first, second = publisher.published
    assert (first.kind, first.event, first.detail, first.session_id) == (
        "lifecycle",
        "started",
        "now",
        "s",
    )
    assert first.time == "1970-01-01T00:00:00.000000001Z"
    assert first.data == {"a": 1}
    assert (first.seq, second.seq) == (1, 2)


async def test_events_are_queued_while_the_bus_is_unreachable(
    events: Events, publisher: FakePublisher
) -> None:
    publisher.up.clear()
    for number in range(events_module.QUEUE_EVENTS_MAX + 10):
        events.emit("audit", str(number))
    assert not await events.flushed(0.05)
    assert events.dropped == 10
    publisher.up.set()
    assert await events.flushed(TIMEOUT_SEC)
    names = [event.event for event in publisher.published]
    assert names == [str(n) for n in range(10, events_module.QUEUE_EVENTS_MAX + 10)]


async def test_oversized_event_does_not_block_others(
    events: Events, publisher: FakePublisher
) -> None:
    events.emit("audit", "stop", data={"request": "\0" * 4096})
    events.emit("capture", "finished")
    assert await events.flushed(TIMEOUT_SEC)
    assert [event.event for event in publisher.published] == ["finished"]
    assert events.dropped == 1


async def test_alarm_is_sent_at_most_once_a_minute(
    events: Events, publisher: FakePublisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(5):
        events.emit("alarm", "packets_dropped")
        events.emit("alarm", "clock_step")
    events.emit("audit", "start")
    events.emit("audit", "start")
    monkeypatch.setattr(events_module, "ALARM_INTERVAL_SEC", 0.0)
    events.emit("alarm", "packets_dropped")
    await eventually(lambda: len(publisher.published) >= 5, "the events")
    assert [event.event for event in publisher.published] == [
        "packets_dropped",
        "clock_step",
        "start",
        "start",
        "packets_dropped",
    ]


def test_empty_members_are_left_out() -> None:
    event = Event(host="a", boot="b", seq=1, kind="alarm", event="e", time="t")
    names = set(msgspec.to_builtins(event))
    assert names == {"host", "boot", "seq", "kind", "event", "time"}
