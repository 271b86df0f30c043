"""The interface goes down, comes up, is deleted and comes back, while packets arrive.

Each change is an event on the bus, the capture resumes automatically, and counts stay right. A
killed agent leaves the interface as it was before.
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
def flood(wire: Wire) -> Iterator[None]:
    """Sends packets as fast as a thread can, whatever the interface does."""
    stop = threading.Event()
    sender = wire.sender()

    def send_frames() -> None:
        while not stop.is_set():
            try:
                sender.socket.send(FRAME)
            except OSError:
                stop.wait(0.001)  # down, deleted, or full

    thread = threading.Thread(target=send_frames)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        sender.close()


async def event_arrives(events: Events, name: str) -> None:
    await eventually(
        lambda: name in [event["event"] for event in events.all()],
        f"the event {name}; so far {[event['event'] for event in events.all()]}",
    )


async def capture_resumes(bus: Bus) -> None:
    before = (await bus.ok("status"))["packets_captured"]

    async def ask() -> bool:
        return bool((await bus.ok("status"))["packets_captured"] > before)

    await eventually(ask, "the capture to continue")


async def assert_exact_counts(bus: Bus, wire: Wire, frames: int = 1000) -> None:
    """Sends frames on an otherwise silent wire and expects exactly those to be counted."""
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
    with flood(wire):
        await capture_resumes(bus)
        for _ in range(2):
            events.messages.clear()
            wire.host_ip("link", "set", HOST_DEVICE, "down")
            await event_arrives(events, "interface_down")
            wire.host_ip("link", "set", HOST_DEVICE, "up")
            await event_arrives(events, "interface_up")
            await capture_resumes(bus)
    await assert_exact_counts(bus, wire)
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
        with flood(wire):
            await capture_resumes(bus)
            wire.host_ip("link", "delete", HOST_DEVICE)
            await event_arrives(events, "interface_deleted")
        status = await capturing.at_rest(bus)
        assert status["running"] is True
        wire.connect()
        await event_arrives(events, "interface_returned")
        await wait_until_capturing(bus, wire)
        await assert_exact_counts(bus, wire)
    await bus.ok("stop")


async def wait_until_capturing(bus: Bus, wire: Wire) -> None:
    """Waits until the new interface has carrier and the backend is attached to it."""
    with flood(wire):
        await capture_resumes(bus)


async def test_records_survive_a_deleted_interface(fleet: Fleet, bus: Bus, wire: Wire) -> None:
    """The records of flows from before and after a deletion add up to the captured packets."""
    fleet.start()
    collector = await Collector.listen(bus)
    started = await capturing.start(bus, workers=2, metering={"enable": True})
    events = await bus.events(kind="capture")
    await assert_exact_counts(bus, wire)
    wire.host_ip("link", "delete", HOST_DEVICE)
    await event_arrives(events, "interface_deleted")
    wire.connect()
    await event_arrives(events, "interface_returned")
    await wait_until_capturing(bus, wire)
    await assert_exact_counts(bus, wire)
    stopped = await bus.ok("stop")
    records = await records_of(collector, started["session_id"], stopped)
    check_lives(records)
    assert sum(record["packets"] for record in records) == stopped["packets_captured"]


async def test_stop_while_the_interface_is_gone(fleet: Fleet, bus: Bus, wire: Wire) -> None:
    fleet.start()
    for backend in LIVE:
        await capturing.start(bus, backend)
        events = await bus.events(kind="capture")
        await assert_exact_counts(bus, wire, 10)
        wire.host_ip("link", "delete", HOST_DEVICE)
        await event_arrives(events, "interface_deleted")
        assert (await bus.ok("stop"))["packets_captured"] == 10
        wire.connect()


# ---- cleanup after a kill -------------------------------------------------------------------


def attachments(wire: Wire) -> list[str]:
    """Everything attached to the host side: promiscuity, packet sockets, XDP, filters."""
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
    with flood(wire):
        await capture_resumes(bus)
        agent.kill()
    # The kernel closes a dead process's sockets asynchronously.
    eventually_now(lambda: attachments(wire) == [], "the sockets of the dead to be closed")
    after = wire.link()
    assert after["flags"] == before["flags"]
    assert after["mtu"] == before["mtu"]
    # The next agent captures normally.
    agent.start()
    await capturing.start(bus, backend)
    await assert_exact_counts(bus, wire)
    await bus.ok("stop")
    assert wire.peer_ip("link", "show", "dev", PEER_DEVICE)
