"""TCP with offloads on: a super-packet counts as the packets that the wire would carry.

Two independent counts: a queueing discipline counts the segments of a super-packet and their
headers. An interface with offloads off counts packets, because there are no super-packets.
"""

from __future__ import annotations

import pytest
from iperf import transfer

import capturing
import netns
from agents import Fleet
from bus import Bus, Collector
from netns import HOST_DEVICE, PEER_DEVICE, Wire
from replay import records_of

MEGABYTES = 200
WITHIN = 0.001


@pytest.mark.parametrize("back", [False, True], ids=["sending", "receiving"])
async def test_super_packets_count_as_wire_packets(
    fleet: Fleet, bus: Bus, wire: Wire, back: bool
) -> None:
    for namespace, device in ((wire.host, HOST_DEVICE), (wire.peer, PEER_DEVICE)):
        netns.ip("-n", namespace, "link", "set", device, "mtu", "1500")
        netns.queue_add(namespace, device)
    wire.address()
    fleet.start(capture={"ring_mb": 256})
    collector = await Collector.listen(bus)
    # Only the packet heads are captured, so none is lost. The test checks the counts.
    started = await capturing.start(bus, snaplen=128, metering={"enable": True}, record=False)
    before = queue_counters(wire)
    transfer(wire, MEGABYTES, back=back)
    status = await capturing.at_rest(bus)
    packets, octets = (
        after - then for after, then in zip(queue_counters(wire), before, strict=True)
    )
    assert status["packets_dropped"] == 0
    assert status["frames_captured"] < packets / 4, "the stream had too few super-packets"
    assert status["packets_captured"] == pytest.approx(packets, rel=WITHIN)
    assert status["bytes_captured"] == pytest.approx(octets, rel=WITHIN)
    records = await records_of(collector, started["session_id"], await bus.ok("stop"))
    l2_bytes = sum(record["l2_bytes"] for record in records if record["protocol"] == "TCP")
    assert l2_bytes == pytest.approx(octets, rel=WITHIN)
    # The data of one TCP connection, in packets of 1500 octets with 1448 octets of payload.
    # iperf3 stops at the wanted number of bytes with some of them still unsent.
    data = max(records, key=lambda record: record["bytes"])
    forward = data["reverse_bytes"] if back else data["bytes"] - data["reverse_bytes"]
    assert forward == pytest.approx((MEGABYTES << 20) * 1500 / 1448, rel=0.05)


def queue_counters(wire: Wire) -> tuple[int, int]:
    """(packets, bytes) in both directions, from the queues of both ends."""
    there = netns.queue_counters(wire.host, HOST_DEVICE)
    back = netns.queue_counters(wire.peer, PEER_DEVICE)
    return there[0] + back[0], there[1] + back[1]


async def test_interface_counters_agree_when_offloads_are_off(
    fleet: Fleet, bus: Bus, wire: Wire
) -> None:
    for namespace, device in ((wire.host, HOST_DEVICE), (wire.peer, PEER_DEVICE)):
        netns.ip("-n", namespace, "link", "set", device, "mtu", "1500")
        netns.offload_set(namespace, device, tso=False, gso=False, gro=False)
    wire.address()
    fleet.start(capture={"ring_mb": 256})
    await capturing.start(bus)
    before = interface_counters(wire)
    transfer(wire, MEGABYTES)
    status = await capturing.at_rest(bus)
    packets, octets = (
        after - then for after, then in zip(interface_counters(wire), before, strict=True)
    )
    assert status["packets_captured"] + status["packets_dropped"] == pytest.approx(
        packets, rel=WITHIN
    )
    if status["packets_dropped"] == 0:
        assert status["bytes_captured"] == pytest.approx(octets, rel=WITHIN)
    await bus.ok("stop")


def interface_counters(wire: Wire) -> tuple[int, int]:
    stats = wire.link()["stats64"]
    return (
        stats["rx"]["packets"] + stats["tx"]["packets"],
        stats["rx"]["bytes"] + stats["tx"]["bytes"],
    )
