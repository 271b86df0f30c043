"""Flow records, their batches, and the state of the spool.

The C core renders records and the agent publishes them unparsed. These types define the schema
and serve readers. Times are RFC 3339 with nanoseconds in JSON, and nanoseconds since the epoch
in MessagePack.
"""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

Count = Annotated[int, Meta(ge=0)]
Time = Annotated[str, Meta(description="RFC 3339, UTC, with nanoseconds")]


class Tunnel(Struct, kw_only=True):
    type: str
    id: int | None = None
    outer_source_ip: str
    outer_dest_ip: str


class Process(Struct, kw_only=True):
    """The owner of one end of a flow. Unknown members are null."""

    pid: int | None
    start_ticks: Annotated[int, Meta(description="clock ticks from boot to its start")] | None
    name: Annotated[str, Meta(max_length=15)] | None
    exe: Annotated[str, Meta(max_length=191)] | None
    uid: int | None
    cgroup: Annotated[str, Meta(max_length=255)] | None
    unit: Annotated[str, Meta(max_length=95)] | None
    container: Annotated[str, Meta(max_length=64)] | None
    pod: Annotated[str, Meta(max_length=36)] | None
    how: Literal["connect", "create", "listener", "found", "unknown"]
    reason: Literal["forwarded", "kernel", "before_start", "lost", "nat"] | None
    shared: Annotated[bool, Meta(description="a second process used the socket")]
    side: Literal["source", "dest"] | None


class FlowRecord(Struct, kw_only=True):
    """One flow, with the deltas since its previous record."""

    flow_id: Annotated[str, Meta(pattern="^[0-9a-f]{16}$")]
    community_id: str
    source_ip: str
    dest_ip: str
    source_port: int
    dest_port: int
    protocol: str
    protocol_number: int
    ip_version: Literal[4, 6]
    vlan: list[int]
    mpls_label: int | None
    source_mac: str | None
    dest_mac: str | None
    icmp_type: int | None
    icmp_code: int | None
    packets: Count
    bytes: Count
    l2_bytes: Count
    reverse_packets: Count
    reverse_bytes: Count
    reverse_l2_bytes: Count
    tcp_flags: int
    reverse_tcp_flags: int
    tos: int
    ttl_min: int
    ttl_max: int
    fragments: Count
    retransmissions: Count
    out_of_order: Count
    handshake_rtt_us: int | None
    first_seen: Time | int
    last_seen: Time | int
    flow_start: Time | int
    segment: Count
    final: bool
    total_packets: Count
    total_bytes: Count
    end_reason: Literal["idle", "active", "end", "forced", "resources"] | None
    interface: str
    ifindex: Annotated[int, Meta(ge=0, description="0: unknown, such as for a file")] = 0
    direction: Literal["ingress", "egress", "unknown"]
    tunnel: Tunnel | None
    sampling_interval: int
    timestamps_late: Annotated[
        int, Meta(ge=0, description="packets older than first_seen, not corrected")
    ] = 0
    app: Literal["tls", "quic", "dns", "mdns", "http"] | None = None
    name: (
        Annotated[str, Meta(max_length=255, description="printable ASCII; other bytes as \\DDD")]
        | None
    ) = None
    name_source: Literal["sni", "host", "qname", "dns"] | None = None
    alpn: Annotated[list[str], Meta(description="the first two that the client offers")] | None = (
        None
    )
    tls_version: Literal["ssl3", "1.0", "1.1", "1.2", "1.3"] | None = None
    ech: Annotated[bool, Meta(description="the ClientHello has the extension 65037")] | None = None
    label_state: Literal["off", "not_seen", "skipped", "partial", "complete"] = "off"
    process: (
        Annotated[Process, Meta(description="the owner of one local end; null: owners are off")]
        | None
    ) = None
    peer_process: (
        Annotated[Process, Meta(description="the owner of the other end, if it is local too")]
        | None
    ) = None


class FlowBatch(Struct, kw_only=True):
    """The message of `stream.flows.<host>`: at most 1,000 records and 256 KiB."""

    host: str
    boot: Annotated[str, Meta(description="run of the agent; later runs sort after it")]
    seq: Annotated[int, Meta(ge=1, description="1, 2, … in one boot, without gaps")]
    session_id: str
    first_time: Time | int
    last_time: Time | int
    records: list[FlowRecord]


class SpoolState(Struct, kw_only=True):
    """The spool between the agent and JetStream. Counts of lost records survive restarts."""

    bytes_used: Count
    bytes_max: Count
    records_waiting: Annotated[int, Meta(ge=0, description="stored, not yet acknowledged")]
    records_lost: Count
    packets_lost: Count
    messages_in_flight: Count
    messages_acknowledged: Count
    messages_resent: Count
    last_refusal: Annotated[str, Meta(description="the server's error text; empty without one")] = (
        ""
    )
