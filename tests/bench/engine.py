"""The core without the agent: replay.c over a trace, rendering.c over records, collisions.c.

Every replay is audited: the counters add up before and after the stop, and the number of packets
is that of the file.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
from pinned import Measured, run_pinned
from workbench import OUT, PLUGINS, Trace

FLOW_TABLE_SIZE = 1 << 20
RECORD_RING_SIZE = 1 << 16


class ConservationError(Exception):
    """The packet counters do not add up, so every figure of the run is void."""


def audit(counters: Mapping[str, int], packets: int, where: str) -> None:
    """captured = recorded + active + non_flow + unmetered = packets in the file."""
    parts = ("recorded", "active", "non_flow", "unmetered")
    total = sum(counters[part] for part in parts)
    if not counters["captured"] == total == packets or counters["dropped"] != 0:
        raise ConservationError(f"{where}: {packets} packets in the file, {dict(counters)}")


def audit_replay(result: Mapping[str, Any], trace: Trace, mode: str) -> None:
    finished, stopped, rendered = result["finished"], result["stopped"], result["rendered"]
    audit(finished, trace.packets, f"{trace.name} {mode}, finished")
    audit(stopped, trace.packets, f"{trace.name} {mode}, stopped")
    lost = stopped["records_dropped"] != 0 or stopped["active"] != 0
    told = rendered["packets"] == stopped["recorded"] and rendered["records"] == stopped["records"]
    if lost or not told:
        raise ConservationError(f"{trace.name} {mode}: {result}")
    # Exact only if no flow was evicted: an evicted flow that sends again counts as a new flow.
    exact = trace.flows is not None and stopped["resources"] == 0
    if exact and stopped["flows_created"] != trace.flows:
        raise ConservationError(f"{trace.name}: {trace.flows} flows, {result}")


def replay(
    trace: Trace,
    mode: str,
    *,
    table_size: int = FLOW_TABLE_SIZE,
    ring_size: int = RECORD_RING_SIZE,
) -> tuple[Measured, dict[str, Any]]:
    """mode: json, msgpack, or unmetered (flows are kept, no records are made)."""
    measured = run_pinned(
        [OUT / "replay", PLUGINS, trace.path, mode, str(table_size), str(ring_size)]
    )
    result: dict[str, Any] = msgspec.json.decode(measured.output)
    audit_replay(result, trace, mode)
    return measured, result


def render(encoding: str, records: int) -> float:
    """Returns records per second."""
    binary: Path = OUT / "rendering"
    measured = run_pinned([binary, encoding, str(records), "1"])
    result = msgspec.json.decode(measured.output)
    return float(result["records"] / result["seconds"])


def collide(flows: int, packets: int) -> dict[str, float]:
    """Packets per second for scattered keys, aimed keys, and aimed keys with a known secret."""
    measured = run_pinned([OUT / "collisions", str(flows), str(packets)])
    rates: dict[str, float] = {}
    for line in measured.output.splitlines():
        result = msgspec.json.decode(line)
        if result["way"] != "known" and result["flows_active"] != flows:
            raise ConservationError(f"a table of {flows}: {result}")
        rates[result["way"]] = float(result["packets_per_cpu_sec"])
    return rates
