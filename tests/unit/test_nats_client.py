"""The client keeps receiving after malformed messages that nats-server forwards."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from nats.aio.msg import Msg

from deadlines import TIMEOUT_SEC
from netsonde.bus.embedded import EmbeddedServer
from netsonde.bus.nats_client import GuardedClient, honour_cancellation


@pytest.fixture
async def server() -> AsyncIterator[EmbeddedServer]:
    async with EmbeddedServer() as server:
        yield server


def hpub(subject: bytes, reply: bytes, head: bytes) -> bytes:
    return b"HPUB %b %b %d %d\r\n%b{}\r\n" % (subject, reply, len(head), len(head) + 2, head)


def pub(subject: bytes, reply: bytes) -> bytes:
    return b"PUB %b %b 2\r\n{}\r\n" % (subject, reply)


async def send(server: EmbeddedServer, message: bytes) -> None:
    """Sends over the bare protocol; returns when the server has read the message."""
    port = int(server.url.rpartition(":")[2])
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b'CONNECT {"verbose":false,"headers":true}\r\n' + message + b"PING\r\n")
    heard = await reader.readuntil(b"PONG\r\n")
    assert b"-ERR" not in heard
    writer.close()


@pytest.mark.parametrize(
    ("message", "subject", "reply", "headers"),
    [
        (hpub(b"ask.x", b"r", b"NATS/1.0 \xff\xff\xff\r\n\r\n"), "ask.x", "r", None),
        (hpub(b"ask.x", b"r", b"NATS/1.0 200 \xff\r\nA: b\r\n\r\n"), "ask.x", "r", None),
        (hpub(b"ask.x", b"r", b"NATS/1.0"), "ask.x", "r", None),
        (hpub(b"ask.x", b"r", b"X"), "ask.x", "r", None),
        (pub(b"ask.\xff", b"r"), "ask.\ufffd", "r", None),
        (pub(b"ask.x", b"\xff"), "ask.x", "", None),
        (pub(b"ask.\x0bx", b"r"), "ask.\x0bx", "r", None),
        (pub(b"ask.x", b"r.\x0cx"), "ask.x", "r.\x0cx", None),
        (hpub(b"ask.x", b"\x1f", b"NATS/1.0\r\nA: \xff\r\n\r\n"), "ask.x", "\x1f", {"A": "\ufffd"}),
    ],
)
async def test_undecodable_message_is_received(
    server: EmbeddedServer, message: bytes, subject: str, reply: str, headers: dict[str, str] | None
) -> None:
    client, arrived, lost = GuardedClient(), asyncio.Queue[Msg](), list[str]()

    async def disconnected() -> None:
        lost.append("connection")

    await client.connect(server.url, disconnected_cb=disconnected)
    await client.subscribe("ask.>", cb=arrived.put)
    await client.flush()
    for sent in (message, pub(b"ask.again", b"r")):
        await send(server, sent)
    async with asyncio.timeout(TIMEOUT_SEC):
        first, again = await arrived.get(), await arrived.get()
    assert (first.subject, first.reply, first.headers) == (subject, reply, headers)
    assert (first.data, again.subject) == (b"{}", "ask.again")
    assert not lost
    await client.close()


async def test_a_swallowed_cancellation_is_raised_again() -> None:
    honour_cancellation()  # no cancellation yet
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.sleep(0)
    honour_cancellation(1)  # not a new one
    with pytest.raises(asyncio.CancelledError):
        honour_cancellation()
    task.uncancel()
