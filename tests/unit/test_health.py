"""The HTTP pages /metrics, /healthz and /readyz."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import Any, cast

import pytest

from deadlines import TIMEOUT_SEC, eventually
from netsonde.capture.session import Session
from netsonde.core.values import CollectorStats, InterfaceStats, Stats
from netsonde.daemon.health import HEARTBEAT_STALLED_SEC, Health, Heartbeat
from netsonde.wire.records import SpoolState

COLLECTOR = CollectorStats(
    address="fd00::9",
    port=4739,
    version=10,
    connected=True,
    messages_sent=3,
    bytes_sent=4000,
    templates_sent=4,
    records_sent=120,
    packets_sent=500,
    octets_sent=50_000,
    records_skipped_ipv6=0,
    records_lost_refused=6,
    records_lost_no_room=0,
    records_lost_error=2,
    packets_lost=31,
    octets_lost=4096,
    refusals=1,
    times_clamped=0,
    last_error="Connection refused",
)


INTERFACES = [
    InterfaceStats(
        name=name,
        slot=slot,
        ifindex=slot + 2,
        captured=slot == 0,
        link_up=slot == 0,
        packets_captured=100 + slot,
        bytes_captured=5000,
        packets_dropped=slot,
        packets_non_flow=7,
    )
    for slot, name in enumerate(("eth0", "eth1"))
]


class FakeExporting:
    def stats(self) -> list[CollectorStats]:
        return [COLLECTOR]


class FakeSession:
    """The part of a session that health reads."""

    id = "s"

    class Request:
        interface = "eth0"
        backend = "af_packet"

    class Pump:
        spool: SpoolState | None = None

    request = Request()
    exporting = FakeExporting()

    def __init__(self, stats: Stats) -> None:
        self.pump = self.Pump()
        self.now = stats
        self.capture = self

    def stats(self) -> Stats:
        return self.now

    def interface_stats(self) -> list[InterfaceStats]:
        return INTERFACES

    def counters(self, stats: Stats) -> dict[str, Any]:
        return {"packets_captured": stats.packets_captured, "packets_active": 3}


def session_of(stats: Stats) -> Session:
    return cast(Session, FakeSession(stats))


def health(
    session: Session | None = None, *, ready: bool = True, listen: str = "127.0.0.1:0"
) -> Health:
    return Health(listen, host="alpha", session=lambda: session, ready=lambda: ready)


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


def test_metrics_show_the_spool() -> None:
    fake = FakeSession(Stats())
    session = cast(Session, fake)
    assert "spool" not in health(session).answer(b"GET /metrics HTTP/1.1\r\n\r\n").decode()
    fake.pump.spool = SpoolState(
        bytes_used=1,
        bytes_max=2,
        records_waiting=3,
        records_lost=4,
        packets_lost=5,
        messages_in_flight=6,
        messages_acknowledged=7,
        messages_resent=8,
    )
    text = health(session).answer(b"GET /metrics HTTP/1.1\r\n\r\n").decode()
    assert "netsonde_spool_records_waiting 3.0" in text
    assert "netsonde_spool_records_lost_total 4.0" in text


def test_metrics_show_the_session_counters() -> None:
    session = session_of(Stats(packets_captured=42, flows_active=7))
    text = health(session).answer(b"GET /metrics HTTP/1.1\r\n\r\n").decode()
    labels = '{backend="af_packet",interface="eth0"}'
    assert f"netsonde_packets_captured_total{labels} 42.0" in text
    assert f"netsonde_packets_active{labels} 3.0" in text
    assert f"netsonde_flows_active{labels} 7.0" in text
    assert "netsonde_session_running 1.0" in text
    assert "# TYPE netsonde_packets_captured_total counter" in text


def test_metrics_show_each_collector() -> None:
    text = health(session_of(Stats())).answer(b"GET /metrics HTTP/1.1\r\n\r\n").decode()
    collector = 'collector="[fd00::9]:4739"'
    assert f'netsonde_export_connected{{{collector},version="10"}} 1.0' in text
    assert f'netsonde_export_collector_records_sent_total{{{collector},version="10"}} 120.0' in text
    assert f'netsonde_export_packets_lost_total{{{collector},version="10"}} 31.0' in text
    for cause, count in (("refused", 6), ("no_room", 0), ("error", 2)):
        labels = f'cause="{cause}",{collector},version="10"'
        assert f"netsonde_export_collector_records_lost_total{{{labels}}} {count}.0" in text


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


def test_interfaces_have_their_own_series() -> None:
    answer = health(session_of(Stats())).answer(b"GET /metrics HTTP/1.1\r\n\r\n").decode()
    for name, packets, dropped in (("eth0", 100, 0), ("eth1", 101, 1)):
        labels = f'{{backend="af_packet",interface="{name}"}}'
        assert f"netsonde_interface_packets_captured_total{labels} {packets}.0" in answer
        assert f"netsonde_interface_packets_dropped_total{labels} {dropped}.0" in answer
    assert 'netsonde_interface_link_up{backend="af_packet",interface="eth0"} 1.0' in answer
    assert 'netsonde_interface_link_up{backend="af_packet",interface="eth1"}' not in answer
