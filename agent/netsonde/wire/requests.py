"""The bodies of requests.

msgspec rejects unknown fields and values out of range, which the service answers with 422.
schemas/asyncapi.json is generated from the types of this package.
"""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias, get_args

from msgspec import UNSET, Meta, Struct, UnsetType, field

TimeoutSec = Annotated[int, Meta(ge=1, le=86400)]
Port = Annotated[int, Meta(ge=1, le=65535)]
IntervalSec = Annotated[int, Meta(ge=1, le=3600)]
Version: TypeAlias = Literal[5, 9, 10]
Moment = Annotated[str, Meta(max_length=64, description="RFC 3339 with an offset, or like -5m")]
Place: TypeAlias = Literal["object_store", "file"]
OVERRIDE_SEC = 3600
Override: TypeAlias = Annotated[
    bool, Meta(description="also change a capture that the configuration or a policy wants")
]
OverrideSec: TypeAlias = Annotated[
    int, Meta(ge=1, le=604_800, description="`override`: time until that capture is restored")
]
BackendName: TypeAlias = Literal["af_packet", "pcap", "xdp", "dpdk", "pf_ring", "file"]
BACKEND_NAMES: tuple[str, ...] = get_args(BackendName)


class Request(Struct, kw_only=True, forbid_unknown_fields=True):
    """Root of all request bodies."""


class BackendsRequest(Request):
    """The host's capture backends."""


class MeterOptions(Request, kw_only=True):
    """Flow records on or off. A missing timeout keeps the session's value."""

    enable: bool
    flow_timeout_sec: Annotated[
        TimeoutSec | UnsetType, Meta(description="300 until a request has set it")
    ] = UNSET
    active_timeout_sec: Annotated[
        TimeoutSec | UnsetType, Meta(description="60 until a request has set it")
    ] = UNSET


class MeterRequest(MeterOptions, kw_only=True):
    """Turn flow records on or off. A missing timeout keeps the session's value."""

    override: Override = False
    override_sec: OverrideSec = OVERRIDE_SEC


class ExportOptions(Request, kw_only=True):
    """A collector of flow records, identified by address and port."""

    collector_ip: Annotated[
        str, Meta(max_length=256, description="IPv4 or IPv6 address of one host")
    ]
    collector_port: Port
    export_interval_sec: Annotated[
        IntervalSec,
        Meta(description="active timeout while exporting; the shortest of all"),
    ] = 60
    version: Annotated[Version, Meta(description="NetFlow 5 or 9, or 10 for IPFIX")] = 9
    enable: bool = True


class ExportRequest(ExportOptions, kw_only=True):
    """Add a collector of flow records, change it (same address and port), or remove it."""

    override: Override = False
    override_sec: OverrideSec = OVERRIDE_SEC


class EncryptionOptions(Request, kw_only=True):
    """The key that seals the capture buffer."""

    cipher_suite: Annotated[str, Meta(max_length=64, description="AES-256-GCM")]
    key_file: Annotated[str, Meta(max_length=4096, description="on the host, in key_dirs")]
    enable: bool = True


class EncryptionRequest(EncryptionOptions, kw_only=True):
    """Seal the capture buffer, or store new packets unencrypted."""

    override: Override = False
    override_sec: OverrideSec = OVERRIDE_SEC


class CaptureOptions(Request, kw_only=True):
    """One capture: the keys of `[session]`, and `wanted` of `status`."""

    interface: Annotated[
        str,
        Meta(
            max_length=4096,
            description="names and patterns separated by commas, or `any`; for `file` a path",
        ),
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
    metering: MeterOptions | None = None
    export: ExportOptions | None = None
    encryption: EncryptionOptions | None = None


class StartRequest(CaptureOptions, kw_only=True):
    """Start the host's one capture session."""

    persist: Annotated[
        bool, Meta(description="start the capture again after an agent restart, until `stop`")
    ] = False
    override: Override = False
    override_sec: OverrideSec = OVERRIDE_SEC


class StopRequest(Request, kw_only=True):
    """End the session. The reply follows the last published record."""

    reason: Annotated[str, Meta(max_length=256)] = "manual"
    override: Override = False
    override_sec: OverrideSec = OVERRIDE_SEC


class StatusRequest(Request):
    """The session (200), or an empty status without one (204)."""


class MetricsRequest(Request):
    """Rates over the last full metrics interval, and the counters."""


Pattern: TypeAlias = Annotated[
    str, Meta(min_length=1, max_length=255, pattern=r"^[ -~]*$", description="with *, ? and []")
]


class FlowsMatch(Request, kw_only=True):
    """Either side matches `ip` and `port`, and one owner matches unit, container, pod and process.
    protocol and process are a name or a number."""

    ip: (
        Annotated[str, Meta(max_length=64, description="an address or a network in CIDR")] | None
    ) = None
    port: Annotated[int, Meta(ge=0, le=65535)] | None = None
    protocol: Annotated[str, Meta(max_length=16)] | Annotated[int, Meta(ge=0, le=255)] | None = None
    name: Pattern | None = None
    unit: Pattern | None = None
    container: Pattern | None = None
    pod: Pattern | None = None
    process: Pattern | Annotated[int, Meta(ge=1, le=2**31 - 1)] | None = None


class FlowsFilter(FlowsMatch, kw_only=True):
    """A flow must match all of these, and must not match all of `not`."""

    not_: FlowsMatch | None = field(default=None, name="not")


FlowsBy: TypeAlias = Literal["source_ip", "dest_ip", "source_port", "dest_port", "protocol"]


class FlowsRequest(Request, kw_only=True):
    """Cumulative totals of the active flows, or their sums by some fields."""

    limit: Annotated[int, Meta(ge=1, le=10000)] = 100
    min_packets: Annotated[int, Meta(ge=0, le=2**63 - 1)] = 1
    sort: Literal["bytes", "packets", "recent"] = "bytes"
    filter: FlowsFilter | None = None
    after: Annotated[str, Meta(max_length=512, description="`next` of the reply before")] | None = (
        None
    )
    by: (
        Annotated[
            list[FlowsBy],
            Meta(min_length=1, max_length=5, description="one row per value of these fields"),
        ]
        | None
    ) = None


class FirmwareRequest(Request, kw_only=True):
    """Verify a file's signature against the trusted keys. Both files are in [firmware] dirs."""

    firmware_path: Annotated[str, Meta(min_length=1, max_length=4096)]
    signature_path: Annotated[str, Meta(min_length=1, max_length=4096)]


class SchemaRequest(Request):
    """The AsyncAPI document of this agent."""


class PacketsRequest(Request, kw_only=True):
    """Packets out of the capture buffer, as pcapng."""

    filter: Annotated[str, Meta(max_length=16384, description="a BPF expression")] = ""
    start: Annotated[Moment, Meta(min_length=1)] | None = None
    end: Annotated[Moment, Meta(min_length=1)] | None = None
    max_bytes: Annotated[int, Meta(ge=1, le=2**40, description="of pcapng")] = 64 << 20
    max_packets: Annotated[int, Meta(ge=1, le=2**63 - 1)] | None = None
    to: Place


class PacketsDeleteRequest(Request, kw_only=True):
    """Delete results of `packets` from the host's bucket: by name, by age, or both."""

    objects: Annotated[
        list[Annotated[str, Meta(max_length=256)]],
        Meta(max_length=1000, description="their names; empty: all"),
    ] = []
    older_than: (
        Annotated[
            str,
            Meta(min_length=1, max_length=64, description="RFC 3339 with an offset, or like -2h"),
        ]
        | None
    ) = None
    all_owners: Annotated[bool, Meta(description="also those that other callers requested")] = False


TAP_WINDOW_MIN, TAP_WINDOW_MAX = 64 << 10, 4 << 20


class TapRequest(Request, kw_only=True):
    """Live copies of packets that match. They come to `data`, as far as `credit` allows."""

    filter: Annotated[str, Meta(max_length=4096, description="a BPF expression; required")] = ""
    data: Annotated[
        str,
        Meta(
            max_length=200,
            pattern=r"^_INBOX[A-Za-z0-9_-]*(\.[A-Za-z0-9_-]+)+$",
            description="inbox of the messages, to which the host token is added",
        ),
    ]
    snaplen: Annotated[int, Meta(ge=0, le=262144, description="bytes of a packet; 0: all")] = 256
    interface: Annotated[
        str, Meta(max_length=4096, description="names and patterns separated by commas")
    ] = ""
    direction: Literal["both", "in", "out"] = "both"
    max_packets: Annotated[int, Meta(ge=1, le=2**63 - 1)] | None = None
    max_bytes: Annotated[int, Meta(ge=1, le=2**40, description="of packet blocks")] | None = None
    duration_sec: Annotated[int, Meta(ge=1, le=3600)] = 60
    rate_kbps: (
        Annotated[int, Meta(ge=1, le=10**7, description="at most the host's own limit")] | None
    ) = None
    process: Pattern | Annotated[int, Meta(ge=1, le=2**31 - 1, description="the id")] | None = None
    credit: Annotated[
        int, Meta(ge=0, le=2**40, description="bytes to send at first; 64 KiB to 4 MiB are used")
    ] = 1 << 20


class TapCredit(Request, kw_only=True):
    """Allows a tap to send up to `bytes` in all, and keeps it open."""

    bytes: Annotated[int, Meta(ge=0, le=2**63 - 1, description="in all since the tap opened")]
    through_seq: Annotated[
        int, Meta(ge=0, le=2**63 - 1, description="the last message that arrived")
    ] = 0
