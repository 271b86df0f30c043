"""The request and replies about NetFlow and IPFIX export, as in messages.py. A leaf."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from msgspec import Meta, Struct

from .records import Count
from .verb import Port, Reply, Request

IntervalSec = Annotated[int, Meta(ge=1, le=3600)]
Version: TypeAlias = Literal[5, 9, 10]


class ExportRequest(Request, kw_only=True):
    """Add a collector of flow records, change it (same address and port), or remove it."""

    collector_ip: Annotated[
        str, Meta(max_length=256, description="IPv4 or IPv6 address of one host, no name")
    ]
    collector_port: Port
    export_interval_sec: Annotated[
        IntervalSec,
        Meta(description="the session's active timeout while it exports; of several the least"),
    ] = 60
    version: Annotated[Version, Meta(description="NetFlow 5 or 9, or 10 for IPFIX")] = 9
    enable: bool = True


class ExportReply(Reply, kw_only=True):
    status: Literal["enabled", "disabled"]
    collector_ip: str
    collector_port: Port
    export_interval_sec: IntervalSec


class LostRecords(Struct, kw_only=True):
    """Made, but not sent: by what was in the way."""

    refused: Annotated[Count, Meta(description="an ICMP error came back")] = 0
    no_room: Annotated[Count, Meta(description="more came than could be sent")] = 0
    error: Annotated[Count, Meta(description="no route, no interface, not permitted")] = 0


class CollectorState(Struct, kw_only=True):
    """Counters are since the collector was added; records as a collector counts them, one a
    direction."""

    collector_ip: str
    collector_port: Port
    version: Version
    export_interval_sec: IntervalSec
    standing: Annotated[bool, Meta(description="named in the agent's configuration")]
    connected: Annotated[bool, Meta(description="false: no way there; tried every second")]
    messages_sent: Count
    bytes_sent: Annotated[Count, Meta(description="of messages")]
    templates_sent: Count
    records_sent: Count
    packets_sent: Annotated[Count, Meta(description="told of in those records")]
    octets_sent: Annotated[Count, Meta(description="told of in those records")]
    records_skipped_ipv6: Annotated[Count, Meta(description="NetFlow 5 cannot say them")]
    records_lost: LostRecords
    packets_lost: Annotated[Count, Meta(description="told of in lost records")]
    octets_lost: Annotated[Count, Meta(description="told of in lost records")]
    refusals: Annotated[Count, Meta(description="ICMP errors")]
    times_clamped: Annotated[Count, Meta(description="records with times versions 5, 9 lack")]
    last_error: Annotated[str, Meta(description="in the kernel's words, empty if none")]


class ExportState(Struct, kw_only=True):
    """`export` of status and stop."""

    enabled: bool
    export_interval_sec: Annotated[IntervalSec, Meta(description="in force: the least of all")]
    profile: Literal["compat", "full"]
    biflow: bool
    max_message_bytes: int
    collectors: list[CollectorState]
