"""Timeouts cut flows into records and must not change the sums over those records."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import oracle
from agents import Agent
from bus import Bus
from packets import SECOND_NS, TCP, UDP, Packet, at, ethernet, ipv4, tcp, udp, write_pcap
from replay import replay

START_NS = 1_767_225_600 * SECOND_NS
FLOWS = 60
PACKETS = 3000
IDLES_SEC = (1, 15, 300)
ACTIVES_SEC = (1, 7, 60, 86_400)


def traffic(seed: int) -> list[Packet]:
    """Returns flows of all rates, both ways, over about twenty minutes, some packets out of
    order."""
    chance = random.Random(seed)
    made = []
    time_ns = START_NS
    for _ in range(PACKETS):
        time_ns += int(chance.expovariate(2.5) * SECOND_NS)
        number = min(int(chance.expovariate(0.1)), FLOWS - 1)
        client, server = f"10.0.0.{number + 1}", "10.1.0.1"
        source, dest, ports = client, server, (20_000 + number, 443)
        if chance.random() < 0.4:
            source, dest, ports = server, client, (443, 20_000 + number)
        payload = bytes(chance.randrange(1400))
        if number % 2:
            ip = ipv4(tcp(payload, *ports), TCP, source, dest)
        else:
            ip = ipv4(udp(payload, *ports), UDP, source, dest)
        late_ns = SECOND_NS // 2 if chance.random() < 0.05 else 0
        made.append(at(time_ns - late_ns, ethernet(ip)))
    return made


async def test_sums_do_not_depend_on_timeouts(alpha: Agent, bus: Bus, tmp_path: Path) -> None:
    made = traffic(seed=20260101)
    capture = write_pcap(tmp_path / "traffic.pcap", made)
    octets = sum(len(packet.data) - 14 for packet in made)
    lines = None
    for idle_sec in IDLES_SEC:
        sums_of_this_idle = None
        for active_sec in ACTIVES_SEC:
            replayed = await replay(bus, capture, idle_sec=idle_sec, active_sec=active_sec)
            records = replayed.records
            assert sum(record["packets"] for record in records) == PACKETS
            assert sum(record["bytes"] for record in records) == octets
            # By key: equal for every pair of timeouts.
            lines = lines or oracle.flow_lines(records)
            assert oracle.flow_lines(records) == lines
            # By flow_id: only the idle timeout decides where one flow ends and the next begins.
            by_flow_id: Counter[str] = Counter()
            for record in records:
                by_flow_id[record["flow_id"]] += record["packets"]
            sums = sorted(by_flow_id.values())
            sums_of_this_idle = sums_of_this_idle or sums
            assert sums == sums_of_this_idle, f"{idle_sec}/{active_sec}"


async def test_record_spans_less_than_the_active_timeout(
    alpha: Agent, bus: Bus, tmp_path: Path
) -> None:
    """`first_seen` and `last_seen` of a record are less than the active timeout apart."""
    capture = write_pcap(tmp_path / "traffic.pcap", traffic(seed=7))
    replayed = await replay(bus, capture, idle_sec=300, active_sec=7)
    assert any(record["end_reason"] == "active" for record in replayed.records)
    for record in replayed.non_empty:
        span_us = oracle.microseconds(record["last_seen"]) - oracle.microseconds(
            record["first_seen"]
        )
        assert span_us < 7_500_000  # late packets may open a segment up to half a second early
