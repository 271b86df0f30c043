"""Every shared trace, replayed by the `file` backend and read over NATS, matches the oracle.

Each test's agent replays its trace once for every pair of timeouts in the oracle. The flows must be
the same each time, only cut into different records.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

import oracle
from agents import Fleet
from bus import Bus
from oracle import Flow, Trace
from replay import Replay, replay

TRACES = oracle.traces()
each_trace = pytest.mark.parametrize("trace", TRACES, ids=lambda trace: trace.path.name[:2])


@each_trace
async def test_outer_flows_match_the_oracle(fleet: Fleet, bus: Bus, trace: Trace) -> None:
    fleet.start(flows={"tunnel": "outer"})
    for (idle_sec, active_sec), record_count in trace.timeout_pairs().items():
        replayed = await replay(bus, trace.path, idle_sec=idle_sec, active_sec=active_sec)
        assert oracle.digest(replayed.records) in trace.accepted("flows_sha256")
        assert len(replayed.non_empty) == record_count, f"{idle_sec}/{active_sec}"
        check_counts(trace, replayed)
        # For traces with very many flows, the oracle lists only the ten largest.
        spelled_out = trace.facts.get("flows") or trace.facts["top10_by_bytes"]
        check_spelled_out(spelled_out, replayed.records)


@each_trace
async def test_inner_flows_match_the_oracle(fleet: Fleet, bus: Bus, trace: Trace) -> None:
    fleet.start(flows={"tunnel": "inner"})
    for idle_sec, active_sec in ((300, oracle.ACTIVE_NEVER_SEC), (15, 60)):
        replayed = await replay(bus, trace.path, idle_sec=idle_sec, active_sec=active_sec)
        assert oracle.digest(replayed.records) in trace.accepted("inner_flows_sha256")
        check_spelled_out(trace.facts.get("inner_flows", []), replayed.records)
        check_tunnels(trace, replayed.records)


async def test_full_flow_table_loses_no_packet(fleet: Fleet, bus: Bus) -> None:
    """A SYN scan of 1,994 flows passes through a table of 256."""
    trace = oracle.trace("14")
    fleet.start(flows={"flow_table_size": 256})
    replayed = await replay(bus, trace.path)
    assert sum(record["packets"] for record in replayed.records) == trace.packets
    reasons = Counter(record["end_reason"] for record in replayed.records)
    assert reasons["resources"] >= 1994 - 256
    assert reasons["resources"] == replayed.status["records_by_reason"]["resources"]
    assert replayed.status["active_flows"] <= 256
    assert oracle.digest(replayed.records) in trace.accepted("flows_sha256")


def check_counts(trace: Trace, replayed: Replay) -> None:
    expected = trace.expected
    assert replayed.status["packets_captured"] == trace.packets
    assert replayed.status["packets_dropped"] == 0
    assert replayed.status["bytes_captured"] == trace.facts["bytes"]
    assert replayed.status["packets_non_flow"] == (
        expected["non_ip_frames"] + expected["undecodable_frames"]
    )
    assert replayed.status["ip_bytes"] in trace.accepted("ip_bytes")
    assert sum(record["bytes"] for record in replayed.records) in trace.accepted("ip_bytes")
    assert replayed.status["ip_length_clamped"] == expected["ip_len_exceeds_wire"]
    assert replayed.status["fragments"] == expected["fragments"]
    assert sum(record["fragments"] for record in replayed.records) == expected["fragments"]
    flows = oracle.flows(replayed.records)
    assert len(flows) == expected["outer_biflows"]
    assert (
        sum((flow.packets[0] > 0) + (flow.packets[1] > 0) for flow in flows.values())
        == (expected["outer_uniflows"])
    )
    protocols = Counter(str(flow.first["protocol_number"]) for flow in flows.values())
    assert protocols == expected["outer_by_proto"]
    check_listing(replayed)


def check_listing(replayed: Replay) -> None:
    """Checks that `flows` returns the active flows in order, with cumulative totals."""
    listed = replayed.listing["flows"]
    active = replayed.status["active_flows"]
    assert replayed.listing["active_flows"] == active
    # A reply is at most a megabyte, which holds some thousand flows.
    assert replayed.listing["truncated"] == (len(listed) < active)
    assert len(listed) >= min(active, 900)  # a reply holds at most max_payload, 1 MiB
    order = [
        (-flow["bytes"], -flow["packets"], flow["flow_start"], flow["flow_id"]) for flow in listed
    ]
    assert order == sorted(order)
    ended = {record["flow_id"]: record for record in replayed.records if record["final"]}
    for flow in listed:
        assert flow["packets"] == ended[flow["flow_id"]]["total_packets"]
        assert flow["bytes"] == ended[flow["flow_id"]]["total_bytes"]


def check_spelled_out(spelled_out: list[dict[str, Any]], records: list[dict[str, Any]]) -> None:
    """Checks direction, both sides' counts, flags, times and Community ID."""
    found = {name(flow): flow for flow in oracle.flows(records).values()}
    for expected in spelled_out:
        flow = found[
            tuple(expected["vlan"]),
            expected["proto"],
            (expected["src"], expected["sport"]),
            (expected["dst"], expected["dport"]),
        ]
        assert flow.first["community_id"] == expected["community_id"]
        assert flow.packets == expected["packets"]
        assert flow.bytes == expected["bytes"]
        assert flow.l2_bytes == expected["l2_bytes"]
        assert flow.tcp_flags == expected["tcp_flags"]
        assert flow.fragments == expected["frags"]
        assert oracle.microseconds(flow.first_seen) == round(expected["first"] * 1e6)
        assert oracle.microseconds(flow.last_seen) == round(expected["last"] * 1e6)
        if expected["icmp"][0] is not None:
            assert [flow.first["icmp_type"], flow.first["icmp_code"]] == expected["icmp"][0]


def name(flow: Flow) -> tuple[Any, ...]:
    first = flow.first
    return (
        tuple(first["vlan"]),
        first["protocol_number"],
        (first["source_ip"], first["source_port"]),
        (first["dest_ip"], first["dest_port"]),
    )


TUNNELS = {"gre", "erspan", "ipip", "vxlan", "geneve", "gtpu", "teredo"}


def check_tunnels(trace: Trace, records: list[dict[str, Any]]) -> None:
    """Checks the number of packets in each type of tunnel."""
    found: Counter[str] = Counter()
    for record in records:
        if record["tunnel"]:
            found[record["tunnel"]["type"]] += record["packets"]
    expected = {kind: n for kind, n in trace.expected["tunnels"].items() if kind in TUNNELS}
    assert found == expected
