"""The interface goes down, comes up, is deleted and comes back, while packets arrive.

The bus tells of each; the capture resumes by itself; what is counted stays right. And an
agent that is killed leaves the interface as it found it.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import capturing
from agents import Fleet
from bus import Bus, Collector, Events
from deadlines import eventually, eventually_now
from netns import HOST_DEVICE, PEER_DEVICE, Wire, entered
from packets import UDP, ethernet, ipv4, udp
from replay import check_lives, records_of

FRAME = ethernet(ipv4(udp(bytes(50), 1000, 53), UDP, "10.0.0.1", "10.1.0.1"))
LIVE = ["af_packet", "pcap", "dpdk", "pf_ring"]


@contextlib.contextmanager
def storm(wire: Wire) -> Iterator[None]:
    """Packets as fast as a thread can send them, whatever the wire says to it."""
    stop = threading.Event()
    sender = wire.sender()

    def blow() -> None:
        while not stop.is_set():
            try:
                sender.socket.send(FRAME)
            except OSError:
                stop.wait(0.001)  # down, gone, or full

    thread = threading.Thread(target=blow)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        sender.close()


async def heard(events: Events, name: str) -> None:
    await eventually(
        lambda: name in [event["event"] for event in events.all()],
        f"the event {name}; so far {[event['event'] for event in events.all()]}",
    )


async def grows(bus: Bus) -> None:
    before = (await bus.ok("status"))["packets_captured"]

    async def ask() -> bool:
        return bool((await bus.ok("status"))["packets_captured"] > before)

    await eventually(ask, "the capture to go on")


async def counts_exactly(bus: Bus, wire: Wire, frames: int = 1000) -> None:
    """With the wire silent but for us: so many sent, so many captured."""
    before = await capturing.at_rest(bus)
    sender = wire.sender()
    sender.send([FRAME] * frames)
    sender.close()
    await capturing.settled(bus, before["packets_captured"] + before["packets_dropped"] + frames)


@pytest.mark.parametrize("backend", LIVE)
async def test_down_and_up_under_load(fleet: Fleet, bus: Bus, wire: Wire, backend: str) -> None:
    fleet.start()
    await capturing.start(bus, backend)
    events = await bus.events(kind="capture")
    with storm(wire):
        await grows(bus)
        for _ in range(2):
            events.messages.clear()
            wire.host_ip("link", "set", HOST_DEVICE, "down")
            await heard(events, "interface_down")
            wire.host_ip("link", "set", HOST_DEVICE, "up")
            await heard(events, "interface_up")
            await grows(bus)
    await counts_exactly(bus, wire)
    stopped = await bus.ok("stop")
    assert stopped["packets_captured"] > 0


@pytest.mark.parametrize("backend", LIVE)
async def test_deleted_and_created_again_under_load(
    fleet: Fleet, bus: Bus, wire: Wire, backend: str
) -> None:
    fleet.start()
    await capturing.start(bus, backend)
    events = await bus.events(kind="capture")
    for _ in range(2):
        events.messages.clear()
        with storm(wire):
            await grows(bus)
            wire.host_ip("link", "delete", HOST_DEVICE)
            await heard(events, "interface_deleted")
        status = await capturing.at_rest(bus)
        assert status["running"] is True
        wire.connect()
        await heard(events, "interface_returned")
        await eventually_captures(bus, wire)
        await counts_exactly(bus, wire)
    await bus.ok("stop")


async def eventually_captures(bus: Bus, wire: Wire) -> None:
    """The new interface has carrier and the backend is attached to it."""
    with storm(wire):
        await grows(bus)


async def test_records_survive_the_interface(fleet: Fleet, bus: Bus, wire: Wire) -> None:
    """Flows from before and after a deletion: their records add up to what was captured."""
    fleet.start()
    collector = await Collector.listen(bus)
    started = await capturing.start(bus, workers=2, metering={"enable": True})
    events = await bus.events(kind="capture")
    await counts_exactly(bus, wire)
    wire.host_ip("link", "delete", HOST_DEVICE)
    await heard(events, "interface_deleted")
    wire.connect()
    await heard(events, "interface_returned")
    await eventually_captures(bus, wire)
    await counts_exactly(bus, wire)
    stopped = await bus.ok("stop")
    records = await records_of(collector, started["session_id"], stopped)
    check_lives(records)
    assert sum(record["packets"] for record in records) == stopped["packets_captured"]


async def test_stop_while_the_interface_is_gone(fleet: Fleet, bus: Bus, wire: Wire) -> None:
    fleet.start()
    for backend in LIVE:
        await capturing.start(bus, backend)
        events = await bus.events(kind="capture")
        await counts_exactly(bus, wire, 10)
        wire.host_ip("link", "delete", HOST_DEVICE)
        await heard(events, "interface_deleted")
        assert (await bus.ok("stop"))["packets_captured"] == 10
        wire.connect()


# ---- what is left behind --------------------------------------------------------------------


def attachments(wire: Wire) -> list[str]:
    """Whatever hangs on the host side: promiscuity, packet sockets, XDP, queueing filters."""
    link = wire.link()
    found = [f"promiscuity {link['promiscuity']}"] if link["promiscuity"] else []
    found += ["PROMISC"] if "PROMISC" in link["flags"] else []
    found += ["xdp"] if "xdp" in link else []
    with entered(wire.host):
        sockets = Path("/proc/thread-self/net/packet").read_text().splitlines()[1:]
    return found + sockets


@pytest.mark.parametrize("backend", LIVE)
async def test_killed_agent_leaves_nothing_attached(
    fleet: Fleet, bus: Bus, wire: Wire, backend: str
) -> None:
    agent = fleet.start()
    assert attachments(wire) == []
    before = wire.link()
    await capturing.start(bus, backend, workers=2 if backend == "af_packet" else 1)
    assert attachments(wire) != []
    with storm(wire):
        await grows(bus)
        agent.kill()
    # The kernel closes a dead process's sockets in its own time.
    eventually_now(lambda: attachments(wire) == [], "the sockets of the dead to be closed")
    after = wire.link()
    assert after["flags"] == before["flags"]
    assert after["mtu"] == before["mtu"]
    # And the next agent captures as if nothing had been.
    agent.start()
    await capturing.start(bus, backend)
    await counts_exactly(bus, wire)
    await bus.ok("stop")
    assert wire.peer_ip("link", "show", "dev", PEER_DEVICE)
