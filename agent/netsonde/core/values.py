"""The values that cross between the agent and the C core.

Frozen dataclasses without handles or pointers, so that their users can be tested without the
core. Names follow native/include/netsonde.h.
"""

from __future__ import annotations

import builtins
from dataclasses import dataclass

from ..wire.counters import CoreCounters


@dataclass(frozen=True, slots=True)
class BackendReport:
    name: str
    description: str
    features: tuple[str, ...]
    usable: bool
    reason: str


@dataclass(frozen=True, slots=True)
class CaptureSettings:
    """struct sonde_session_config."""

    backend: str
    interface: str  # the name in the request
    filter: str
    file_fd: int
    workers: int
    snaplen: int
    ring_bytes: int
    flow_table_size: int
    record_ring_size: int
    promiscuous: bool
    dedicated: bool
    tunnel_inner: bool
    replay_speed: float
    metering: bool
    idle_timeout_sec: int
    active_timeout_sec: int
    buffer_bytes: int
    buffer_dir: str  # "": memory only
    buffer_disk_bytes: int
    vxlan_ports: tuple[int, ...] = (4789, 8472)
    interfaces: tuple[str, ...] = ()  # to capture from; empty: `interface`
    host: str = ""  # before the interface's name in recordings
    exclude_own: bool = False
    labels: tuple[str, ...] = ()  # names of LABEL_PROTOCOLS
    label_bytes: int = 0
    owners: bool = False
    quic_per_second: int = 0


@dataclass(frozen=True, slots=True)
class InterfaceStats:
    """struct sonde_interface_stats. captured: whether the session captures from it now."""

    name: str
    slot: int
    ifindex: int
    captured: bool
    link_up: bool
    packets_captured: int
    bytes_captured: int
    packets_dropped: int
    packets_non_flow: int


@dataclass(frozen=True, slots=True)
class CollectorSettings:
    """struct sonde_collector_config and the export interval. standing: from the configuration."""

    address: str
    port: int
    version: int
    interval_sec: int
    standing: bool
    full: bool
    biflow: bool
    message_bytes_max: int
    enterprise: int
    pace_bytes_per_sec: int

    @property
    def key(self) -> tuple[str, int]:
        return self.address, self.port


@dataclass(frozen=True, slots=True)
class CollectorStats:
    """One snapshot of struct sonde_collector_stats."""

    address: str
    port: int
    version: int
    connected: bool
    messages_sent: int
    bytes_sent: int
    templates_sent: int
    records_sent: int
    packets_sent: int
    octets_sent: int
    records_skipped_ipv6: int
    records_lost_refused: int
    records_lost_no_room: int
    records_lost_error: int
    packets_lost: int
    octets_lost: int
    refusals: int
    times_clamped: int
    last_error: str

    @property
    def records_lost(self) -> int:
        return self.records_lost_refused + self.records_lost_no_room + self.records_lost_error


@dataclass(frozen=True, slots=True)
class DecodedMessage:
    """One decoded NetFlow or IPFIX message. text: one JSON object per line."""

    bytes: int
    version: int
    domain: int
    sequence: int
    export_ns: int
    records: int
    templates: int
    sets_unknown: int
    malformed: int
    templates_refused: int
    text: builtins.bytes


@dataclass(frozen=True, slots=True)
class OwnerMatch:
    """struct sonde_owner_match: patterns, and the id of a process. None: any."""

    unit: str | None = None
    container: str | None = None
    pod: str | None = None
    process: str | None = None
    pid: int | None = None


@dataclass(frozen=True, slots=True)
class FlowMatch:
    """struct sonde_flow_match. None: any."""

    ip: bytes | None = None
    ip_bits_ignored: int = 0
    port: int | None = None
    protocol: int | None = None
    name: str | None = None
    owner: OwnerMatch | None = None


@dataclass(frozen=True, slots=True)
class FlowQuery:
    """by: fields to add up by; empty: list the flows. hidden: rendered as null."""

    limit: int
    sort: str
    min_packets: int
    match: FlowMatch = FlowMatch()
    excluded: FlowMatch | None = None
    by: tuple[str, ...] = ()
    hidden: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class FlowPage:
    """data: one rendered array. following: the cursor of the next page, or empty."""

    data: bytes
    active: int
    truncated: bool
    following: str


@dataclass(frozen=True, slots=True)
class PacketQuery:
    """The arguments of sonde_session_packets_open; 0: no limit, until now."""

    filter: str
    start_ns: int
    end_ns: int
    max_bytes: int
    max_packets: int


@dataclass(frozen=True, slots=True)
class PacketGap:
    from_ns: int
    to_ns: int
    reason: str


@dataclass(frozen=True, slots=True)
class PacketSummary:
    """struct sonde_packets_summary."""

    packets: int
    bytes: int
    first_ns: int
    last_ns: int
    chunks_read: int
    chunks_skipped: int
    complete: bool
    gaps: tuple[PacketGap, ...]


@dataclass(frozen=True, slots=True)
class CoreEvent:
    kind: int
    time_ns: int
    value: int
    detail: str


@dataclass(frozen=True, slots=True)
class Batch:
    """Rendered records. data: one array, valid until the next drain."""

    data: bytes | memoryview
    records: int
    packets: int
    first_ns: int
    last_ns: int


@dataclass(frozen=True, slots=True)
class Undecoded:
    """Packets of a link type that the decoder does not know. name: that of libpcap, or empty."""

    linktype: int
    name: str
    description: str
    packets: int


@dataclass(frozen=True, slots=True)
class Stats(CoreCounters):
    """One snapshot of struct sonde_stats."""

    time_ns: int = 0
    heartbeat: int = 0
    ip_bytes: int = 0
    ip_length_clamped: int = 0
    fragments: int = 0
    flows_active: int = 0
    flow_table_size: int = 0
    ring_used_permille: int = 0
    buffer_bytes_used: int = 0
    buffer_bytes_capacity: int = 0
    buffer_oldest_ns: int = 0
    buffer_newest_ns: int = 0
    buffer_packets: int = 0
    segments: int = 0
    segment_bytes: int = 0
    finished: bool = False
    link_up: bool = True
    metering: bool = False
    encrypted: bool = False
    attach: str = ""
    file_state: bool | None = None  # whether it is cut; None: not known yet, or no file
    file_detail: str = ""
    owners: bool = False  # whether owners of flows are found
    owners_missing: str = ""  # why not, or what the kernel lacks
    undecoded: tuple[Undecoded, ...] = ()
    non_flow: tuple[tuple[str, int], ...] = ()
    records_by_reason: tuple[tuple[str, int], ...] = ()

    @property
    def packets_metered(self) -> int:
        """Packets that flow records count or will count."""
        return self.packets_captured - self.packets_non_flow - self.packets_unmetered
