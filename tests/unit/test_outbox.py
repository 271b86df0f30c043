"""The outbox of replies: which replies wait for unsent bytes, and which are dropped and counted."""

from __future__ import annotations

import asyncio
import time
from typing import cast

import pytest
import structlog

from netsonde.bus.connection import Connection
from netsonde.service import outbox as outbox_module
from netsonde.service.outbox import SMALL_REPLY_MAX, SMALL_UNSENT_MAX, UNSENT_MAX, Outbox

SMALL, LARGE = b"x" * SMALL_REPLY_MAX, b"x" * (SMALL_REPLY_MAX + 1)


class SlowConnection:
    """A connection with as many unsent bytes as a test wants."""

    def __init__(self) -> None:
        self.unsent_bytes = 0
        self.accepts = True
        self.published: list[tuple[str, bytes, dict[str, str] | None]] = []

    async def publish(self, subject: str, payload: bytes, headers: dict[str, str] | None) -> bool:
        self.published.append((subject, payload, headers))
        return self.accepts


@pytest.fixture
def connection() -> SlowConnection:
    return SlowConnection()


@pytest.fixture
def outbox(connection: SlowConnection) -> Outbox:
    return Outbox(cast(Connection, connection))


@pytest.mark.parametrize(
    ("payload", "unsent_bytes", "sent"),
    [
        (SMALL, SMALL_UNSENT_MAX - 1, True),
        (SMALL, SMALL_UNSENT_MAX, False),
        (LARGE, UNSENT_MAX - 1, True),
        (LARGE, UNSENT_MAX, False),
    ],
)
async def test_reply_without_room_is_dropped_after_the_timeout(
    outbox: Outbox,
    connection: SlowConnection,
    monkeypatch: pytest.MonkeyPatch,
    payload: bytes,
    unsent_bytes: int,
    sent: bool,
) -> None:
    monkeypatch.setattr(outbox_module, "SEND_TIMEOUT_SEC", 0.02)
    connection.unsent_bytes = unsent_bytes
    await outbox.send("reply", payload, {})
    assert connection.published == ([("reply", payload, None)] if sent else [])
    assert outbox.dropped == (0 if sent else 1)


async def test_waiting_reply_is_sent_in_order_once_there_is_room(
    outbox: Outbox, connection: SlowConnection
) -> None:
    connection.unsent_bytes = UNSENT_MAX
    waiting = [
        asyncio.create_task(outbox.send(str(number), LARGE, {"Status": "200"}))
        for number in range(3)
    ]
    await asyncio.sleep(0)
    await outbox.send("small", SMALL, {})  # does not wait behind them
    assert [subject for subject, _, _ in connection.published] == ["small"]
    connection.unsent_bytes = 0
    await asyncio.gather(*waiting)
    assert [subject for subject, _, _ in connection.published] == ["small", "0", "1", "2"]
    assert connection.published[1][2] == {"Status": "200"}
    assert outbox.dropped == 0


async def test_drops_are_counted_and_logged_once_a_minute(
    outbox: Outbox, connection: SlowConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    connection.accepts = False
    with structlog.testing.capture_logs() as logs:
        outbox._log = structlog.get_logger()
        for moment in (1000.0, 1059.9, 1060.0, 1061.0):
            clock[0] = moment
            await outbox.send("reply", SMALL, {})
    assert outbox.dropped == 4
    assert [(log["reason"], log["dropped"]) for log in logs] == [
        ("cannot publish", 1), ("cannot publish", 3),
    ]  # fmt: skip
