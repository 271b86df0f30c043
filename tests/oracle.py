"""The shared traces and the flows that a correct meter finds in them.

The traces are outside the repository. NETSONDE_TRACES names their directory (default:
`../shared/traces` next to the checkout). Independent meters produced their ORACLE.json. `digest`
turns flow records into the lines that ORACLE.json's checksums cover, one line per flow.
"""

from __future__ import annotations

import calendar
import hashlib
import ipaddress
import json
import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import packets

REPOSITORY = Path(__file__).resolve().parent.parent
DIRECTORY = Path(
    os.environ.get("NETSONDE_TRACES") or REPOSITORY.parent / "shared" / "traces"
).resolve()
TRACES_EXPECTED = 19
ACTIVE_NEVER_SEC = 86_400  # "inf" in the oracle: the largest active timeout

Record = Mapping[str, Any]


@dataclass(frozen=True)
class Trace:
    path: Path
    facts: Mapping[str, Any] = field(repr=False)

    @property
    def expected(self) -> Mapping[str, Any]:
        return self.facts["expected"]  # type: ignore[no-any-return]

    @property
    def packets(self) -> int:
        return int(self.facts["packets"])

    def accepted(self, name: str) -> list[Any]:
        """Returns the expected value and the oracle's accepted alternatives."""
        return [self.expected[name], *self.facts["accept"].get(name, [])]

    def timeout_pairs(self) -> dict[tuple[int, int], int]:
        """Returns (idle, active) in seconds → the number of records that carry packets."""
        pairs = {}
        for pair, count in self.expected["records"].items():
            idle, active = pair.split("/")
            pairs[int(idle), ACTIVE_NEVER_SEC if active == "inf" else int(active)] = count
        return pairs


def traces() -> list[Trace]:
    """Returns all traces, or an empty list without the directory; tests/wire reports that."""
    oracle = DIRECTORY / "ORACLE.json"
    if not oracle.is_file():
        return []
    facts = json.loads(oracle.read_text())
    return [Trace(DIRECTORY / one["file"], one) for one in facts["open"]]


def trace(prefix: str) -> Trace:
    return next(one for one in traces() if one.path.name.startswith(prefix))


# ---- flows out of records -----------------------------------------------------------------


@dataclass
class Flow:
    """All records of one key, in order of arrival."""

    first: Record
    packets: list[int] = field(default_factory=lambda: [0, 0])
    bytes: list[int] = field(default_factory=lambda: [0, 0])
    l2_bytes: list[int] = field(default_factory=lambda: [0, 0])
    tcp_flags: list[int] = field(default_factory=lambda: [0, 0])
    fragments: int = 0
    first_seen: str = "~"
    last_seen: str = ""

    def add(self, record: Record) -> None:
        turned = endpoints(record) != endpoints(self.first)
        for name in ("packets", "bytes", "l2_bytes"):
            reverse = record[f"reverse_{name}"]
            sides = [record[name] - reverse, reverse]
            totals = getattr(self, name)
            for side, count in enumerate(reversed(sides) if turned else sides):
                totals[side] += count
        flags = [record["tcp_flags"], record["reverse_tcp_flags"]]
        for side, value in enumerate(reversed(flags) if turned else flags):
            self.tcp_flags[side] |= value
        self.fragments += record["fragments"]
        if record["packets"]:
            self.first_seen = min(self.first_seen, record["first_seen"])
            self.last_seen = max(self.last_seen, record["last_seen"])


def endpoints(record: Record) -> tuple[tuple[bytes, int], tuple[bytes, int]]:
    source = ipaddress.ip_address(record["source_ip"]).packed
    dest = ipaddress.ip_address(record["dest_ip"]).packed
    return (source, record["source_port"]), (dest, record["dest_port"])


def key(record: Record) -> tuple[Any, ...]:
    """Returns the flow key without direction."""
    low, high = sorted(endpoints(record))
    return (
        tuple(record["vlan"]),
        record["ip_version"],
        record["protocol_number"],
        low,
        high,
    )


def flows(records: Iterable[Record]) -> dict[tuple[Any, ...], Flow]:
    """Groups records by key. Skips records without packets."""
    table: dict[tuple[Any, ...], Flow] = {}
    for record in records:
        if record["packets"]:
            table.setdefault(key(record), Flow(record)).add(record)
    return table


def flow_lines(records: Iterable[Record]) -> list[str]:
    lines = []
    for (vlan, version, protocol, low, high), flow in flows(records).items():
        ab, ba = (0, 1) if endpoints(flow.first)[0] == low else (1, 0)
        sides = (
            str(ipaddress.ip_address(low[0])),
            low[1],
            str(ipaddress.ip_address(high[0])),
            high[1],
            flow.packets[ab],
            flow.bytes[ab],
            flow.packets[ba],
            flow.bytes[ba],
        )
        lines.append("|".join(map(str, ("/".join(map(str, vlan)), version, protocol, *sides))))
    return sorted(lines)


def digest(records: Iterable[Record]) -> str:
    return hashlib.sha256("\n".join(flow_lines(records)).encode()).hexdigest()


def microseconds(time_rfc3339: str) -> int:
    """Converts a time with nanoseconds, which strptime cannot parse."""
    seconds, fraction = time_rfc3339.removesuffix("Z").split(".")
    assert len(fraction) == 9, time_rfc3339
    whole = calendar.timegm(time.strptime(seconds, "%Y-%m-%dT%H:%M:%S"))
    return whole * 1_000_000 + int(fraction) // 1000


# ---- traces on a real wire ----------------------------------------------------------------


def frames(trace: Trace) -> list[bytes]:
    """Returns the trace as Ethernet frames of full wire length, for a real interface.

    Truncated packets are padded with zeros; their headers are complete, and only those are metered.
    SLL2 packets get an Ethernet header."""
    made = []
    for packet in packets.read_capture(trace.path):
        data = packet.data
        if packet.linktype == packets.SLL2:
            ethertype = int.from_bytes(data[:2], "big")
            made.append(packets.ethernet(data[20:], ethertype))
        else:
            made.append(data + bytes(packet.wirelen - len(data)))
    return made
