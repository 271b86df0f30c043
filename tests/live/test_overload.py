"""More packets than an agent can take: each is captured or counted as dropped.

The agent is frozen while more is sent than its smallest ring holds, so it must fall behind. The
expected number is read from the interface's counters.
"""

from __future__ import annotations

import signal

import pytest

import capturing
from agents import Fleet
from bus import Bus, Collector
from deadlines import eventually
from netns import PEER_DEVICE, Sender, Wire
from packets import UDP, ethernet, ipv4, udp
from replay import check_lives, records_of

FRAMES = 60_000


def frames(count: int) -> list[bytes]:
    """Frames of 500 flows, enough for several workers."""
    sample = [
        ethernet(ipv4(udp(bytes(100), 1000 + n, 53), UDP, f"10.0.0.{n % 250 + 1}", "10.1.0.1"))
        for n in range(500)
    ]
    return [sample[n % len(sample)] for n in range(count)]


@pytest.mark.parametrize("workers", [1, 4])
@pytest.mark.parametrize("backend", ["af_packet", "pcap", "dpdk"])
async def test_captured_plus_dropped_is_sent(
    fleet: Fleet, bus: Bus, wire: Wire, sender: Sender, backend: str, workers: int
) -> None:
    agent = fleet.start(capture={"ring_mb": 1})
    await capturing.start(bus, backend, workers=workers)
    before = capturing.delivered(wire)
    agent.signal(signal.SIGSTOP)
    sender.send(frames(FRAMES))
    agent.signal(signal.SIGCONT)
    # The kernel may drop frames at the far end. The agent never sees those.
    offered = capturing.delivered(wire) - before
    refused = wire.peer_ip("-s", "-j", "link", "show", "dev", PEER_DEVICE)
    assert offered > FRAMES // 2, refused
    status = await capturing.settled(bus, offered)
    assert status["packets_dropped"] > 0
    assert (await capturing.at_rest(bus))["packets_dropped"] == status["packets_dropped"]
    stopped = await bus.ok("stop")
    assert stopped["packets_captured"] + stopped["packets_dropped"] == offered
    assert stopped["drop_rate"] == pytest.approx(stopped["packets_dropped"] / offered)


async def test_status_counters_add_up_at_any_moment_under_load(
    fleet: Fleet, bus: Bus, wire: Wire, sender: Sender
) -> None:
    """Two workers meter with a table too small for the flows. Status is read meanwhile."""
    fleet.start(capture={"ring_mb": 1}, flows={"flow_table_size": 64})
    collector = await Collector.listen(bus)
    started = await capturing.start(bus, workers=2, metering={"enable": True})
    before = capturing.delivered(wire)
    for burst in range(12):
        sender.send(frames(5_000))
        status = await bus.ok("status")
        assert status["packets_captured"] == (
            status["packets_recorded"]
            + status["packets_active"]
            + status["packets_non_flow"]
            + status["packets_unmetered"]
        ), burst
    status = await capturing.settled(bus, capturing.delivered(wire) - before)
    assert status["records_by_reason"]["resources"] > 0
    stopped = await bus.ok("stop")
    records = await records_of(collector, started["session_id"], stopped)
    check_lives(records)
    assert sum(record["packets"] for record in records) == stopped["packets_captured"]


async def test_drops_raise_an_alarm(fleet: Fleet, bus: Bus, sender: Sender) -> None:
    agent = fleet.start(capture={"ring_mb": 1}, metrics={"interval_sec": 0.2})
    alarms = await bus.events(kind="alarm")
    await capturing.start(bus)
    agent.signal(signal.SIGSTOP)
    sender.send(frames(FRAMES))
    agent.signal(signal.SIGCONT)
    await eventually(
        lambda: any(event["event"] == "packets_dropped" for event in alarms.all()),
        "an alarm about dropped packets",
    )
    await bus.ok("stop")
