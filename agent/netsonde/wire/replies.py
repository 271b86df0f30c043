"""What travels over NATS: the request and reply of each verb, and what the streams carry.

The one definition of the wire, with flow records in records.py and what concerns the capture
buffer in messages_buffer.py. Requests refuse unknown
fields and out-of-range values by themselves, which makes 422; replies carry `host` first.
schemas/asyncapi.json is generated from here. A leaf. Units are in the names.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

from msgspec import UNSET, Meta, Raw, Struct, UnsetType, field

from .buffer import (
    BufferState,
    EncryptionReply,
    EncryptionRequest,
    EncryptionState,
    PacketsReply,
    PacketsRequest,
)
from .export import ExportReply, ExportRequest, ExportState
from .records import Count, FlowRecord, SpoolState, Time
from .verb import ErrorReply as ErrorReply
from .verb import Fraction, Percent, TimeoutSec
from .verb import Reply as Reply
from .verb import Request as Request
from .verb import Verb as Verb

BackendName: TypeAlias = Literal["af_packet", "pcap", "xdp", "dpdk", "pf_ring", "file"]
BACKEND_NAMES: tuple[str, ...] = ("af_packet", "pcap", "xdp", "dpdk", "pf_ring", "file")
EventKind: TypeAlias = Literal["lifecycle", "capture", "alarm", "audit"]
EVENT_KINDS: tuple[EventKind, ...] = ("lifecycle", "capture", "alarm", "audit")


# ---- backends ------------------------------------------------------------------------------


class BackendsRequest(Request):
    """What this host can capture with."""


class AvailableBackend(Struct, kw_only=True):
    name: BackendName
    description: str
    supported_features: list[str]


class UnavailableBackend(Struct, kw_only=True):
    name: BackendName
    description: str
    reason: Annotated[str, Meta(description="the loader's or kernel's own words")]


class BackendsReply(Reply, kw_only=True):
    available: list[AvailableBackend]
    unavailable: list[UnavailableBackend]


# ---- flow.meter.enable ----------------------------------------------------------------------


class MeterRequest(Request, kw_only=True):
    """Turn flow records on or off."""

    enable: bool
    flow_timeout_sec: TimeoutSec = 300
    active_timeout_sec: TimeoutSec = 60


class MeterReply(Reply, kw_only=True):
    status: Literal["enabled", "disabled"]
    flow_timeout_sec: TimeoutSec
    active_timeout_sec: TimeoutSec
    message: str


# ---- start, stop ---------------------------------------------------------------------------


class StartRequest(Request, kw_only=True):
    """Start the host's one capture session."""

    interface: Annotated[
        str, Meta(max_length=4096, description="an interface; for `file` a path in replay_dirs")
    ]
    backend: Annotated[str, Meta(max_length=64, description="a name from `backends`")]
    buffer_size_mb: Annotated[int, Meta(ge=1, le=65536)] = 256
    record: Annotated[
        bool, Meta(description="keep packets in the capture buffer; encryption implies it")
    ] = True
    filter: Annotated[str, Meta(max_length=16384, description="a BPF expression")] = ""
    snaplen: Annotated[int, Meta(ge=64, le=262144)] = 262144
    promiscuous: bool = True
    workers: Annotated[int, Meta(ge=1, le=64)] = 1
    dedicated: bool = False
    replay_speed: Annotated[
        float, Meta(ge=0, le=1e6, description="`file`: 0 as fast as possible, 1.0 real time")
    ] = 0.0
    metering: MeterRequest | None = None
    export: ExportRequest | None = None
    encryption: EncryptionRequest | None = None


class StartReply(Reply, kw_only=True):
    status: Literal["started"] = "started"
    session_id: str
    interface: str
    backend: BackendName
    buffer_size_mb: int


class StopRequest(Request, kw_only=True):
    """End the session; the reply comes after the last record was published."""

    reason: Annotated[str, Meta(max_length=256)] = "manual"


class StopReply(Reply, kw_only=True):
    status: Literal["stopped"] = "stopped"
    session_id: str
    reason: str
    packets_captured: Count
    packets_dropped: Count
    drop_rate: Fraction
    uptime_sec: float
    bytes_captured: Count
    packets_recorded: Count
    packets_non_flow: Count
    packets_unmetered: Count
    records: Count
    records_sent: Count
    records_unsent: Count
    records_dropped: Count
    export: ExportState | None = None


# ---- status, metrics -----------------------------------------------------------------------


class MeteringState(Struct, kw_only=True):
    enabled: bool
    flow_timeout_sec: TimeoutSec
    active_timeout_sec: TimeoutSec


class Counters(Reply, kw_only=True):
    """Cumulative since the session's start.

    packets_captured = packets_recorded + packets_active + packets_non_flow +
    packets_unmetered; records = records_sent + records_unsent + records_dropped +
    records_waiting, but for those in flight.
    """

    packets_captured: Count = 0
    packets_dropped: Count = 0
    bytes_captured: Count = 0
    frames_captured: Count = 0
    packets_recorded: Count = 0
    packets_active: Count = 0
    packets_non_flow: Count = 0
    packets_unmetered: Count = 0
    packets_records_dropped: Count = 0
    packets_records_unsent: Count = 0
    records: Count = 0
    records_sent: Count = 0
    records_unsent: Count = 0
    records_dropped: Count = 0
    records_waiting: Count = 0
    flows_created: Count = 0
    timestamps_corrected: Count = 0
    ring_freezes: Count = 0
    chunks_overwritten: Count = 0
    packets_overwritten: Count = 0
    packets_unrecorded: Count = 0
    packets_seal_lost: Count = 0
    packets_spill_lost: Count = 0
    seal_failures: Count = 0
    spill_failures: Count = 0
    export_records_sent: Count = 0
    export_records_lost: Count = 0


class StatusRequest(Request):
    """The session, if there is one (200), or that there is none (204)."""


class StatusReply(Reply, kw_only=True):
    """With no session every number is 0 and the fields of a running one are absent."""

    running: bool = False
    interface: str = ""
    backend: str = ""
    packets_captured: Count = 0
    packets_dropped: Count = 0
    uptime_sec: float = 0.0
    buffer_usage_percent: Percent = 0.0
    session_id: str | UnsetType = UNSET
    finished: bool | UnsetType = UNSET
    link_up: bool | UnsetType = UNSET
    filter: str | UnsetType = UNSET
    attach: str | UnsetType = UNSET
    active_flows: Count | UnsetType = UNSET
    flow_table_size: Count | UnsetType = UNSET
    retention_sec: float | UnsetType = UNSET
    ring_used_percent: Percent | UnsetType = UNSET
    buffer_size_mb: int | UnsetType = UNSET
    bytes_captured: Count | UnsetType = UNSET
    frames_captured: Count | UnsetType = UNSET
    packets_recorded: Count | UnsetType = UNSET
    packets_active: Count | UnsetType = UNSET
    packets_non_flow: Count | UnsetType = UNSET
    packets_unmetered: Count | UnsetType = UNSET
    non_flow: dict[str, Count] | UnsetType = UNSET
    packets_records_dropped: Count | UnsetType = UNSET
    packets_records_unsent: Count | UnsetType = UNSET
    ip_bytes: Count | UnsetType = UNSET
    ip_length_clamped: Count | UnsetType = UNSET
    fragments: Count | UnsetType = UNSET
    records: Count | UnsetType = UNSET
    records_by_reason: dict[str, Count] | UnsetType = UNSET
    records_sent: Count | UnsetType = UNSET
    records_unsent: Count | UnsetType = UNSET
    records_dropped: Count | UnsetType = UNSET
    records_waiting: Count | UnsetType = UNSET
    flows_created: Count | UnsetType = UNSET
    timestamps_corrected: Count | UnsetType = UNSET
    ring_freezes: Count | UnsetType = UNSET
    chunks_overwritten: Count | UnsetType = UNSET
    packets_overwritten: Count | UnsetType = UNSET
    packets_unrecorded: Count | UnsetType = UNSET
    packets_seal_lost: Count | UnsetType = UNSET
    packets_spill_lost: Count | UnsetType = UNSET
    seal_failures: Count | UnsetType = UNSET
    spill_failures: Count | UnsetType = UNSET
    export_records_sent: Count | UnsetType = UNSET
    export_records_lost: Count | UnsetType = UNSET
    metering: MeteringState | UnsetType | None = UNSET
    export: ExportState | UnsetType | None = UNSET
    encryption: EncryptionState | UnsetType | None = UNSET
    buffer: BufferState | UnsetType = UNSET
    spool: SpoolState | UnsetType | None = UNSET


class MetricsRequest(Request):
    """Rates over the last full metrics interval, and the counters."""


class MetricsReply(Counters, kw_only=True):
    """Rates over `interval_sec` up to `time`; the counters beside them are cumulative."""

    session_id: str
    time: Time
    interval_sec: float
    throughput_mbps: float
    packets_per_sec: Count
    avg_packet_size: float
    drop_rate_percent: Percent
    buffer_usage_percent: Percent
    active_flows: Count
    spool: SpoolState | None = None


class MetricsMessage(MetricsReply, kw_only=True):
    """What `stream.metrics.<host>` carries; `seq` shows gaps, per `boot`."""

    boot: str
    seq: Count


# ---- flows ---------------------------------------------------------------------------------


class FlowsFilter(Request, kw_only=True):
    """Either side matches `ip` and `port`; protocol is a name or a number."""

    ip: Annotated[str, Meta(max_length=64)] | None = None
    port: Annotated[int, Meta(ge=0, le=65535)] | None = None
    protocol: Annotated[str, Meta(max_length=16)] | Annotated[int, Meta(ge=0, le=255)] | None = None


class FlowsRequest(Request, kw_only=True):
    """Cumulative totals of the active flows."""

    limit: Annotated[int, Meta(ge=1, le=10000)] = 100
    min_packets: Annotated[int, Meta(ge=0, le=2**63 - 1)] = 1
    sort: Literal["bytes", "packets", "recent"] = "bytes"
    filter: FlowsFilter | None = None


class FlowsReply(Reply, kw_only=True):
    flows: list[FlowRecord]
    active_flows: Count
    truncated: bool


class RenderedFlowsReply(Reply, kw_only=True):
    """FlowsReply as the agent sends it: the array rendered by the C core is not parsed."""

    flows: Raw
    active_flows: Count
    truncated: bool


# ---- firmware.verify -----------------------------------------------------------------------


class FirmwareRequest(Request, kw_only=True):
    """Is the file signed by a key that this host trusts? Both lie in [firmware] dirs."""

    firmware_path: Annotated[str, Meta(min_length=1, max_length=4096)]
    signature_path: Annotated[str, Meta(min_length=1, max_length=4096)]


class FirmwareReply(Reply, kw_only=True):
    """A signature that does not hold is an answer (200), not an error."""

    valid: bool
    firmware_hash: Annotated[str, Meta(description="SHA-256 in hex; empty if it was not read")]
    signature_valid: bool
    message: str
    key_id: Annotated[str, Meta(description="of the trusted key that signed")] | UnsetType = UNSET
    algorithm: str | UnsetType = UNSET


# ---- schema, events ------------------------------------------------------------------------


class SchemaRequest(Request):
    """The AsyncAPI document of this agent."""


class SchemaReply(Reply, kw_only=True, omit_defaults=True):
    """The document itself, with `host` beside its own sections."""

    asyncapi: str
    info: dict[str, Any]
    default_content_type: str = field(name="defaultContentType", default="")
    channels: dict[str, Any]
    operations: dict[str, Any]
    components: dict[str, Any]


class Event(Struct, kw_only=True, omit_defaults=True):
    """What `stream.events.<host>.<kind>` carries."""

    host: str
    boot: str
    seq: Count
    kind: EventKind
    event: Annotated[str, Meta(description="stable identifier, such as interface_down")]
    time: Time
    detail: str = ""
    session_id: str | None = None
    data: dict[str, Any] = {}


# ---- the verbs -----------------------------------------------------------------------------


VERBS: dict[str, Verb] = {
    verb.name: verb
    for verb in (
        Verb(
            name="backends",
            request=BackendsRequest,
            reply=BackendsReply,
            summary="List the capture backends and why one cannot be used",
            costly=True,
        ),
        Verb(
            name="start",
            request=StartRequest,
            reply=StartReply,
            summary="Start the capture session",
            changes=True,
        ),
        Verb(
            name="stop",
            request=StopRequest,
            reply=StopReply,
            summary="Stop the capture session",
            changes=True,
        ),
        Verb(
            name="status",
            request=StatusRequest,
            reply=StatusReply,
            summary="State and counters of the session",
        ),
        Verb(
            name="metrics",
            request=MetricsRequest,
            reply=MetricsReply,
            summary="Rates over the last interval",
        ),
        Verb(
            name="flow.meter.enable",
            request=MeterRequest,
            reply=MeterReply,
            summary="Turn flow records on or off",
            changes=True,
        ),
        Verb(
            name="netflow.export.enable",
            request=ExportRequest,
            reply=ExportReply,
            summary="Add, change or remove a collector of NetFlow or IPFIX",
            changes=True,
        ),
        Verb(
            name="flows",
            request=FlowsRequest,
            reply=FlowsReply,
            summary="List the active flows",
            costly=True,
        ),
        Verb(
            name="encryption.enable",
            request=EncryptionRequest,
            reply=EncryptionReply,
            summary="Seal the capture buffer",
            changes=True,
        ),
        Verb(
            name="packets",
            request=PacketsRequest,
            reply=PacketsReply,
            summary="Retrieve packets from the capture buffer",
            changes=True,
            costly=True,
        ),
        Verb(
            name="firmware.verify",
            request=FirmwareRequest,
            reply=FirmwareReply,
            summary="Check a firmware file's signature against the trusted keys",
            costly=True,
        ),
        Verb(
            name="schema",
            request=SchemaRequest,
            reply=SchemaReply,
            summary="The AsyncAPI document of this agent",
        ),
    )
}
