"""Parses messages of the flow stream.

Records of a JSON batch stay the bytes that the agent's core rendered. MessagePack and IPFIX are
decoded only when lines or records are needed. The C core decodes IPFIX. Its lines are converted
to the stream's records: `packets` and `bytes` of both directions, times in RFC 3339.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Raw, Struct

from ..errors import NetsondeError
from ..wire.instant import rfc3339
from ..wire.protocols import protocol_name

JSON, MSGPACK, IPFIX = "application/json", "application/msgpack", "application/ipfix"
TIMES = ("first_seen", "last_seen", "flow_start")
BOTH_WAYS = ("packets", "bytes", "l2_bytes")
NAME_MAX = 255  # characters of a host or session
MESSAGE_FIELDS = ("version", "domain", "sequence", "export_time", "template", "kind")


class UnreadableError(NetsondeError):
    """A malformed batch of flow records."""


class _Envelope(Struct):
    host: str
    boot: str
    seq: int
    session_id: str
    records: list[Raw]


_Count = Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]


class _Counts(Struct):
    packets: _Count = 0
    bytes: _Count = 0


_decode_json = msgspec.json.Decoder(_Envelope).decode
_decode_msgpack = msgspec.msgpack.Decoder(_Envelope).decode
_decode_sums = msgspec.json.Decoder(list[_Counts]).decode
_decode_json_record = msgspec.json.Decoder(dict[str, Any]).decode
_decode_msgpack_record = msgspec.msgpack.Decoder(dict[str, Any]).decode

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

    def lines_and_counts(self) -> tuple[list[bytes], Counts]:
        """Renders each record as a JSON object, host and session first. Raises UnreadableError."""
        fields = msgspec.json.encode({"host": self.host, "session_id": self.session_id})
        head = fields[:-1] + b","
        records = self._texts()
        try:
            sums = _decode_sums(b"[" + b",".join(records) + b"]")
        except (msgspec.DecodeError, RecursionError) as error:
            raise UnreadableError(str(error)) from None
        if b"{}" in records:
            raise UnreadableError("a record without fields")
        counts = (len(records), sum(one.packets for one in sums), sum(one.bytes for one in sums))
        return [head + record[1:] for record in records], counts

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
                return [_decode_json_record(record) for record in self.records]
            if self.encoding == MSGPACK:
                return [_with_times(_decode_msgpack_record(record)) for record in self.records]
        except (
            msgspec.DecodeError, OverflowError, RecursionError, TypeError, ValueError
        ) as error:  # fmt: skip
            raise UnreadableError(str(error)) from None
        return list(_ipfix(self.data))


def _with_times(one: dict[str, Any]) -> dict[str, Any]:
    for name in TIMES:
        if name in one:
            one[name] = rfc3339(one[name])
    return one


def read_batch(data: bytes, headers: dict[str, str] | None) -> Batch:
    """Parses a message; records are decoded later. Raises UnreadableError."""
    head = headers or {}
    kind = head.get("Content-Type", JSON)
    try:
        if kind == IPFIX:
            host, session_id = head["Host"], head["Session-Id"]
            if max(len(host), len(session_id)) > NAME_MAX:
                raise UnreadableError(f"host or session name longer than {NAME_MAX} characters")
            return Batch(host, head["Boot"], int(head["Seq"]), session_id, kind, [], data)
        found = {JSON: _decode_json, MSGPACK: _decode_msgpack}[kind](data)
    except KeyError as error:
        raise UnreadableError(f"{kind}: missing header or unknown type {error}") from None
    except (msgspec.DecodeError, RecursionError, ValueError) as error:
        raise UnreadableError(str(error)) from None
    return Batch(
        found.host, found.boot, found.seq, found.session_id, kind, found.records, b""
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
    if "protocol_number" in one:
        one["protocol"] = protocol_name(one["protocol_number"])
    return one
