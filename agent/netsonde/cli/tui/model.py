"""Computes the rows of `netsonde top`: rates of successive rounds, one row per flow, their order.

A flow that several hosts see has one row, that of the host that counted most of it. The fleet's own
traffic is the flows to and from NATS servers; it is left out unless it is asked for.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Generic, TypeVar

from .feed import FlowSample, HostSample, Round

HISTORY = 120  # rates kept for the sparkline of a host
ROWS_MAX = 500  # rows of one table


@dataclass(frozen=True, slots=True)
class HostRow:
    """rate_bps and packets_per_sec: None before the second round of a session."""

    sample: HostSample
    rate_bps: float | None = None
    packets_per_sec: float | None = None
    history: tuple[float | None, ...] = ()
    new_drops: int = 0  # since the round before

    @property
    def key(self) -> str:
        return self.sample.host

    @property
    def words(self) -> str:
        return f"{self.sample.host} {self.sample.state} {self.sample.interface}".lower()


@dataclass(frozen=True, slots=True)
class FlowRow:
    """sample: of the host that counted most. hosts: all that see the flow."""

    sample: FlowSample
    rate_bps: float | None = None
    packets_per_sec: float | None = None
    hosts: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        return self.sample.community_id

    @property
    def words(self) -> str:
        one = self.sample
        texts = [one.text(name) for name in ("name", "app", "process", "peer_process")]
        parts = [*self.hosts, one.protocol, one.source, one.dest, *texts]
        return " ".join(parts).lower()


Row = TypeVar("Row", HostRow, FlowRow)
Order = tuple[str, Callable[[Row], float | str]]

HOST_ORDERS: tuple[Order[HostRow], ...] = (
    ("rate", lambda row: -(row.rate_bps or 0.0)),
    ("packets/s", lambda row: -(row.packets_per_sec or 0.0)),
    ("drops", lambda row: -float(row.sample.dropped)),
    ("buffer", lambda row: row.sample.reach_sec),
    ("flows", lambda row: -float(row.sample.flows)),
    ("name", lambda row: row.sample.host),
    ("state", lambda row: f"{row.sample.replied} {row.sample.state}"),
)
FLOW_ORDERS: tuple[Order[FlowRow], ...] = (
    ("rate", lambda row: -(row.rate_bps or 0.0)),
    ("packets/s", lambda row: -(row.packets_per_sec or 0.0)),
    ("bytes", lambda row: -float(row.sample.bytes)),
    ("packets", lambda row: -float(row.sample.packets)),
    ("host", lambda row: row.sample.host),
    ("name", lambda row: row.sample.text("name") or "~"),
)


@dataclass(slots=True)
class Listing(Generic[Row]):
    """The order and the filter of one table. search: words that a row must all contain."""

    orders: tuple[Order[Row], ...]
    index: int = 0
    reverse: bool = False
    search: str = ""

    @property
    def order(self) -> str:
        return self.orders[self.index][0]

    def next_order(self) -> None:
        self.index, self.reverse = (self.index + 1) % len(self.orders), False

    def choose(self, name: str) -> None:
        self.index = [one for one, _ in self.orders].index(name)

    def arrange(self, rows: Iterable[Row]) -> list[Row]:
        words = self.search.lower().split()
        found = [row for row in rows if all(word in row.words for word in words)]
        found.sort(key=lambda row: row.key)
        found.sort(key=self.orders[self.index][1], reverse=self.reverse)
        return found[:ROWS_MAX]


@dataclass(frozen=True, slots=True)
class Shown:
    """All rows of one round, without order and filter."""

    clock: str = ""
    hosts: tuple[HostRow, ...] = ()
    flows: tuple[FlowRow, ...] = ()
    servers: frozenset[tuple[str, int]] = frozenset()
    note: str = ""


@dataclass(slots=True)
class _Before:
    """The samples of the round before."""

    time_sec: float = 0.0
    hosts: dict[str, HostSample] = field(default_factory=dict)
    flows: dict[tuple[str, str], FlowSample] = field(default_factory=dict)


class Model:
    """Takes rounds and returns rows. While frozen, it takes rounds and shows an earlier one."""

    def __init__(self) -> None:
        self.hosts = Listing(HOST_ORDERS)
        self.flows = Listing(FLOW_ORDERS)
        self.only_host = ""  # show the flows of this host; empty: of all
        self.with_own = False
        self.frozen = False
        self.shown = Shown()
        self._latest = Shown()
        self._before = _Before()
        self._history: dict[str, deque[float | None]] = {}

    def add(self, one: Round) -> None:
        elapsed_sec = one.time_sec - self._before.time_sec
        self._latest = Shown(
            one.clock,
            tuple(self._host_row(sample) for sample in one.hosts),
            tuple(join_flows(self._flow_row(sample, elapsed_sec) for sample in one.flows)),
            one.servers,
            one.note,
        )
        known = {sample.host for sample in one.hosts}
        self._history = {host: rates for host, rates in self._history.items() if host in known}
        self._before = _Before(
            one.time_sec,
            {sample.host: sample for sample in one.hosts},
            {(sample.host, sample.flow_id): sample for sample in one.flows},
        )
        if not self.frozen:
            self.shown = self._latest

    def toggle_frozen(self) -> None:
        self.frozen = not self.frozen
        if not self.frozen:
            self.shown = self._latest

    def host_rows(self) -> list[HostRow]:
        return self.hosts.arrange(self.shown.hosts)

    def flow_rows(self) -> list[FlowRow]:
        return self.flows.arrange(
            row
            for row in self.shown.flows
            if (self.with_own or not self._is_own(row))
            and (not self.only_host or self.only_host in row.hosts)
        )

    def own_flows(self) -> int:
        """Returns how many flows are left out as the fleet's own traffic."""
        return 0 if self.with_own else sum(self._is_own(row) for row in self.shown.flows)

    def _is_own(self, row: FlowRow) -> bool:
        return row.sample.protocol == "TCP" and any(
            end in self.shown.servers for end in row.sample.ends
        )

    def _host_row(self, sample: HostSample) -> HostRow:
        before = self._before.hosts.get(sample.host)
        history = self._history.setdefault(sample.host, deque(maxlen=HISTORY))
        if before is None or not sample.session_id or before.session_id != sample.session_id:
            history.append(None)
            return HostRow(sample, history=tuple(history))
        elapsed_sec = sample.uptime_sec - before.uptime_sec
        rate_bps = per_second(8 * (sample.bytes - before.bytes), elapsed_sec)
        history.append(rate_bps)
        return HostRow(
            sample,
            rate_bps,
            per_second(sample.packets - before.packets, elapsed_sec),
            tuple(history),
            max(0, sample.dropped - before.dropped),
        )

    def _flow_row(self, sample: FlowSample, elapsed_sec: float) -> FlowRow:
        before = self._before.flows.get((sample.host, sample.flow_id))
        if before is None:
            return FlowRow(sample, hosts=(sample.host,))
        return FlowRow(
            sample,
            per_second(8 * (sample.bytes - before.bytes), elapsed_sec),
            per_second(sample.packets - before.packets, elapsed_sec),
            (sample.host,),
        )


def per_second(count: float, elapsed_sec: float) -> float:
    return max(0.0, count / elapsed_sec) if elapsed_sec > 0 else 0.0


def join_flows(rows: Iterable[FlowRow]) -> Iterable[FlowRow]:
    """Returns one row per Community ID."""
    found: dict[str, FlowRow] = {}
    for row in rows:
        other = found.get(row.key)
        if other is None:
            found[row.key] = row
            continue
        hosts = tuple(sorted({*other.hosts, *row.hosts}))
        best = max(other, row, key=lambda one: (one.sample.bytes, one.sample.host))
        found[row.key] = replace(best, hosts=hosts)
    return found.values()
