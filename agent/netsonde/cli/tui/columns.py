"""The columns of `netsonde top` for a width, and the text of each cell.

A narrow terminal gets fewer columns, and long endpoints are cut with `…` inside the address, never
across lines. Each column has a fixed width, so nothing moves between rounds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic

from ...wire.quantity import counted
from ..tables import cut, cut_endpoint, duration, scaled
from .feed import CAPTURING
from .model import FlowRow, HostRow, Model, Row

SPARKS = "▁▂▃▄▅▆▇█"
GAP = 1
IPV6_ENDPOINT = 47  # [address]:port
IPV4_ENDPOINT = 21


@dataclass(frozen=True, slots=True)
class Column(Generic[Row]):
    """write: the cell's text, made for the width. alarm: whether to draw it in red."""

    title: str
    width: int
    write: Callable[[Row, int], str]
    right: bool = False
    alarm: Callable[[Row], bool] = lambda _: False

    @property
    def heading(self) -> str:
        return self._fit(self.title)

    def cell(self, row: Row) -> str:
        return self._fit(self.write(row, self.width))

    def _fit(self, text: str) -> str:
        text = cut(text, self.width)
        return text.rjust(self.width) if self.right else text.ljust(self.width)


# ---- text ----------------------------------------------------------------------------------


def mbits(rate_bps: float | None) -> str:
    if rate_bps is None:
        return "-"
    rate = rate_bps / 1e6
    return f"{rate:.2f}" if rate < 1000 else f"{rate:,.0f}"


def sparkline(history: Sequence[float | None], width: int) -> str:
    """Draws the latest rates, newest on the right, on a scale from 0 to their largest. A round
    without a rate is a space."""
    latest = history[-width:]
    top = max((rate for rate in latest if rate is not None), default=0.0)
    step = (len(SPARKS) - 1) / top if top > 0 else 0.0
    return "".join(" " if rate is None else SPARKS[round(rate * step)] for rate in latest)


def host_names(hosts: Sequence[str], first: str, width: int) -> str:
    """Writes `web1`, or `web1 +2` for a flow that two more hosts see."""
    if len(hosts) < 2:
        return first
    more = f" +{len(hosts) - 1}"
    return cut(first, width - len(more)) + more


def headline(model: Model) -> str:
    """Returns the first line: hosts, rates, drops."""
    rows = model.shown.hosts
    capturing = sum(row.sample.state == CAPTURING for row in rows)
    silent = sum(not row.sample.replied for row in rows)
    rate_bps = sum(row.rate_bps or 0.0 for row in rows)
    packets = sum(row.packets_per_sec or 0.0 for row in rows)
    dropped = sum(row.sample.dropped for row in rows)
    hosts = f"{counted(len(rows), 'host')}, {capturing} capturing" + (
        f", {silent} silent" if silent else ""
    )
    return (
        f"{hosts}  {rate_bps / 1e6:,.1f} Mbit/s  {scaled(packets)} pkt/s  {scaled(dropped)} dropped"
    )


# ---- layouts -------------------------------------------------------------------------------


def host_columns(width: int) -> list[Column[HostRow]]:
    wide = width >= 120
    fixed: list[Column[HostRow]] = [
        Column("STATE", 13, lambda row, _: row.sample.state, alarm=silent),
        Column("MBIT/S", 9, lambda row, _: mbits(row.rate_bps), right=True),
        Column("PKT/S", 7, lambda row, _: scaled(row.packets_per_sec), right=True),
        Column("DROPS", 7, describe_drops, right=True, alarm=lambda row: row.new_drops > 0),
        Column("BUFFER", 7, describe_reach, right=True),
        Column("FLOWS", 6, lambda row, _: scaled_count(row, row.sample.flows), right=True),
    ]
    if wide:
        fixed.insert(1, Column("INTERFACE", 16, lambda row, _: row.sample.interface or "-"))
    rest = width - sum(column.width + GAP for column in fixed)
    name = 13 if not wide else min(32, rest // 2)
    sparks: Column[HostRow] = Column(
        "HISTORY",
        rest - name - GAP - GAP,
        lambda row, cells: sparkline(row.history, cells),
        right=True,
    )
    host: Column[HostRow] = Column("HOST", name, lambda row, _: row.sample.host)
    return [host, *fixed, sparks]


def silent(row: HostRow) -> bool:
    return not row.sample.replied


def scaled_count(row: HostRow, count: float) -> str:
    return scaled(count) if row.sample.session_id else "-"


def describe_drops(row: HostRow, _: int) -> str:
    return scaled_count(row, row.sample.dropped)


def describe_reach(row: HostRow, _: int) -> str:
    return duration(row.sample.reach_sec) if row.sample.session_id else "-"


def flow_columns(width: int, rows: Sequence[FlowRow]) -> list[Column[FlowRow]]:
    """Shows name and owner if a row has them, and the other columns as far as they fit."""
    endpoint = IPV4_ENDPOINT if width < 140 else IPV6_ENDPOINT
    if endpoint == IPV6_ENDPOINT:
        longest = max((max(len(r.sample.source), len(r.sample.dest)) for r in rows), default=0)
        endpoint = min(endpoint, max(IPV4_ENDPOINT, longest))
    first: list[Column[FlowRow]] = [
        Column("MBIT/S", 8, lambda row, _: mbits(row.rate_bps), right=True),
        Column("PROTO", 5, lambda row, _: row.sample.protocol),
        Column("SOURCE", endpoint, lambda row, cells: cut_endpoint(row.sample.source, cells)),
        Column("DESTINATION", endpoint, lambda row, cells: cut_endpoint(row.sample.dest, cells)),
    ]
    if width >= 120:
        first.insert(1, Column("PKT/S", 7, packet_rate, right=True))
        first.insert(2, Column("BYTES", 7, lambda row, _: scaled(row.sample.bytes), right=True))
    rest = width - sum(column.width + GAP for column in first)
    filled = [one for one in TEXTS if any(one[1](row, 0) for row in rows)]
    if width < 120:
        filled = filled[:1]
    host = min(rest, 9 if filled else 20) if width < 120 else min(24, rest // 2)
    last: list[Column[FlowRow]] = [
        Column("HOST", host, lambda row, cells: host_names(row.hosts, row.sample.host, cells))
    ]
    rest -= host + GAP
    shares = sum(share for _, _, share in filled)
    for title, write, share in filled:
        last.append(Column(title, min(40, max(1, rest * share // shares - GAP)), write))
    return first + last


def packet_rate(row: FlowRow, _: int) -> str:
    return scaled(row.packets_per_sec)


def describe_owner(row: FlowRow, _: int) -> str:
    names = [row.sample.text(field) for field in ("process", "peer_process")]
    return " → ".join(name for name in names if name)


# Texts that a flow may have: title, text, share of the room.
TEXTS: tuple[tuple[str, Callable[[FlowRow, int], str], int], ...] = (
    ("NAME", lambda row, _: row.sample.text("name"), 3),
    ("PROCESS", describe_owner, 2),
    ("APP", lambda row, _: row.sample.text("app"), 1),
)


def describe_flow(row: FlowRow) -> str:
    """Returns the flow in one line, uncut, for the line below the tables."""
    one = row.sample
    parts = [
        f"{one.protocol} {one.source} → {one.dest}",
        one.text("name"),
        describe_owner(row, 0),
        f"{scaled(one.packets)} {'packet' if one.packets == 1 else 'packets'}, "
        f"{scaled(one.bytes)} bytes",
        f"seen by {', '.join(row.hosts)}",
    ]
    return "  ".join(part for part in parts if part)
