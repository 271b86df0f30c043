"""Live captures follow the clock: timeouts expire without packets, timestamps are current."""

from __future__ import annotations

import time

import capturing
import oracle
from agents import Fleet
from bus import Bus, Collector
from deadlines import eventually
from netns import Sender
from packets import FIN, SYN, TCP, UDP, ethernet, ipv4, tcp, udp
from replay import check_lives

FRAME = ethernet(ipv4(udp(bytes(50), 1000, 53), UDP, "10.0.0.1", "10.1.0.1"))


async def test_idle_flow_is_recorded_after_its_timeout(
    fleet: Fleet, bus: Bus, sender: Sender
) -> None:
    fleet.start()
    collector = await Collector.listen(bus)
    started = await capturing.start(bus, metering={"enable": True, "flow_timeout_sec": 1})
    sent_at = time.monotonic()
    before_us = time.time_ns() // 1000
    sender.send([FRAME] * 3)
    # A busy kernel gives a packet its time after `send` has returned.
    await capturing.settled(bus, 3)
    after_us = time.time_ns() // 1000
    (record,) = await collector.packets_of(started["session_id"], 3)
    waited_sec = time.monotonic() - sent_at
    assert (record["end_reason"], record["final"]) == ("idle", True)
    assert waited_sec >= 1.0
    assert before_us - 1000 <= oracle.microseconds(record["first_seen"])
    assert oracle.microseconds(record["last_seen"]) <= after_us + 1000
    assert (await bus.ok("flows"))["active_flows"] == 0
    await bus.ok("stop")


async def test_active_flow_is_recorded_at_each_timeout(
    fleet: Fleet, bus: Bus, sender: Sender
) -> None:
    fleet.start()
    collector = await Collector.listen(bus)
    started = await capturing.start(bus, metering={"enable": True, "active_timeout_sec": 1})

    began = time.monotonic()

    def three_segments() -> bool:
        sender.send([FRAME])
        return len(collector.of_session(started["session_id"])) >= 3

    await eventually(three_segments, "three records of one flow")
    # A busy server may deliver more than three at once. A busy capture thread may end a segment
    # before it has read all of its packets.
    segments = collector.of_session(started["session_id"])
    assert {record["end_reason"] for record in segments} == {"active"}
    assert len(segments) <= time.monotonic() - began + 1
    await capturing.settled(bus, sender.frames_sent)
    await bus.ok("stop")
    records = await collector.packets_of(started["session_id"], sender.frames_sent)
    assert len({record["flow_id"] for record in records}) == 1
    check_lives(records)


async def test_closed_connection_is_recorded_after_the_linger(
    fleet: Fleet, bus: Bus, sender: Sender
) -> None:
    fleet.start()
    collector = await Collector.listen(bus)
    started = await capturing.start(bus, metering={"enable": True})
    there = ((40000, 80), "10.0.0.1", "10.1.0.1")
    back = ((80, 40000), "10.1.0.1", "10.0.0.1")
    sent_at = time.monotonic()
    for (ports, source, dest), flags in ((there, SYN), (there, FIN), (back, FIN)):
        sender.send([ethernet(ipv4(tcp(b"", *ports, flags), TCP, source, dest))])
    (record,) = await collector.packets_of(started["session_id"], 3)
    assert record["end_reason"] == "end"
    assert time.monotonic() - sent_at >= 5.0
    await bus.ok("stop")
