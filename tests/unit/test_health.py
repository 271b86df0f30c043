"""The HTTP pages /metrics, /healthz and /readyz."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import cast

import pytest

from deadlines import TIMEOUT_SEC, eventually
from netsonde.capture.session import Session
from netsonde.core.values import Stats
from netsonde.daemon.health import HEARTBEAT_STALLED_SEC, Health, Heartbeat
from netsonde.daemon.metrics.host import HostMetrics
from netsonde.daemon.metrics.registry import registry_of


class FakeSession:
    """The part of a session that the heartbeat reads."""

    id = "s"

    def __init__(self, stats: Stats) -> None:
        self.now = stats
        self.capture = self

    def stats(self) -> Stats:
        return self.now


def session_of(stats: Stats) -> Session:
    return cast(Session, FakeSession(stats))


def health(
    session: Session | None = None, *, ready: bool = True, listen: str = "127.0.0.1:0"
) -> Health:
    registry = registry_of([HostMetrics("alpha", dict)])
    return Health(listen, registry=registry, session=lambda: session, ready=lambda: ready)


@pytest.mark.parametrize(
    ("request_line", "status", "words"),
    [
        ("GET /metrics HTTP/1.1", "200", 'netsonde_build_info{host="alpha"'),
        ("GET /healthz HTTP/1.1", "200", "ok"),
        ("GET /readyz?x=1 HTTP/1.0", "200", "ready"),
        ("GET / HTTP/1.1", "404", "/metrics"),
        ("POST /metrics HTTP/1.1", "405", "GET"),
        ("nonsense", "405", "GET"),
    ],
)
def test_each_path_has_its_status(request_line: str, status: str, words: str) -> None:
    answer = health().answer(f"{request_line}\r\nHost: x\r\n\r\n".encode()).decode()
    assert answer.split()[1] == status
    head, _, body = answer.partition("\r\n\r\n")
    assert words in body
    assert f"Content-Length: {len(body)}" in head


def test_head_has_no_body() -> None:
    answer = health().answer(b"HEAD /healthz HTTP/1.1\r\n\r\n")
    assert answer.endswith(b"\r\n\r\n")
    assert b"Content-Length: 3" in answer


def test_readyz_is_503_when_not_ready() -> None:
    assert b"503" in health(ready=False).answer(b"GET /readyz HTTP/1.1\r\n\r\n")


def test_stalled_heartbeat_is_not_alive() -> None:
    fake = FakeSession(Stats(heartbeat=1))
    session = cast(Session, fake)
    heart = Heartbeat()
    assert heart.alive(session, 0.0)
    assert heart.alive(session, HEARTBEAT_STALLED_SEC - 0.1)
    assert not heart.alive(session, HEARTBEAT_STALLED_SEC)
    fake.now = Stats(heartbeat=2)
    assert heart.alive(session, HEARTBEAT_STALLED_SEC + 1)
    fake.now = Stats(heartbeat=2, finished=True)
    assert heart.alive(session, 100.0), "a finished replay counts as alive"
    assert heart.alive(None, 200.0)


async def test_serves_http_over_a_socket() -> None:
    served = health()
    task = asyncio.create_task(served.run())
    address = await eventually(lambda: served.address, "the port")
    host, _, port = address.rpartition(":")
    for _ in range(3):
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await reader.read()).startswith(b"HTTP/1.1 200 OK\r\n")
        writer.close()
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"x" * 100_000)  # a request head over the limit is rejected
    with contextlib.suppress(ConnectionResetError, BrokenPipeError):
        assert await asyncio.wait_for(reader.read(), TIMEOUT_SEC) == b""
    writer.close()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_taken_port_does_not_stop_the_agent() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        await asyncio.wait_for(health(listen=f"127.0.0.1:{port}").run(), TIMEOUT_SEC)
    for listen in ("", "a..b:80"):
        await asyncio.wait_for(health(listen=listen).run(), TIMEOUT_SEC)
