"""A reader that the network cuts off: nobody closes its connection.

nats-server, the agent and the captured loopback are in the `host` namespace. The reader is in
`peer` and reaches the server over the wire, which the test sets down.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from agents import Fleet
from bus import Bus
from netns import HOST_ADDRESS, PEER_DEVICE, Wire
from replay import check_conservation
from servers import NatsServer
from tapping import Follow, ended_taps, memory_kib, p99, status_times

PORT = 4999


@pytest.fixture
def nats_server(tmp_path: Path, wire: Wire) -> Iterator[NatsServer]:
    wire.address()
    server = NatsServer(tmp_path / "nats", address=HOST_ADDRESS).start()
    yield server
    server.kill()


async def test_a_reader_that_is_cut_off_harms_nobody(
    fleet: Fleet, bus: Bus, wire: Wire, nats_server: NatsServer, tmp_path: Path
) -> None:
    fleet.start(tap={"rate_kbps": 0})
    audits = await bus.events(kind="audit")
    await bus.ok("start", {"interface": "lo", "backend": "af_packet"})
    words = ("--filter", f"udp dst port {PORT}", "--snaplen", "0")
    live = Follow(nats_server, tmp_path, *words, prefix=wire.peer_prefix)
    try:
        await live.opened()
        before = await status_times(bus, 100)
        rss = memory_kib(nats_server.pid)
        wire.peer_ip("link", "set", PEER_DEVICE, "down")
        began = time.monotonic()
        during: list[float] = []
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sending:
            while not ended_taps(audits):
                assert time.monotonic() - began < 60
                for _ in range(200):
                    sending.sendto(bytes(1000), ("127.0.0.1", PORT))
                during += await status_times(bus, 5)
        took = time.monotonic() - began
        grown = memory_kib(nats_server.pid) - rss
    finally:
        live.process.kill()
        live.process.wait()
    print(
        f"status p99 {p99(before) * 1e3:.1f} ms before, {p99(during) * 1e3:.1f} ms during;"
        f" tap ended after {took:.1f} s; nats-server +{grown} KiB"
    )
    assert took < 10 + 3.5
    (data,) = ended_taps(audits)
    assert data["reason"] == "lease"
    assert data["packets_matched"] == data["packets_sent"] + data["packets_lost"]
    assert data["packets_lost"] > 0
    assert data["bytes_sent"] <= 2 << 20
    assert grown < 8 * 1024
    status = await bus.ok("status")
    check_conservation(status)
    assert status["packets_dropped"] == 0
