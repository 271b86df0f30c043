"""The verbs: one function each, from a decoded request to a reply.

A handler returns `Done` or raises an error of errors.py. It knows nothing of subjects, headers
or NATS.
"""

from __future__ import annotations

import functools
import ipaddress
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Protocol, cast

import msgspec
from msgspec import UNSET, Raw

from ..capture.checks import blaming
from ..capture.sessions import Sessions
from ..capture.standing import Standing
from ..core import backends as core_backends
from ..core.capture import JSON, MSGPACK
from ..core.values import FlowMatch, FlowQuery, OwnerMatch
from ..errors import InvalidFilter, InvalidRequest, PolicyDenied
from ..firmware.verify import Firmware
from ..recorder.retrieval import Retrievals, add_gap, packet_query
from ..recorder.stored import delete_objects
from ..wire import schema
from ..wire.protocols import protocol_number
from ..wire.replies import (
    AvailableBackend,
    BackendsReply,
    BusState,
    RenderedFlowsReply,
    Reply,
    SchemaReply,
    UnavailableBackend,
)
from ..wire.requests import (
    BackendName,
    BackendsRequest,
    EncryptionRequest,
    ExportRequest,
    FirmwareRequest,
    FlowsFilter,
    FlowsMatch,
    FlowsRequest,
    MeterRequest,
    MetricsRequest,
    PacketsDeleteRequest,
    PacketsRequest,
    SchemaRequest,
    StartRequest,
    StatusRequest,
    StopRequest,
    TapRequest,
)
from .policy import Caller
from .taps import Taps


class Bus(Protocol):
    """The agent's connections to NATS."""

    @property
    def authenticated(self) -> bool: ...

    def state(self) -> BusState: ...


@dataclass(frozen=True, slots=True)
class Features:
    """The parts of the agent that the verbs act on."""

    sessions: Sessions
    standing: Standing
    retrievals: Retrievals
    firmware: Firmware
    taps: Taps
    bus: Bus


# The [policy.hide] field that a key of `filter` shows.
FILTERS_HIDDEN_BY = {
    "name": "name",
    "unit": "process",
    "container": "process",
    "pod": "process",
    "process": "process",
}


@dataclass(frozen=True, slots=True)
class Call:
    """binary: the reply is MessagePack. reply_bytes_max: limit of the body. expires_at: the
    caller's deadline. hidden: what the reply must not show. owner: the caller, as objects name it.
    deletes_all: the caller may delete objects of other owners."""

    features: Features
    expires_at: datetime | None
    root: str
    hidden: frozenset[str]
    owner: dict[str, str]
    deletes_all: bool
    binary: bool
    reply_bytes_max: int
    caller: Caller | None = None


@dataclass(frozen=True, slots=True)
class Done:
    """constant: every call has this body, which is then encoded once."""

    body: Reply
    code: int = 200
    constant: bool = False


async def backends(call: Call, request: BackendsRequest) -> Done:
    available: list[AvailableBackend] = []
    unavailable: list[UnavailableBackend] = []
    for report in await core_backends.backends():
        name = cast(BackendName, report.name)
        if report.usable:
            available.append(
                AvailableBackend(
                    name=name,
                    description=report.description,
                    supported_features=list(report.features),
                )
            )
        else:
            unavailable.append(
                UnavailableBackend(name=name, description=report.description, reason=report.reason)
            )
    return Done(BackendsReply(available=available, unavailable=unavailable))


async def start(call: Call, request: StartRequest) -> Done:
    return Done(await call.features.standing.start(request))


async def stop(call: Call, request: StopRequest) -> Done:
    reply = await call.features.standing.stop(request)
    reply.bus = call.features.bus.state()
    return Done(reply)


async def status(call: Call, request: StatusRequest) -> Done:
    reply = call.features.standing.status()
    reply.bus = call.features.bus.state()
    reply.bus_authenticated = call.features.bus.authenticated
    if reply.running:
        reply.taps = call.features.taps.states()
    return Done(reply, 200 if reply.running else 204)


async def metrics(call: Call, request: MetricsRequest) -> Done:
    return Done(call.features.sessions.require().metrics())


async def flow_meter_enable(call: Call, request: MeterRequest) -> Done:
    return Done(await call.features.standing.meter(request))


async def netflow_export_enable(call: Call, request: ExportRequest) -> Done:
    return Done(await call.features.standing.export(request))


async def flows(call: Call, request: FlowsRequest) -> Done:
    query = replace(flow_query(request), hidden=call.hidden)
    _check_shown(request, call.hidden)
    session = call.features.sessions.require()
    page = await session.capture.flows(
        query,
        request.after,
        encoding=MSGPACK if call.binary else JSON,
        bytes_max=call.reply_bytes_max,
    )
    reply = RenderedFlowsReply(
        flows=Raw(page.data),
        active_flows=page.active,
        truncated=page.truncated,
        next=page.following or UNSET,
    )
    return Done(reply)


async def encryption_enable(call: Call, request: EncryptionRequest) -> Done:
    return Done(await call.features.standing.encrypt(request))


async def packets(call: Call, request: PacketsRequest) -> Done:
    query = packet_query(request, time.time_ns())
    sessions = call.features.sessions
    session = sessions.require()
    with blaming("$.filter", InvalidFilter):
        await sessions.filters.check(query.filter, session.link_types, kernel=False)
    retrievals = call.features.retrievals
    reply = await retrievals.retrieve(
        session.capture, query, request.to, call.expires_at, owner=call.owner
    )
    if session.replaced is not None:
        add_gap(reply, query, session.replaced)
    return Done(reply)


async def packets_delete(call: Call, request: PacketsDeleteRequest) -> Done:
    if request.all_owners and not call.deletes_all:
        raise PolicyDenied("The caller may delete only its own objects.", field="$.all_owners")
    return Done(await delete_objects(call.features.retrievals.bucket(), request, call.owner))


async def tap(call: Call, request: TapRequest) -> Done:
    if request.process is not None and "process" in call.hidden:
        raise PolicyDenied(
            "This host's [policy] hides the field from this caller.", field="$.process"
        )
    return Done(await call.features.taps.open(request, call.caller))


async def firmware_verify(call: Call, request: FirmwareRequest) -> Done:
    return Done(await call.features.firmware.verify(request))


async def schema_(call: Call, request: SchemaRequest) -> Done:
    return Done(_schema_reply(call.root), constant=True)


@functools.cache
def _schema_reply(root: str) -> SchemaReply:
    return msgspec.convert(schema.document(root), SchemaReply)


def flow_query(request: FlowsRequest) -> FlowQuery:
    """Raises InvalidRequest."""
    wanted = request.filter or FlowsFilter()
    excluded = wanted.not_ if wanted.not_ not in (None, FlowsMatch()) else None
    return FlowQuery(
        limit=request.limit,
        sort=request.sort,
        min_packets=request.min_packets,
        match=_match(wanted, "$.filter"),
        excluded=_match(excluded, "$.filter.not") if excluded is not None else None,
        by=tuple(dict.fromkeys(request.by or ())),
    )


def _check_shown(request: FlowsRequest, hidden: frozenset[str]) -> None:
    """Raises PolicyDenied if the filter tests a hidden field: its rows would show the value."""
    wanted = request.filter or FlowsFilter()
    for match, place in ((wanted, "$.filter"), (wanted.not_, "$.filter.not")):
        for field, hide in FILTERS_HIDDEN_BY.items():
            if hide in hidden and match is not None and getattr(match, field) is not None:
                raise PolicyDenied(
                    "This host's [policy] hides the field from this caller.",
                    field=f"{place}.{field}",
                )


def _match(wanted: FlowsMatch, place: str) -> FlowMatch:
    ip, ignored = None, 0
    if wanted.ip is not None:
        try:
            network = ipaddress.ip_network(wanted.ip, strict=False)
        except ValueError:
            raise InvalidRequest(
                f"{wanted.ip!r} is not an IP address or network", field=f"{place}.ip"
            ) from None
        ip = network.network_address.packed
        ignored = network.max_prefixlen - network.prefixlen
    protocol = _protocol(wanted.protocol, f"{place}.protocol")
    return FlowMatch(ip, ignored, wanted.port, protocol, wanted.name, _owner(wanted))


def _owner(wanted: FlowsMatch) -> OwnerMatch | None:
    process = wanted.process if isinstance(wanted.process, str) else None
    pid = wanted.process if isinstance(wanted.process, int) else None
    match = OwnerMatch(wanted.unit, wanted.container, wanted.pod, process, pid)
    return None if match == OwnerMatch() else match


def _protocol(wanted: str | int | None, place: str) -> int | None:
    if wanted is None or isinstance(wanted, int):
        return wanted
    number = protocol_number(wanted)
    if number is None:
        raise InvalidRequest(
            f"unknown protocol name {wanted!r}; use its number",
            field=place,
        )
    return number


Handler = Callable[[Call, Any], Awaitable[Done]]

HANDLERS: dict[str, Handler] = {
    "backends": backends,
    "start": start,
    "stop": stop,
    "status": status,
    "metrics": metrics,
    "flow.meter.enable": flow_meter_enable,
    "netflow.export.enable": netflow_export_enable,
    "flows": flows,
    "encryption.enable": encryption_enable,
    "packets": packets,
    "packets.delete": packets_delete,
    "tap": tap,
    "firmware.verify": firmware_verify,
    "schema": schema_,
}
