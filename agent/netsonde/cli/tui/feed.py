"""Asks the fleet for one round of `netsonde top`: the status of each host, and flows.

The replies become samples. A sample has counters, not rates; model.py computes rates from two
rounds.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..flows import endpoints
from ..tables import visible

if TYPE_CHECKING:
    from ...fleet import FleetClient, Outcome, Pace, Reply, Target

FLOW_HOSTS_MAX = 100  # flows are asked of the hosts that receive most
FLOWS_OF_HOST_MAX = 200
FLOWS_MAX = 10_000  # rows of one round, both orders together
RESOLVE_SEC = 2.0
MALFORMED = (LookupError, TypeError, ValueError, AttributeError, OverflowError)
OWNER_NAMES = ("name", "unit", "container")
CAPTURING, FINISHED, IDLE = "capturing", "finished", "idle"

Address = tuple[str, int]


@dataclass(frozen=True, slots=True)
class HostSample:
    """The counters of one host. state: of its capture, or why it has no status. reach_sec: age of
    the oldest packet in the capture buffer."""

    host: str
    state: str
    interface: str = ""
    session_id: str = ""
    bytes: int = 0
    packets: int = 0
    dropped: int = 0
    flows: int = 0
    uptime_sec: float = 0.0
    reach_sec: float = 0.0

    @property
    def replied(self) -> bool:
        return self.state in (CAPTURING, FINISHED, IDLE)


@dataclass(frozen=True, slots=True)
class FlowSample:
    """The totals of one active flow on one host, both directions together. record: the row of the
    reply."""

    host: str
    flow_id: str
    community_id: str
    protocol: str
    source: str
    dest: str
    bytes: int
    packets: int
    record: dict[str, Any] = field(compare=False)

    @property
    def ends(self) -> tuple[Address, Address]:
        found = self.record.get
        return (
            (str(found("source_ip")), int(found("source_port") or 0)),
            (str(found("dest_ip")), int(found("dest_port") or 0)),
        )

    def text(self, name: str) -> str:
        """Returns a text field, empty without it. `process`: the name of the process, else its
        unit or container."""
        value = self.record.get(name)
        if isinstance(value, dict):
            value = next((value[key] for key in OWNER_NAMES if value.get(key)), "")
        return visible(value) if isinstance(value, str) else ""


@dataclass(frozen=True, slots=True)
class Round:
    """time_sec: of the monotonic clock. servers: the addresses of NATS servers, to find the
    fleet's own traffic."""

    time_sec: float
    clock: str
    hosts: tuple[HostSample, ...] = ()
    flows: tuple[FlowSample, ...] = ()
    servers: frozenset[Address] = frozenset()
    note: str = ""


class Feed:
    """The source of rounds: one client and one target."""

    def __init__(self, client: FleetClient, target: Target, pace: Pace) -> None:
        self._client = client
        self._target = target
        self._pace = pace
        self._resolved: dict[str, frozenset[Address]] = {}

    async def take(self) -> Round:
        """Asks for one round. Raises UnreachableError, DeniedError, TargetError."""
        status = await self._client.ask("status", {}, self._target, self._pace)
        time_sec, clock = time.monotonic(), time.strftime("%H:%M:%S", time.gmtime())
        hosts = read_hosts(status)
        flows = await self._ask_flows(hosts)
        names = {one.entry.server for one in status.inventory.values() if one.entry.server}
        url = self._client.connection.connected_url
        names |= {url.netloc.rpartition("@")[2]} if url is not None else set()
        note = f"no agent replied ({self._target.describe()})" if not hosts else ""
        return Round(
            time_sec,
            clock,
            tuple(hosts),
            tuple(flows),
            await self._resolve(names),
            "; ".join([note, *status.warnings]).strip("; "),
        )

    async def _ask_flows(self, hosts: list[HostSample]) -> list[FlowSample]:
        from ...fleet import Target

        running = [one for one in hosts if one.session_id]
        running.sort(key=lambda one: one.bytes / max(one.uptime_sec, 1.0), reverse=True)
        names = tuple(one.host for one in running[:FLOW_HOSTS_MAX])
        if not names:
            return []
        # The largest flows in total, and those with the latest packets: a fast flow is in one.
        orders = ("bytes", "recent")
        limit = min(FLOWS_OF_HOST_MAX, FLOWS_MAX // (len(names) * len(orders)))
        target = Target(hosts=names)
        found: dict[tuple[str, str], FlowSample] = {}
        for order in orders:
            body = {"limit": limit, "sort": order}
            outcome = await self._client.ask("flows", body, target, self._pace)
            found |= {(one.host, one.flow_id): one for one in read_flows(outcome)}
        return list(found.values())

    async def _resolve(self, names: Iterable[str]) -> frozenset[Address]:
        """Returns the addresses of `host:port` names. Each name is looked up once."""
        for name in names:
            if name not in self._resolved:
                self._resolved[name] = await resolve(name)
        return frozenset().union(*self._resolved.values())


async def resolve(name: str) -> frozenset[Address]:
    """Returns the addresses of `host:port`; none if it is malformed or unknown."""
    host, _, port = name.rpartition(":")
    with contextlib.suppress(OSError, TimeoutError, ValueError):
        async with asyncio.timeout(RESOLVE_SEC):
            loop = asyncio.get_running_loop()
            found = await loop.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)
        return frozenset((plain_ip(str(one[4][0])), int(one[4][1])) for one in found)
    return frozenset()


def plain_ip(text: str) -> str:
    return str(ipaddress.ip_address(text.partition("%")[0]))


# ---- replies -------------------------------------------------------------------------------


def read_hosts(outcome: Outcome) -> list[HostSample]:
    """Returns a sample for each host that replied or should have, sorted by name."""
    found = [read_host(reply) for reply in outcome.replies]
    found += [HostSample(visible(one.host), one.reason) for one in outcome.absences]
    return sorted(found, key=lambda one: one.host)


def read_host(reply: Reply) -> HostSample:
    host, body = visible(reply.host), reply.body
    if not reply.accepted:
        return HostSample(host, "two agents" if reply.twins else "refused")
    try:
        if not body["running"] and not body.get("finished"):
            return HostSample(host, IDLE)
        return HostSample(
            host,
            FINISHED if body.get("finished") else CAPTURING,
            visible(str(body["interface"])),
            str(body["session_id"]),
            int(body["bytes_captured"]),
            int(body["packets_captured"]),
            int(body["packets_dropped"]),
            int(body["active_flows"]),
            float(body["uptime_sec"]),
            float(body.get("retention_sec", 0.0)),
        )
    except MALFORMED:
        return HostSample(host, "malformed")


def read_flows(outcome: Outcome) -> list[FlowSample]:
    """Returns the rows of all replies. A malformed row is left out."""
    found = []
    for reply in outcome.replies:
        rows = reply.body.get("flows") if reply.accepted else None
        for row in rows if isinstance(rows, list) else []:
            with contextlib.suppress(*MALFORMED):
                found.append(read_flow(visible(reply.host), row))
    return found


def read_flow(host: str, row: dict[str, Any]) -> FlowSample:
    source, dest = endpoints(row)
    return FlowSample(
        host,
        str(row["flow_id"]),
        str(row.get("community_id") or f"{host} {row['flow_id']}"),
        visible(str(row["protocol"])),
        visible(source),
        visible(dest),
        int(row["total_bytes"]),
        int(row["total_packets"]),
        row,
    )
