"""The part of messages.py about the capture buffer: its state, sealing, retrieval. A leaf."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from msgspec import UNSET, Meta, Struct, UnsetType, field

from .records import Count, Time
from .verb import Reply, Request

Moment = Annotated[str, Meta(max_length=64, description="RFC 3339 with an offset, or like -5m")]
Place: TypeAlias = Literal["object_store", "file"]


class BufferState(Struct, kw_only=True):
    """The capture buffer, in memory and in segment files. A super-packet is one packet here."""

    bytes_used: Count
    bytes_capacity: Count
    packets: Count
    oldest_time: Time | None
    newest_time: Time | None
    segments: Count
    segment_bytes: Count


class EncryptionRequest(Request, kw_only=True):
    """Seal the capture buffer, or leave what comes from now on in clear."""

    cipher_suite: Annotated[str, Meta(max_length=64, description="AES-256-GCM")]
    key_file: Annotated[str, Meta(max_length=4096, description="on the host, in key_dirs")]
    enable: bool = True


class EncryptionReply(Reply, kw_only=True):
    status: Literal["enabled", "disabled"]
    cipher_suite: str
    key_file: str
    key_id: Annotated[str, Meta(description="as in segment files")] | UnsetType = UNSET


class EncryptionState(Struct, kw_only=True):
    cipher_suite: str
    key_file: str
    key_id: Annotated[str, Meta(description="names the key in segment files")]


class PacketsRequest(Request, kw_only=True):
    """Packets out of the capture buffer, as pcapng."""

    filter: Annotated[str, Meta(max_length=16384, description="a BPF expression")] = ""
    start: Annotated[Moment, Meta(min_length=1)] | None = None
    end: Annotated[Moment, Meta(min_length=1)] | None = None
    max_bytes: Annotated[int, Meta(ge=1, le=2**40, description="of pcapng")] = 64 << 20
    max_packets: Annotated[int, Meta(ge=1, le=2**63 - 1)] | None = None
    to: Place


class PacketsGap(Struct, kw_only=True):
    """A time in which packets are missing from the answer."""

    from_: Time = field(name="from")
    to: Time
    reason: Annotated[
        str,
        Meta(
            description=(
                "overwritten, unrecorded, unsealed, unopenable, spill_lost, dropped (on the way "
                "to the agent), or limit: left out because of max_bytes or max_packets"
            )
        ),
    ]


class PacketsReply(Reply, kw_only=True):
    """`bucket` and `object`, or `path`, tell where the pcapng file is."""

    packets: Count
    bytes: Count
    first_time: Time | None
    last_time: Time | None
    complete: Annotated[bool, Meta(description="nothing that was captured is missing")]
    gaps: list[PacketsGap]
    bucket: str | UnsetType = UNSET
    object: str | UnsetType = UNSET
    path: str | UnsetType = UNSET
    sha256: str
    chunks_read: Count
    chunks_skipped: Annotated[int, Meta(ge=0, description="by their index")]
