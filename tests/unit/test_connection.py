"""Connection survives servers that are late, killed, frozen, refusing or limited in size."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NoReturn

import nats
import pytest
import structlog
from nats.aio.client import Client
from nats.aio.msg import Msg

from bus import settled
from deadlines import TIMEOUT_SEC, eventually
from netsonde.bus import connection as connection_module
from netsonde.bus import nats_client
from netsonde.bus.connection import (
    Connection,
    PayloadTooLargeError,
    header_bytes,
    order_servers,
    until_tick,
)
from netsonde.bus.embedded import EmbeddedServer
from netsonde.bus.nats_client import DROPPED_BODY, LARGE_BYTES, GuardedClient, backoff_sec
from netsonde.config.sections import NatsSection
from netsonde.errors import UnreachableError
from netsonde.fleet.client import connect
from servers import free_port


@asynccontextmanager
async def running(
    url: str, prepare: Callable[[Connection], None] | None = None, **settings: Any
) -> AsyncIterator[Connection]:
    connection = Connection(NatsSection(servers=[url], **settings), host="alpha", purpose="test")
    if prepare is not None:
        prepare(connection)
    task = asyncio.create_task(connection.run())
    try:
        yield connection
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


class Received:
    """Collects the messages that a plain client receives on one subject."""

    def __init__(self) -> None:
        self.messages: list[Msg] = []

    async def keep(self, message: Msg) -> None:
        self.messages.append(message)

    async def wait_for(self, count: int) -> None:
        await eventually(lambda: len(self.messages) >= count, "the messages", interval_sec=0.01)


async def test_connects_when_the_server_starts_late() -> None:
    port = free_port()
    async with running(f"nats://127.0.0.1:{port}") as connection:
        await asyncio.sleep(0.2)
        assert not connection.connected
        assert await connection.publish("a", b"") is False
        assert await connection.barrier(0.1) is False
        async with EmbeddedServer(port=port):
            await asyncio.wait_for(connection.wait_connected(), TIMEOUT_SEC)
            assert await connection.publish("a", b"")


async def test_resubscribes_after_a_server_kill() -> None:
    heard = Received()
    notices: list[bool] = []

    def prepare(connection: Connection) -> None:
        connection.listen("ask", heard.keep)
        connection.notify(notices.append)

    server = EmbeddedServer(port=free_port())
    await server.start()
    try:
        async with running(server.url, prepare) as connection:
            await asyncio.wait_for(connection.wait_connected(), TIMEOUT_SEC)
            assert server.process is not None
            server.process.kill()
            await eventually(lambda: not connection.connected, "the loss to be noticed")
            await server.stop()
            await server.start()
            # Counted after the server has read the subscriptions.
            await eventually(lambda: connection.connects == 2, "the reconnection")
            client = await nats.connect(server.url)
            await client.publish("ask", b"again")
            await eventually(lambda: heard.messages, "the question")
            await client.close()
    finally:
        await server.stop()
    assert notices[:3] == [True, False, True]


async def test_client_without_a_reader_gets_a_successor(monkeypatch: pytest.MonkeyPatch) -> None:
    """nats-py's read loop ends at an error that it does not expect, and reports nothing."""
    monkeypatch.setattr(connection_module, "WATCH_INTERVAL_SEC", 0.1)
    monkeypatch.setattr(connection_module, "FROZEN_AFTER_SEC", 0.2)
    async with EmbeddedServer() as server, running(server.url) as connection:
        await connection.wait_connected()
        client = connection._client
        assert client is not None
        assert client._reading_task is not None
        client._reading_task.cancel()
        await eventually(
            lambda: connection.connected and connection._client is not client, "the successor"
        )
        monkeypatch.undo()  # a server that pauses for 0.3 s loses its clients no longer
        await eventually(connection.barrier, "a reply to the successor")
        assert connection._client is not client


async def test_frozen_server_is_dropped_while_publishing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_module, "WATCH_INTERVAL_SEC", 0.1)
    monkeypatch.setattr(connection_module, "FROZEN_AFTER_SEC", 0.5)
    frozen, spare = EmbeddedServer(), EmbeddedServer(port=free_port())
    async with frozen:
        settings = NatsSection(servers=[frozen.url, f"nats://127.0.0.1:{spare._port}"])
        connection = Connection(settings, host="alpha", purpose="test")
        task = asyncio.create_task(connection.run())
        try:
            await asyncio.wait_for(connection.wait_connected(), TIMEOUT_SEC)
            assert frozen.process is not None
            os.kill(frozen.process.pid, signal.SIGSTOP)
            flood = asyncio.create_task(publish_forever(connection))
            async with spare:
                spare_port = str(spare._port)
                await eventually(
                    lambda: connection.connected and connection.server.endswith(spare_port),
                    "the other server",
                )
                monkeypatch.undo()  # a pause of the other server does not end this connection
                await eventually(connection.barrier, "a reply of the other server")
                assert connection.server.endswith(spare_port)
            flood.cancel()
            await asyncio.gather(flood, return_exceptions=True)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def publish_forever(connection: Connection) -> None:
    while True:
        await connection.publish("a", b"x" * 100_000)
        await asyncio.sleep(0)


async def test_unwanted_bodies_are_dropped_and_the_others_arrive_whole() -> None:
    heard = Received()
    sizes = [10, 900_000, 200_000, 5, 1_000_000, 131_073, 300_000, 7]

    def listen(connection: Connection) -> None:
        connection.listen("a", heard.keep)
        connection.accepts = lambda subject, size: subject == "a" and size % 200_000 < 1000

    async with EmbeddedServer() as server, running(server.url, listen) as connection:
        await asyncio.wait_for(connection.wait_connected(), TIMEOUT_SEC)
        assert await connection.barrier(TIMEOUT_SEC)  # the server has read the subscription
        client = await nats.connect(server.url)
        for number in range(40):
            for size in sizes:
                headers = {"Number": str(number)} if number % 2 else None
                await client.publish("a", bytes([number]) * size, headers=headers)
            await client.flush(60)
            # The server would cut a connection that is 64 MiB behind.
            await heard.wait_for((number + 1) * len(sizes))
        await client.close()
        assert connection.connects == 1
    for place, message in enumerate(heard.messages):
        number, size = place // len(sizes), sizes[place % len(sizes)]
        assert (message.headers or {}).get("Number", "") == (str(number) if number % 2 else "")
        if size > LARGE_BYTES and size % 200_000 >= 1000:
            assert message.data is DROPPED_BODY
        else:
            assert message.data == bytes([number]) * size


async def test_oversized_message_does_not_affect_others() -> None:
    async with (
        EmbeddedServer(config="max_payload: 4096\n") as server,
        running(server.url) as connection,
    ):
        await asyncio.wait_for(connection.wait_connected(), TIMEOUT_SEC)
        assert connection.max_payload == 4096
        for payload, headers in ((b"x" * 4097, None), (b"x" * 4090, {"A": "b"})):
            with pytest.raises(PayloadTooLargeError):
                await connection.publish("a", payload, headers)
        assert await connection.publish("a", b"x" * (4096 - header_bytes({"A": "b"})), {"A": "b"})
        assert await connection.barrier(TIMEOUT_SEC)
        assert connection.connects == 1


async def test_closed_client_is_replaced() -> None:
    async with EmbeddedServer() as server, running(server.url) as connection:
        await asyncio.wait_for(connection.wait_connected(), TIMEOUT_SEC)
        assert connection._client is not None
        await connection._client.close()
        await eventually(
            lambda: connection.connected and connection.connects == 2, "another client"
        )
        assert await connection.barrier(TIMEOUT_SEC)


async def test_dead_reconnect_task_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_module, "WATCH_INTERVAL_SEC", 0.1)
    server = EmbeddedServer(port=free_port())
    async with server, running(server.url) as connection:
        await asyncio.wait_for(connection.wait_connected(), TIMEOUT_SEC)
        client = connection._client
        assert client is not None

        async def close_at_once() -> None:
            raise RuntimeError("unable to perform operation; the handler is closed")

        monkeypatch.setattr(client, "_process_connect_init", close_at_once)
        client.abort()
        await eventually(
            lambda: connection.connected and connection._client is not client, "another client"
        )
        assert await connection.barrier(TIMEOUT_SEC)


async def test_cancellation_works_although_nats_py_swallows_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with EmbeddedServer() as server, running(server.url) as connection:
        await asyncio.wait_for(connection.wait_connected(), TIMEOUT_SEC)
        flushing = asyncio.Event()

        async def swallow_cancellation(*arguments: object, **options: object) -> None:
            flushing.set()
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(60)

        monkeypatch.setattr(Client, "_flush_pending", swallow_cancellation)
        flood = asyncio.create_task(publish_forever(connection))
        await asyncio.wait_for(flushing.wait(), TIMEOUT_SEC)
        flood.cancel()
        await asyncio.wait({flood}, timeout=TIMEOUT_SEC / 2)
        assert flood.cancelled()
        monkeypatch.undo()


async def test_barrier_returns_after_published_messages_arrive() -> None:
    heard = Received()
    async with EmbeddedServer() as server, running(server.url) as connection:
        await asyncio.wait_for(connection.wait_connected(), TIMEOUT_SEC)
        client = await nats.connect(server.url)
        await client.subscribe("a", cb=heard.keep)
        await settled(client)
        for _ in range(500):
            assert await connection.publish("a", b"x" * 2000)
        assert await connection.barrier(TIMEOUT_SEC)
        await settled(client)
        await eventually(lambda: len(heard.messages) == 500, "all of them")
        await client.close()


async def test_cancelled_flush_does_not_break_the_barrier() -> None:
    async with EmbeddedServer() as server, running(server.url) as connection:
        await asyncio.wait_for(connection.wait_connected(), TIMEOUT_SEC)
        client = connection._client
        assert client is not None
        cancelled = asyncio.create_task(client.flush())
        while not client._pongs:  # noqa: ASYNC110 - nats-py has no event
            await asyncio.sleep(0)
        cancelled.cancel()
        assert await connection.barrier(TIMEOUT_SEC)
        assert cancelled.cancelled()


async def test_wrong_credentials_are_retried() -> None:
    port = free_port()
    config = "authorization {{ user: agent, password: {} }}\n"
    async with running(f"nats://agent:right@127.0.0.1:{port}") as connection:
        async with EmbeddedServer(port=port, config=config.format("other")):
            await asyncio.sleep(1.0)
            assert not connection.connected
        async with EmbeddedServer(port=port, config=config.format("right")):
            await asyncio.wait_for(connection.wait_connected(), TIMEOUT_SEC)
            assert connection.server == f"127.0.0.1:{port}"


async def test_token_in_the_url_is_used() -> None:
    async with EmbeddedServer(config="authorization { token: secret }\n") as server:
        url = server.url.replace("nats://", "nats://secret@")
        async with running(url) as connection:
            await asyncio.wait_for(connection.wait_connected(), TIMEOUT_SEC)


async def test_tls_url_sends_nothing_in_clear() -> None:
    async with (
        EmbeddedServer() as server,
        running(server.url.replace("nats://", "tls://agent:secret@")) as connection,
    ):
        await asyncio.sleep(1.0)
        assert not connection.connected


MALFORMED_GREETINGS = [b"x" * 200_000, b"INFO []\r\n", b"INFO " + b"[" * 100_000 + b"\r\n",
              b"INFO {}\r\n-ERR\r\n", b"INFO {}\r\n-ERR '\xff'\r\n"]  # fmt: skip


@pytest.mark.parametrize("greeting", MALFORMED_GREETINGS, ids=lambda greeting: str(greeting[:20]))
async def test_reconnects_after_a_foreign_server_on_the_port(greeting: bytes) -> None:
    port, greeted = free_port(), asyncio.Event()

    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(greeting)
        await reader.read(1)
        greeted.set()
        writer.close()

    stranger = await asyncio.start_server(greet, "127.0.0.1", port)
    address = NatsSection(servers=[f"nats://127.0.0.1:{port}"])
    with pytest.raises(UnreachableError):
        async with connect(address):
            pass
    greeted.clear()
    async with running(f"nats://127.0.0.1:{port}") as connection:
        await asyncio.wait_for(greeted.wait(), TIMEOUT_SEC)
        stranger.close()
        await stranger.wait_closed()
        async with EmbeddedServer(port=port):
            await asyncio.wait_for(connection.wait_connected(), TIMEOUT_SEC)


async def test_late_end_of_an_old_client_changes_nothing() -> None:
    notices: list[bool] = []
    async with (
        EmbeddedServer() as server,
        running(server.url, lambda connection: connection.notify(notices.append)) as connection,
    ):
        await asyncio.wait_for(connection.wait_connected(), TIMEOUT_SEC)
        old = connection._client
        assert old is not None
        old.ended.set()
        await eventually(lambda: connection.connects == 2, "another client")
        await old._close(Client.CLOSED)
        for callback in (old._disconnected_cb, old._reconnected_cb):
            assert callback is not None
            await callback()
        old.ended.set()
        assert await connection.barrier(TIMEOUT_SEC)
        assert connection.connected
        assert connection.connects == 2
        assert notices == [True, False, True]


def test_hosts_spread_over_the_servers() -> None:
    servers = [f"nats://n{number}" for number in range(4)]
    orders = [order_servers(servers, f"web{number}") for number in range(400)]
    assert all(sorted(order) == servers for order in orders)
    assert order_servers(servers, "web1") == orders[1]
    for place in range(4):
        firsts = [order[place] for order in orders]
        assert all(firsts.count(server) > 60 for server in servers)


def test_backoff_has_full_jitter_and_a_limit() -> None:
    for failures in (0, 1, 3, 7, 1000):
        most = min(0.5 * 2 ** min(failures, 20), 60.0)
        waits = [backoff_sec(failures) for _ in range(500)]
        assert 0 <= min(waits) < most / 8
        assert most * 7 / 8 < max(waits) <= most


@pytest.mark.parametrize(
    ("error", "longest"),
    [
        (TimeoutError(), 5),
        (OSError(errno.EHOSTUNREACH, "no route"), 5),
        (ConnectionRefusedError(), 11),
    ],
)
async def test_wait_stays_short_while_no_server_is_reached(
    monkeypatch: pytest.MonkeyPatch, error: OSError, longest: int
) -> None:
    waits: list[int] = []

    def note(failures: int) -> float:
        waits.append(failures)
        return 0.0

    async def fail(host: str, port: int) -> NoReturn:
        raise error

    monkeypatch.setattr(nats_client, "backoff_sec", note)
    client = GuardedClient()
    client.open_socket = fail
    connecting = asyncio.create_task(client.connect("nats://192.0.2.1:4222", connect_timeout=1))
    await eventually(lambda: len(waits) >= 12, "12 attempts")
    connecting.cancel()
    await asyncio.gather(connecting, return_exceptions=True)
    assert max(waits[:12]) == longest
    await client.shut()


async def test_each_host_connects_to_the_first_server_of_its_order() -> None:
    async with EmbeddedServer() as one, EmbeddedServer() as two, EmbeddedServer() as three:
        urls = [one.url, two.url, three.url]
        settings = NatsSection(servers=urls)
        hosts = [f"web{number}" for number in range(24)]
        connections = [Connection(settings, host=host, purpose="test") for host in hosts]
        tasks = [asyncio.create_task(connection.run()) for connection in connections]
        try:
            for connection, host in zip(connections, hosts, strict=True):
                await asyncio.wait_for(connection.wait_connected(), TIMEOUT_SEC)
                assert f"nats://{connection.server}" == order_servers(urls, host)[0]
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def test_waits_between_attempts_grow_to_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    limits: list[float] = []

    def draw(least: float, most: float) -> float:
        assert least == 0.0
        limits.append(most)
        return 0.0

    monkeypatch.setattr("netsonde.bus.nats_client.random.uniform", draw)
    async with running(f"nats://127.0.0.1:{free_port()}") as connection:
        await eventually(lambda: len(limits) > 10, "ten failed attempts")
        assert not connection.connected
    assert limits[:9] == [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0]


async def test_failed_attempts_are_reported() -> None:
    port = free_port()
    with structlog.testing.capture_logs() as logs:
        async with running(f"nats://user:secret@127.0.0.1:{port}") as connection:
            await eventually(lambda: connection._failures >= 2, "two failed attempts")
            assert f"{connection._failures} attempts failed" in connection.trouble
            assert f"127.0.0.1:{port}: " in connection.trouble
            assert "refused" in connection.trouble
            async with EmbeddedServer(port=port):
                await asyncio.wait_for(connection.wait_connected(), TIMEOUT_SEC)
                assert connection.trouble == ""
    failures = [log for log in logs if log["event"] == "connection failed"]
    assert len(failures) == 1, logs  # once a minute for one cause
    assert "refused" in failures[0]["error"]
    assert "secret" not in str(logs)


async def test_refused_credential_file_is_reported(tmp_path: Path) -> None:
    creds = tmp_path / "agent.creds"
    creds.touch()
    creds.chmod(0o644)
    async with running(f"nats://127.0.0.1:{free_port()}", creds=str(creds)) as connection:
        await eventually(lambda: "mode 0644" in connection.trouble, "the reason")


async def test_denied_subjects_are_counted() -> None:
    config = 'authorization { users = [{user: a, password: b, permissions: {publish: "ok.>"}}] }'
    heard: list[str] = []

    def prepare(connection: Connection) -> None:
        connection.on_denial(lambda error: heard.append(error.subject))

    async with (
        EmbeddedServer(config=config) as server,
        running(server.url.replace("//", "//a:b@"), prepare) as connection,
    ):
        await asyncio.wait_for(connection.wait_connected(), TIMEOUT_SEC)
        assert connection.authenticated
        for subject in ("No.Way", "ok.a", "No.Way", "x"):
            assert await connection.publish(subject, b"")
        assert await connection.barrier(TIMEOUT_SEC)
        assert heard == ["No.Way", "No.Way", "x"]
        assert connection.denied == {"No.Way": 2, "x": 1}
        assert connection.denials == 3
        assert connection.connects == 1


def test_header_bytes_match_the_wire() -> None:
    headers = {"Nats-Msg-Id": "a:b:1", "Detail": "ü"}
    wire = (
        b"NATS/1.0\r\n" + b"".join(f"{k}: {v}\r\n".encode() for k, v in headers.items()) + b"\r\n"
    )
    assert header_bytes(headers) == len(wire)
    assert header_bytes(None) == 0


def test_a_timer_that_fires_early_does_not_tick_twice() -> None:
    for early_sec in (0.0, 1e-6, 1e-4, 0.2):
        wait_sec = until_tick(3.0, 9.0 - early_sec)
        assert wait_sec == pytest.approx(3.0 + early_sec)
    assert until_tick(3.0, 7.5) == 1.5
