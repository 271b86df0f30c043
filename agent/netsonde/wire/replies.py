"""The bodies of replies, and what `status`, `metrics` and their stream show.

Replies carry `host` first. Numbers without a unit in their name are counts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

from msgspec import UNSET, Meta, Raw, Struct, UnsetType, defstruct, field

from .counters import COUNTERS
from .records import Count, FlowRecord, SpoolState, Time
from .requests import BackendName, CaptureOptions, IntervalSec, Port, TimeoutSec, Version

Fraction = Annotated[float, Meta(ge=0, le=1)]
Percent = Annotated[float, Meta(ge=0, le=100)]
WantedBy: TypeAlias = Literal["policy", "config", "persist"]


class Reply(Struct, kw_only=True):
    """Root of all reply bodies; the service fills in `host`."""

    host: str = ""


class ErrorReply(Reply, kw_only=True):
    """The body of every reply with a code of 400 or more."""

    code: int
    error: Annotated[str, Meta(description="stable identifier, for example session_active")]
    detail: Annotated[str, Meta(description="what happened and what to do; not stable")]
    field: Annotated[str, Meta(description="JSON path of the field at fault")] | UnsetType = UNSET


class LostRecords(Struct, kw_only=True):
    """Records made but not sent, by cause."""

    refused: Annotated[Count, Meta(description="an ICMP error came back")] = 0
    no_room: Annotated[Count, Meta(description="the socket buffer was full")] = 0
    error: Annotated[Count, Meta(description="no route, no interface, or no permission")] = 0


class CollectorState(Struct, kw_only=True):
    """Counters since the collector was added. Records are uniflows, as a collector counts them."""

    collector_ip: str
    collector_port: Port
    version: Version
    export_interval_sec: IntervalSec
    standing: Annotated[bool, Meta(description="named in the agent's configuration")]
    connected: Annotated[bool, Meta(description="false: unreachable, retried every second")]
    messages_sent: Count
    bytes_sent: Annotated[Count, Meta(description="payload bytes of messages")]
    templates_sent: Count
    records_sent: Count
    packets_sent: Annotated[Count, Meta(description="counted in those records")]
    octets_sent: Annotated[Count, Meta(description="counted in those records")]
    records_skipped_ipv6: Annotated[Count, Meta(description="NetFlow 5 has no IPv6")]
    records_lost: LostRecords
    packets_lost: Annotated[Count, Meta(description="counted in lost records")]
    octets_lost: Annotated[Count, Meta(description="counted in lost records")]
    refusals: Annotated[Count, Meta(description="ICMP errors")]
    times_clamped: Annotated[Count, Meta(description="records with times beyond versions 5 and 9")]
    last_error: Annotated[str, Meta(description="the kernel's error text; empty without one")]


class ExportState(Struct, kw_only=True):
    """`export` of status and stop."""

    enabled: bool
    export_interval_sec: Annotated[
        IntervalSec, Meta(description="the shortest interval, in force for all")
    ]
    profile: Literal["compat", "full"]
    biflow: bool
    max_message_bytes: int
    collectors: list[CollectorState]


class BufferState(Struct, kw_only=True):
    """The capture buffer, in memory and in segment files. A super-packet is one packet here."""

    bytes_used: Count
    bytes_capacity: Count
    packets: Count
    oldest_time: Time | None
    newest_time: Time | None
    segments: Count
    segment_bytes: Count


class BusState(Struct, kw_only=True):
    """`bus` of status and stop: the agent's connections to NATS."""

    connected: Annotated[bool, Meta(description="all connections are up")]
    denied: Annotated[list[str], Meta(description="subjects that the server denied")]
    denials: Annotated[Count, Meta(description="messages and subscriptions that it denied")]


class EncryptionState(Struct, kw_only=True):
    cipher_suite: str
    key_file: str
    key_id: Annotated[str, Meta(description="names the key in segment files")]


class AvailableBackend(Struct, kw_only=True):
    name: BackendName
    description: str
    supported_features: list[str]


class UnavailableBackend(Struct, kw_only=True):
    name: BackendName
    description: str
    reason: Annotated[str, Meta(description="the loader's or kernel's error text")]


class BackendsReply(Reply, kw_only=True):
    available: list[AvailableBackend]
    unavailable: list[UnavailableBackend]


class MeterReply(Reply, kw_only=True):
    status: Literal["enabled", "disabled"]
    flow_timeout_sec: TimeoutSec
    active_timeout_sec: TimeoutSec
    message: str


class FileState(Struct, kw_only=True):
    """The replayed file. Files up to 64 MiB are read ahead; others are known at their end."""

    truncated: Annotated[bool | None, Meta(description="it ends early; null: not known yet")]
    detail: Annotated[str, Meta(description="where and how it is cut or damaged")]


class OwnersState(Struct, kw_only=True):
    """Whether the owners of flows are found."""

    found: bool
    detail: Annotated[str, Meta(description="what is missing, if they are wanted; empty: nothing")]


class UndecodedState(Struct, kw_only=True):
    """Packets of a link type that is not decoded, part of `non_flow.other_linktype`."""

    linktype: Annotated[int | None, Meta(description="LINKTYPE_ value; null: all further ones")]
    name: str
    packets: Count
    detail: str


class StartReply(Reply, kw_only=True):
    status: Literal["started"] = "started"
    session_id: str
    interface: str
    backend: BackendName
    buffer_size_mb: int
    file: FileState | UnsetType = UNSET


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
    file: FileState | UnsetType = UNSET
    bus: BusState | UnsetType = UNSET


class MeteringState(Struct, kw_only=True):
    enabled: bool
    flow_timeout_sec: TimeoutSec
    active_timeout_sec: TimeoutSec


class StatusSummary(Reply, kw_only=True):
    """The fields of `status` that are present with and without a session."""

    running: bool = False
    interface: str = ""
    backend: str = ""
    packets_captured: Count = 0
    packets_dropped: Count = 0
    uptime_sec: float = 0.0
    buffer_usage_percent: Percent = 0.0


if TYPE_CHECKING:  # mypy does not know classes that defstruct makes
    CountersReply = Reply
    StatusCounters = StatusSummary
else:

    def _add_counters(name: str, base: type[Reply], kind: Any, default: Any) -> type[Reply]:
        members = [(one, kind, default) for one in COUNTERS if one not in base.__struct_fields__]
        return defstruct(name, members, bases=(base,), kw_only=True, module=__name__)

    CountersReply = _add_counters("CountersReply", Reply, Count, 0)
    StatusCounters = _add_counters("StatusCounters", StatusSummary, Count | UnsetType, UNSET)


class InterfaceState(Struct, kw_only=True):
    """An interface of the session. The counters of all interfaces add up to the session's."""

    name: str
    ifindex: Annotated[int, Meta(ge=0, description="0: unknown, such as for a file")]
    captured: Annotated[bool, Meta(description="false: it no longer matches a pattern")]
    link_up: bool
    packets_captured: Count
    packets_dropped: Count
    packets_non_flow: Count
    bytes_captured: Count


class StatusReply(StatusCounters, kw_only=True):
    """Without a session every number is 0 and the session's fields are absent."""

    wanted: Annotated[
        CaptureOptions | UnsetType, Meta(description="the standing capture of this host")
    ] = UNSET
    wanted_by: WantedBy | UnsetType = UNSET
    reason: Annotated[
        str | UnsetType, Meta(description="why the wanted capture does not run as wanted")
    ] = UNSET
    drift: Annotated[
        str | UnsetType, Meta(description="the override in force, and when it lapses")
    ] = UNSET

    session_id: str | UnsetType = UNSET
    finished: bool | UnsetType = UNSET
    link_up: bool | UnsetType = UNSET
    interfaces: list[InterfaceState] | UnsetType = UNSET
    filter: str | UnsetType = UNSET
    attach: str | UnsetType = UNSET
    active_flows: Count | UnsetType = UNSET
    flow_table_size: Count | UnsetType = UNSET
    retention_sec: float | UnsetType = UNSET
    ring_used_percent: Percent | UnsetType = UNSET
    buffer_size_mb: int | UnsetType = UNSET
    non_flow: dict[str, Count] | UnsetType = UNSET
    undecoded: list[UndecodedState] | UnsetType = UNSET
    owners: OwnersState | UnsetType = UNSET
    file: FileState | UnsetType = UNSET
    ip_bytes: Count | UnsetType = UNSET
    ip_length_clamped: Count | UnsetType = UNSET
    fragments: Count | UnsetType = UNSET
    records_by_reason: dict[str, Count] | UnsetType = UNSET
    metering: MeteringState | UnsetType | None = UNSET
    export: ExportState | UnsetType | None = UNSET
    encryption: EncryptionState | UnsetType | None = UNSET
    buffer: BufferState | UnsetType = UNSET
    spool: SpoolState | UnsetType | None = UNSET
    taps: Annotated[list[TapState] | UnsetType, Meta(description="open taps")] = UNSET
    bus: BusState | UnsetType = UNSET
    bus_authenticated: Annotated[
        bool | UnsetType, Meta(description="false: a NATS server of the agent requires no login")
    ] = UNSET


class MetricsReply(CountersReply, kw_only=True):
    """Rates over `interval_sec` up to `time`, and cumulative counters."""

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
    """The message of `stream.metrics.<host>`; `seq` shows gaps within a `boot`."""

    boot: str
    seq: Count


class FlowSum(Struct, kw_only=True):
    """A row of `flows` with `by`: the values of those fields, and sums over the flows."""

    source_ip: str | UnsetType = UNSET
    dest_ip: str | UnsetType = UNSET
    source_port: int | UnsetType = UNSET
    dest_port: int | UnsetType = UNSET
    protocol: str | UnsetType = UNSET
    flows: Count
    packets: Count
    bytes: Count


class FlowsReply(Reply, kw_only=True):
    flows: list[FlowRecord]  # or FlowSum with `by`; see wire/schema.py
    active_flows: Count
    truncated: Annotated[bool, Meta(description="more rows match than this reply has")]
    next: Annotated[str, Meta(description="`after` for the next rows")] | UnsetType = UNSET


class RenderedFlowsReply(Reply, kw_only=True):
    """FlowsReply with the array that the C core rendered, unparsed."""

    flows: Raw
    active_flows: Count
    truncated: bool
    next: str | UnsetType = UNSET


class FirmwareReply(Reply, kw_only=True):
    """An invalid signature is a result (200), not an error."""

    valid: bool
    firmware_hash: Annotated[
        str, Meta(description="SHA-256 in hex; empty if the file was not read")
    ]
    signature_valid: bool
    message: str
    key_id: Annotated[str, Meta(description="the trusted key that signed")] | UnsetType = UNSET
    algorithm: str | UnsetType = UNSET


class SchemaReply(Reply, kw_only=True, omit_defaults=True):
    """The document with `host` added."""

    asyncapi: str
    info: dict[str, Any]
    default_content_type: str = field(name="defaultContentType", default="")
    channels: dict[str, Any]
    operations: dict[str, Any]
    components: dict[str, Any]


class EncryptionReply(Reply, kw_only=True):
    status: Literal["enabled", "disabled"]
    cipher_suite: str
    key_file: str
    key_id: Annotated[str, Meta(description="as in segment files")] | UnsetType = UNSET


class PacketsGap(Struct, kw_only=True):
    """A period with packets missing from the reply."""

    from_: Time = field(name="from")
    to: Time
    reason: Annotated[
        str,
        Meta(
            description=(
                "overwritten, unrecorded, unsealed, unopenable, spill_lost, dropped (on the way "
                "to the agent), replaced: in the buffer of an earlier session, "
                "or limit: left out because of max_bytes or max_packets"
            )
        ),
    ]


class PacketsReply(Reply, kw_only=True):
    """The pcapng file is at `bucket` and `object`, or at `path`."""

    packets: Count
    bytes: Count
    first_time: Time | None
    last_time: Time | None
    complete: Annotated[bool, Meta(description="no captured packet is missing")]
    gaps: list[PacketsGap]
    bucket: str | UnsetType = UNSET
    object: str | UnsetType = UNSET
    domain: Annotated[
        str | UnsetType, Meta(description="JetStream domain of the bucket, if one is configured")
    ] = UNSET
    path: str | UnsetType = UNSET
    sha256: str
    chunks_read: Count
    chunks_skipped: Annotated[int, Meta(ge=0, description="by their index")]


class RefusedObject(Struct, kw_only=True):
    """An object that was named and not deleted."""

    object: str
    reason: Annotated[str, Meta(description="not_found, other_owner, or newer than `older_than`")]


class PacketsDeleteReply(Reply, kw_only=True):
    deleted: list[str]
    bytes: Count
    refused: list[RefusedObject]


class TapInterfaceState(Struct, kw_only=True):
    """Its position in the list is its number in packet blocks."""

    name: str
    linktype: Annotated[int, Meta(ge=0, description="a LINKTYPE_ value")]
    tsresol: Annotated[int, Meta(description="times are in 10^-tsresol s")] = 9
    snaplen: int


class TapClock(Struct, kw_only=True):
    utc_ns: Annotated[int, Meta(description="the host's time at the reply")]
    offset_known: Annotated[bool, Meta(description="the host knows its error")] = False


class TapLimits(Struct, kw_only=True):
    credit: Annotated[Count, Meta(description="bytes allowed at first")]
    window_max: Annotated[Count, Meta(description="bytes allowed at once")]
    rate_kbps: Annotated[Count, Meta(description="0: no limit; falls while other taps are open")]
    snaplen: int
    duration_sec: int


class TapReply(Reply, kw_only=True):
    """The tap is open. Its messages come to `data` plus the host token."""

    tap: Annotated[str, Meta(description="id, for the subjects of credit and stop")]
    data: Annotated[str, Meta(description="subject of the messages")]
    interfaces: list[TapInterfaceState]
    clock: TapClock
    limits: TapLimits
    lease_sec: Annotated[int, Meta(description="without credit for this time, the tap ends")]


class TapCreditReply(Reply, kw_only=True):
    """The reply to a credit or a stop that was sent as a request."""

    utc_ns: Annotated[int, Meta(description="the host's time at the reply")]


class TapState(Struct, kw_only=True):
    """An open tap, in packets and bytes of their blocks."""

    tap: str
    filter: str
    age_sec: float
    packets_matched: Count
    packets_sent: Count
    packets_lost: Count
    bytes_sent: Count


class ExportReply(Reply, kw_only=True):
    status: Literal["enabled", "disabled"]
    collector_ip: str
    collector_port: Port
    export_interval_sec: IntervalSec
