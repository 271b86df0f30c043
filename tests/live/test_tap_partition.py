"""A reader that the network cuts off: nobody closes its connection.

nats-server, the agent and the captured loopback are in the `host` namespace. The reader is in
`peer` and reaches the server over the wire, which the test sets down.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from agents import Fleet
from bus import Bus
from netns import HOST_ADDRESS, PEER_DEVICE, Wire
from replay import check_conservation
from servers import MONITORED, NatsServer
from tapping import WINDOW, Follow, check_bus, ended_taps, until_ended

PORT = 4999


@pytest.fixture
def nats_server(tmp_path: Path, wire: Wire) -> Iterator[NatsServer]:
    wire.address()
    server = NatsServer(tmp_path / "nats", address=HOST_ADDRESS, config=MONITORED).start()
    yield server
    server.kill()


async def test_a_reader_that_is_cut_off_harms_nobody(
    fleet: Fleet, bus: Bus, wire: Wire, nats_server: NatsServer, control: Bus, tmp_path: Path
) -> None:
    fleet.start(tap={"rate_kbps": 0})
    audits = await bus.events(kind="audit")
    for one in (bus, control):
        await one.ok("start", {"interface": "lo", "backend": "af_packet"})
    words = ("--filter", f"udp dst port {PORT}", "--snaplen", "0")
    live = Follow(nats_server, tmp_path, *words, prefix=wire.peer_prefix)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sending:

        def offer() -> None:
            for _ in range(200):
                sending.sendto(bytes(1000), ("127.0.0.1", PORT))

        try:
            await live.opened()
            wire.peer_ip("link", "set", PEER_DEVICE, "down")
            stall = await until_ended(bus, control, nats_server, audits, offer)
        finally:
            live.process.kill()
            live.process.wait()
    stall.check()
    (data,) = ended_taps(audits)
    assert data["reason"] == "lease"
    check_bus(data, live, nats_server)
    assert data["bytes_sent"] > WINDOW - (64 << 10)
    for one in (bus, control):
        status = await one.ok("status")
        check_conservation(status)
        assert status["packets_dropped"] == 0
