"""The adapter to nats-py against each quirk of nats-py 2.16 that it works around.

A scripted peer takes the first connections. Then a real nats-server starts on the same port, and
the agent's connection must reach it.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from importlib.metadata import version

import pytest
from nats.aio.client import DEFAULT_BUFFER_SIZE
from nats.aio.msg import Msg

from deadlines import TIMEOUT_SEC, eventually
from netsonde.bus import nats_client, nats_transport
from netsonde.bus.connection import Connection
from netsonde.bus.embedded import EmbeddedServer
from netsonde.bus.nats_client import GuardedClient, PermissionDeniedError, read_denial
from netsonde.config.sections import NatsSection
from netsonde.errors import UnreachableError
from netsonde.fleet.client import connect
from servers import free_port

INFO = b'INFO {"server_id":"x","version":"2.11.0","max_payload":1048576,"headers":true'
Script = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Peer:
    """Plays `script` on each connection and counts them."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.port = free_port()
        self.visits = 0
        self.ended = 0

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[Peer]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        try:
            yield self
        finally:
            server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.visits += 1
        try:
            await self.script(reader, writer)
        except OSError:
            pass
        finally:
            self.ended += 1
            writer.close()


@pytest.fixture(autouse=True)
def short_backoff(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nats_client, "BACKOFF_SEC_MAX", 0.1)
    monkeypatch.setattr("netsonde.bus.connection.CONNECT_TIMEOUT_SEC", 1)


@asynccontextmanager
async def agent_of(port: int) -> AsyncIterator[Connection]:
    section = NatsSection(servers=[f"nats://127.0.0.1:{port}"])
    connection = Connection(section, host="alpha", purpose="test")
    task = asyncio.create_task(connection.run())
    try:
        yield connection
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert not connection.connected


async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """The greeting of a nats-server, up to the first PONG."""
    writer.write(INFO + b"}\r\n")
    await reader.readuntil(b"PING\r\n")
    writer.write(b"PONG\r\n")


async def hang_up_in_handshake(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(INFO + b',"tls_required":true}\r\n')
    await reader.read(64)


async def garble_handshake(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await hang_up_in_handshake(reader, writer)
    writer.write(b"plain text instead of TLS" * 100)
    await reader.read()


async def freeze_in_handshake(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await hang_up_in_handshake(reader, writer)
    await reader.read()


async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()


async def never_answer_ping(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(INFO + b"}\r\n")
    await reader.read()
    await reader.read()


BROKEN = [
    hang_up_in_handshake,
    garble_handshake,
    freeze_in_handshake,
    say_nothing,
    never_answer_ping,
]


@pytest.mark.parametrize("script", BROKEN, ids=lambda script: str(script.__name__))
async def test_first_connect_survives_a_broken_peer(script: Script) -> None:
    peer = Peer(script)
    async with agent_of(peer.port) as connection:
        async with peer.listening():
            await eventually(lambda: peer.visits >= 2, "a second attempt")
            await eventually(lambda: "attempts failed" in connection.trouble, "the report")
        async with EmbeddedServer(port=peer.port):
            await asyncio.wait_for(connection.wait_connected(), TIMEOUT_SEC)
            assert await connection.barrier(TIMEOUT_SEC)


@pytest.mark.parametrize("script", BROKEN, ids=lambda script: str(script.__name__))
async def test_command_ends_at_a_broken_peer(script: Script) -> None:
    peer = Peer(script)
    async with peer.listening():
        opening = connect(NatsSection(servers=[f"nats://127.0.0.1:{peer.port}"]))
        with pytest.raises(UnreachableError) as caught:
            await asyncio.wait_for(opening.__aenter__(), TIMEOUT_SEC)
    assert f"nats://127.0.0.1:{peer.port}: " in caught.value.detail
    assert not caught.value.detail.endswith(": .")


@pytest.mark.parametrize("script", BROKEN, ids=lambda script: str(script.__name__))
async def test_reconnect_survives_a_broken_peer(script: Script) -> None:
    """The server is replaced by a broken peer and comes back, for example without TLS."""
    peer = Peer(script)
    async with agent_of(peer.port) as connection:
        async with EmbeddedServer(port=peer.port):
            await asyncio.wait_for(connection.wait_connected(), TIMEOUT_SEC)
        async with peer.listening():
            await eventually(lambda: peer.visits >= 2, "a second attempt")
        async with EmbeddedServer(port=peer.port):
            await asyncio.wait_for(connection.wait_connected(), TIMEOUT_SEC)
            assert await connection.barrier(TIMEOUT_SEC)


BAD_LINES = {
    "error in binary": b"-ERR '\xff\xfe'\r\n",
    "error without text": b"-ERR\r\n",
    "endless line": b"x" * (nats_client.LINE_BYTES_MAX + (1 << 20)),
    "unknown line": b"HELLO there\r\n",
    "message of 2 EB": b"MSG a 1 2305843009213693952\r\n",
    "negative message": b"MSG a 1 -5\r\n",
    "header beyond the message": b"HMSG a 1 12 2\r\nNATS/1.0\r\n\r\n",
    "malformed sid": b"MSG a \xff 2\r\n{}\r\n",
    "INFO with an array": b"INFO []\r\n",
    "deeply nested INFO": b"INFO " + b"[" * 100_000 + b"\r\n",
}


@pytest.mark.parametrize("line", BAD_LINES.values(), ids=BAD_LINES.keys())
async def test_bad_line_costs_one_reconnect(line: bytes) -> None:
    held: list[int] = []

    async def misbehave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await accept(reader, writer)
        writer.write(line)
        await reader.read()

    peer = Peer(misbehave)
    async with agent_of(peer.port) as connection:
        async with peer.listening():
            await eventually(lambda: peer.visits >= 1, "the first connection")
            began = time.monotonic()
            while peer.ended == 0:
                if connection._opening is not None:
                    held.append(len(connection._opening._ps.buf))
                await asyncio.sleep(0.001)
                assert time.monotonic() - began < 10, "the broken connection stayed"
        async with EmbeddedServer(port=peer.port):
            await asyncio.wait_for(connection.wait_connected(), TIMEOUT_SEC)
            assert await connection.barrier(TIMEOUT_SEC)
    assert max(held, default=0) <= nats_client.LINE_BYTES_MAX + (64 << 10)


async def test_info_before_the_first_pong_is_skipped() -> None:
    async def greet_twice(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(INFO + b"}\r\n")
        await reader.readuntil(b"PING\r\n")
        writer.write(INFO + b',"connect_info":true}\r\n+OK\r\nPONG\r\n')
        await reader.read()

    async with Peer(greet_twice).listening() as peer, agent_of(peer.port) as connection:
        await asyncio.wait_for(connection.wait_connected(), TIMEOUT_SEC)


async def test_server_that_reads_nothing_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nats_transport, "DRAIN_SEC", 0.5)

    async def stop_reading(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await accept(reader, writer)
        await asyncio.sleep(TIMEOUT_SEC)

    async with Peer(stop_reading).listening() as peer, agent_of(peer.port) as connection:
        await asyncio.wait_for(connection.wait_connected(), TIMEOUT_SEC)
        began = time.monotonic()
        while peer.visits == 1:
            await connection.publish("a", b"x" * 500_000)
            await asyncio.sleep(0)
            assert time.monotonic() - began < TIMEOUT_SEC


async def test_cancellation_during_a_failing_connect_is_not_lost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """wait_for of Python 3.11 swallows a cancellation that comes together with the refusal."""
    monkeypatch.setattr(nats_client, "BACKOFF_SEC_MAX", 0.0)
    section = NatsSection(servers=[f"nats://127.0.0.1:{free_port()}"])
    for number in range(100):
        connection = Connection(section, host="alpha", purpose="test")
        task = asyncio.create_task(connection.run())
        await asyncio.sleep(number / 20_000)
        task.cancel()
        done, _ = await asyncio.wait({task}, timeout=TIMEOUT_SEC)
        assert done, f"attempt {number}"
        assert task.cancelled()


async def test_messages_of_each_size_arrive_unchanged() -> None:
    sizes = [0, 1, DEFAULT_BUFFER_SIZE - 1, DEFAULT_BUFFER_SIZE + 1, 900_000] * 3
    sent = [random.Random(number).randbytes(size) for number, size in enumerate(sizes)]
    heard: list[bytes] = []

    async def keep(message: Msg) -> None:
        assert message.headers == {"Number": str(len(heard))}
        heard.append(message.data)

    async with EmbeddedServer() as server, connect(NatsSection(servers=[server.url])) as client:
        bus = client.connection
        await bus.subscribe("a", cb=keep)
        for number, payload in enumerate(sent):
            await bus.publish("a", payload, headers={"Number": str(number)})
        await eventually(lambda: len(heard) == len(sent), "every message")
    assert heard == sent


async def test_escaped_password_in_a_url_is_decoded() -> None:
    config = 'authorization { user: "ag@nt", password: "p/a:%41" }'
    async with (
        EmbeddedServer(config=config) as server,
        connect(
            NatsSection(servers=[server.url.replace("//", "//ag%40nt:p%2Fa%3A%2541@")])
        ) as client,
    ):
        assert isinstance(client.connection, GuardedClient)
        assert client.connection.authenticated


async def test_ipv6_server_is_shown_with_brackets() -> None:
    port = free_port("::1")
    address = NatsSection(servers=[f"nats://u:secret@[::1]:{port}"])
    with pytest.raises(UnreachableError) as caught:
        async with connect(address):
            pass
    assert f"at nats://[::1]:{port}: " in caught.value.detail
    assert "secret" not in caught.value.detail
    connection = Connection(address, host="alpha", purpose="test")
    task = asyncio.create_task(connection.run())
    await eventually(lambda: f"with: [::1]:{port}: " in connection.trouble, "the failed attempt")
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


@pytest.mark.parametrize(
    ("text", "kind", "subject"),
    [
        ("'Permissions Violation for Publish to \"a.B\"'", "publish", "a.B"),
        ("'Permissions Violation for Publish with Reply of \"r\"'", "publish", "r"),
        (
            '\'Permissions Violation for Subscription to "a.>" using queue "q"\'',
            "subscribe",
            "a.>",
        ),
        ("'Permissions Violation for Publish to \"a\\x1b\"'", "publish", "a\\x1b"),
    ],
)
def test_denials_are_read(text: str, kind: str, subject: str) -> None:
    denial = read_denial(text)
    assert denial is not None
    assert (denial.kind, denial.subject) == (kind, subject)


async def test_watcher_gets_denials_while_it_watches() -> None:
    config = 'authorization { users = [{user: a, password: b, permissions: {publish: "ok"}}] }'
    heard: list[PermissionDeniedError] = []
    async with (
        EmbeddedServer(config=config) as server,
        connect(NatsSection(servers=[server.url.replace("//", "//a:b@")])) as client,
    ):
        bus = client.connection
        with bus.denials.watch(heard.append):
            await bus.publish("No.Way", b"")
            await bus.publish("ok", b"")
            await bus.flush(TIMEOUT_SEC)
        await bus.publish("later", b"")
        await bus.flush(TIMEOUT_SEC)
        assert [(error.kind, error.subject) for error in heard] == [("publish", "No.Way")]
        assert bus.denials.count == 2
        assert [error.subject for error in bus.denials.recent] == ["No.Way", "later"]


def test_other_errors_are_no_denials() -> None:
    assert read_denial("'Authorization Violation'") is None


def test_adapter_is_tested_with_the_pinned_version() -> None:
    assert version("nats-py").startswith("2.16.")


async def test_nothing_follows_the_last_ping_of_a_client_that_moves() -> None:
    """A socket that closes with unread bytes in it may lose those on their way to the server."""
    streams: list[bytearray] = []

    async def keep(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        streams.append(stream := bytearray())
        writer.write(INFO + b"}\r\n")
        while line := await reader.readline():
            stream += line
            if line == b"PING\r\n":
                writer.write(b"PONG\r\n")

    sent: list[bytes] = []

    async def publish_until(moved: asyncio.Task[None]) -> None:
        while not moved.done() or len(sent) < 100:
            text = b"message %d." % len(sent)
            if await connection.publish("records", text):
                sent.append(text)
            await asyncio.sleep(0)

    peer = Peer(keep)
    async with peer.listening(), agent_of(peer.port) as connection:
        await connection.wait_connected()
        assert connection._client is not None
        moved = asyncio.create_task(connection._client.move_to(f"127.0.0.1:{peer.port}"))
        await publish_until(moved)
        await eventually(lambda: connection.connects == 2, "the second connection")
        assert await connection.barrier()
    assert streams[0].endswith(b"PING\r\n")
    for text in sent:
        assert sum(stream.count(text) for stream in streams) == 1
