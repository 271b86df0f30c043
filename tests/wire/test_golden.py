"""Captures of a few packets and the records they must produce, readable by a human.

The first line of golden/<name>.jsonl describes the case, the settings, and the `status` to
expect. Each further line is one record with the relevant fields, ordered by flow start, source port
and segment.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from encapsulations import CUSTOM_VXLAN_PORT
from scenarios import GOLDEN, SCENARIOS

from agents import Agent, Fleet
from bus import Bus
from packets import write_pcap
from replay import replay


def test_every_capture_has_expectations() -> None:
    for suffix in ("pcap", "jsonl"):
        assert {path.stem for path in GOLDEN.glob(f"*.{suffix}")} == SCENARIOS.keys()


@pytest.mark.parametrize("name", SCENARIOS)
def test_capture_matches_its_scenario(name: str, tmp_path: Path) -> None:
    fresh = write_pcap(tmp_path / "fresh.pcap", SCENARIOS[name]())
    assert (GOLDEN / f"{name}.pcap").read_bytes() == fresh.read_bytes()


async def test_records_match_the_expectations(
    alpha: Agent, fleet: Fleet, bus: Bus, tmp_path: Path
) -> None:
    """Runs all scenarios one after the other, those of inner tunnels in a second agent."""
    ports = [4789, 8472, CUSTOM_VXLAN_PORT]
    fleet.start("inner", flows={"tunnel": "inner", "vxlan_ports": ports})
    failures = []
    for name in SCENARIOS:
        head, *expected = [
            json.loads(line) for line in (GOLDEN / f"{name}.jsonl").read_text().splitlines()
        ]
        capture = tmp_path / f"{name}.pcap"
        capture.write_bytes((GOLDEN / f"{name}.pcap").read_bytes())
        replayed = await replay(
            bus,
            capture,
            idle_sec=head["metering"]["flow_timeout_sec"],
            active_sec=head["metering"]["active_timeout_sec"],
            host="inner" if head.get("tunnel") == "inner" else "alpha",
        )
        found = sorted(replayed.records, key=order)
        shown = [
            {field: record[field] for field in line}
            for record, line in zip(found, expected, strict=False)
        ]
        if shown != expected or len(found) != len(expected):
            failures.append(f"{name} ({head['about']})\n{difference(expected, found)}")
        for field, value in head.get("status", {}).items():
            if replayed.status[field] != value:
                failures.append(f"{name}: status {field} is {replayed.status[field]}, not {value}")
    assert not failures, "\n".join(failures)


async def test_packets_outside_flows_are_counted_by_cause(
    alpha: Agent, bus: Bus, tmp_path: Path
) -> None:
    capture = write_pcap(tmp_path / "non-flow.pcap", SCENARIOS["non-flow"]())
    replayed = await replay(bus, capture)
    causes = {cause: count for cause, count in replayed.status["non_flow"].items() if count}
    assert causes == {"arp": 1, "lldp": 1, "other_ethertype": 1}


def order(record: dict[str, Any]) -> tuple[Any, ...]:
    return record["flow_start"], record["source_port"], record["segment"]


def difference(expected: list[dict[str, Any]], found: list[dict[str, Any]]) -> str:
    lines = [f"  expected {json.dumps(line)}" for line in expected]
    fields = expected[0].keys()
    lines += [f"  found    {json.dumps({f: record[f] for f in fields})}" for record in found]
    return "\n".join(lines)
