"""Parses messages of the flow stream.

Records of a JSON batch stay the bytes that the agent's core rendered. MessagePack and IPFIX are
decoded only when lines or records are needed. The C core decodes IPFIX. Its lines are converted
to the stream's records: `packets` and `bytes` of both directions, times in RFC 3339.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, Raw, Struct

from ..errors import NetsondeError
from ..wire.instant import rfc3339
from ..wire.protocols import protocol_name
from ..wire.quantity import counted
from ..wire.subjects import stream_host

JSON, MSGPACK, IPFIX = "application/json", "application/msgpack", "application/ipfix"
COPIED = "Nats-Stream"  # header of a stored message that JetStream sends as a reply
TIMES = ("first_seen", "last_seen", "flow_start")
BOTH_WAYS = ("packets", "bytes", "l2_bytes")
OWN_NAMES = ("host", "session_id")  # added to each record
MESSAGE_FIELDS = ("version", "domain", "sequence", "export_time", "template", "kind")


class UnreadableError(NetsondeError):
    """A malformed batch of flow records."""


class WrongHostError(UnreadableError):
    """A batch that names another host than its subject."""


_Name = Annotated[str, Meta(min_length=1, max_length=255)]


_Count = Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]


class _Head(Struct):
    host: _Name
    boot: Annotated[str, Meta(min_length=1, max_length=64)]
    seq: Annotated[int, Meta(ge=1, le=(1 << 63) - 1)]
    session_id: Annotated[str, Meta(max_length=255)]


class _Envelope(_Head):
    records: list[Raw]


class _IpfixHead(_Head):
    announced: _Count | None = None


class _Sums(Struct):
    """The fields that the collector reads from each record."""

    packets: _Count = 0
    bytes: _Count = 0
    first_seen: Any = None
    last_seen: Any = None
    duration_us: Any = None
    host: Any = UNSET
    session_id: Any = UNSET


_decode_json = msgspec.json.Decoder(_Envelope).decode
_decode_msgpack = msgspec.msgpack.Decoder(_Envelope).decode
_decode_sums = msgspec.json.Decoder(list[_Sums]).decode
_decode_json_record = msgspec.json.Decoder(dict[str, Any]).decode
_decode_msgpack_record = msgspec.msgpack.Decoder(dict[str, Any]).decode

_HEADERS = {"host": "Host", "boot": "Boot", "seq": "Seq", "session_id": "Session-Id"}
_MICROSECOND = timedelta(microseconds=1)
_NANOSECONDS_LENGTH = len("2026-01-02T03:04:05.678901234Z")

Counts = tuple[int, int, int]  # records, packets, bytes


@dataclass(slots=True)
class Batch:
    host: str
    boot: str
    seq: int
    session_id: str
    encoding: str
    records: list[Raw]  # JSON or MessagePack; empty for IPFIX
    data: bytes  # IPFIX; else empty
    announced: int | None = None  # IPFIX: the number of records

    def check_count(self, records: int) -> None:
        """Raises UnreadableError if IPFIX records are missing: damaged sets are skipped."""
        expected = max(records, 1) if self.announced is None else self.announced
        if self.encoding == IPFIX and records != expected:
            announced = counted(expected, "record is", "records are")
            raise UnreadableError(f"{records} of {announced} readable")

    def lines_and_counts(self) -> tuple[list[bytes], Counts]:
        """Renders each record as a JSON object: host and session first, `duration_us` last.
        Raises UnreadableError."""
        fields = msgspec.json.encode({"host": self.host, "session_id": self.session_id})
        head = fields[:-1] + b","
        records = self._texts()
        try:
            sums = _decode_sums(b"[" + b",".join(records) + b"]")
        except (msgspec.DecodeError, RecursionError) as error:
            raise UnreadableError(str(error)) from None
        if b"{}" in records:
            raise UnreadableError("a record without fields")
        if any(one.host is not UNSET or one.session_id is not UNSET for one in sums):
            raise WrongHostError("a record has the field host or session_id")
        self.check_count(len(records))
        counts = (len(records), sum(one.packets for one in sums), sum(one.bytes for one in sums))
        lines = [
            head + record[1:-1] + _duration_field(one)
            for record, one in zip(records, sums, strict=True)
        ]
        return lines, counts

    def _texts(self) -> list[bytes]:
        """Renders each record as one line; JSON lines are not encoded again."""
        if self.encoding == JSON:
            records = [bytes(record) for record in self.records]
            if not any(b"\n" in record or record[1:2].isspace() for record in records):
                return records
        return [msgspec.json.encode(one) for one in self.objects()]

    def objects(self) -> list[dict[str, Any]]:
        """Decodes the records, independent of the encoding. Raises UnreadableError."""
        try:
            if self.encoding == JSON:
                found = [_decode_json_record(record) for record in self.records]
            elif self.encoding == MSGPACK:
                found = [_with_times(_decode_msgpack_record(record)) for record in self.records]
            else:
                found = list(_ipfix(self.data))
                self.check_count(len(found))
        except (
            msgspec.DecodeError, OverflowError, RecursionError, TypeError, ValueError
        ) as error:  # fmt: skip
            raise UnreadableError(str(error)) from None
        if any(name in one for one in found for name in OWN_NAMES):
            raise WrongHostError("a record has the field host or session_id")
        return found


def _duration_field(sums: _Sums) -> bytes:
    """Returns the end of a line: the duration in whole microseconds, if both times are known.
    DuckDB cannot subtract times in nanoseconds."""
    first, last = sums.first_seen, sums.last_seen
    if sums.duration_us is not None or first is None or last is None:
        return b"}"
    try:
        span = datetime.fromisoformat(last) - datetime.fromisoformat(first)
    except (TypeError, ValueError):
        return b"}"
    duration_us = span // _MICROSECOND
    if len(first) == len(last) == _NANOSECONDS_LENGTH and last[26:29] < first[26:29]:
        duration_us -= 1  # fromisoformat ignores the nanoseconds
    return b',"duration_us":%d}' % duration_us


def _with_times(one: dict[str, Any]) -> dict[str, Any]:
    for name in TIMES:
        if name in one:
            one[name] = rfc3339(one[name])
    return one


def read_batch(subject: str, data: bytes, headers: dict[str, str] | None) -> Batch:
    """Parses a message; records are decoded later. Raises UnreadableError, and WrongHostError if
    the batch does not name the host of its subject."""
    fields = headers or {}
    if COPIED in fields:
        raise WrongHostError("JetStream sent it as a reply, not a host")
    kind = fields.get("Content-Type", JSON)
    found: _IpfixHead | _Envelope
    records: list[Raw] = []
    try:
        if kind == IPFIX:
            named: dict[str, str | None] = {
                name: fields[header] for name, header in _HEADERS.items()
            }
            named["announced"] = fields.get("Records")
            found = msgspec.convert(named, _IpfixHead, strict=False)
        else:
            found = {JSON: _decode_json, MSGPACK: _decode_msgpack}[kind](data)
            records, data = found.records, b""
    except KeyError as error:
        raise UnreadableError(f"{kind}: missing header or unknown type {error}") from None
    except (msgspec.DecodeError, RecursionError, ValueError) as error:
        raise UnreadableError(str(error)) from None
    if found.host != stream_host(subject):
        raise WrongHostError(f"the batch names host {found.host!r}, not the host of its subject")
    announced = found.announced if isinstance(found, _IpfixHead) else None
    return Batch(
        found.host, found.boot, found.seq, found.session_id, kind, records, data, announced
    )  # fmt: skip


# ---- IPFIX ---------------------------------------------------------------------------------


def _ipfix(data: bytes) -> Iterator[dict[str, Any]]:
    from ..core.ipfix import decode_export

    for line in decode_export(data):
        yield _whole(msgspec.json.decode(line))


def _whole(one: dict[str, Any]) -> dict[str, Any]:
    for name in MESSAGE_FIELDS:
        one.pop(name, None)
    for name in BOTH_WAYS:
        if name in one:
            one[name] += one.setdefault(f"reverse_{name}", 0)
    if "input_ifindex" in one and "output_ifindex" in one:  # by direction; the other is 0
        one["ifindex"] = one.pop("input_ifindex") | one.pop("output_ifindex")
    if "protocol_number" in one:
        one["protocol"] = protocol_name(one["protocol_number"])
    return one
