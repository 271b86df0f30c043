"""Flow records as columns: the schema, and IPFIX batches read into it without a Python object
for any record.

The data records of one template are of one size (the interface's name, the only variable
field, is the same all over a batch), so a set is a strided array and a field one stride of
it. What IPFIX does not carry is null. Hostile bytes cannot read beyond the message: every
length is checked against what is there, and a set that lies is left out.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import pyarrow as pa

from ..core_export import (
    HEX,
    IPV4,
    IPV6,
    MAC,
    TEXT_WIDTHS,
    Strided,
    column_numbers,
    column_sum,
    column_texts,
    ipfix_records,
    ipfix_sets,
)
from .batches import Counts

REVERSE = 29305  # RFC 5103
VARIABLE = 65535
NULLS = 1 << 18
TEMPLATE_SET, DATA_SET_MIN = 2, 256

_u8, _u16, _u32, _u64 = pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64()
_text, _time = pa.string(), pa.timestamp("ns", tz="UTC")
_word = pa.dictionary(pa.int32(), _text)  # one of a few

SCHEMA = pa.schema(
    [
        ("host", _word),
        ("session_id", _word),
        ("flow_id", _text),
        ("community_id", _text),
        ("source_ip", _text),
        ("dest_ip", _text),
        ("source_port", _u16),
        ("dest_port", _u16),
        ("protocol", _word),
        ("protocol_number", _u8),
        ("ip_version", _u8),
        ("vlan", pa.list_(_u16)),
        ("mpls_label", _u32),
        ("source_mac", _text),
        ("dest_mac", _text),
        ("icmp_type", _u8),
        ("icmp_code", _u8),
        ("packets", _u64),
        ("bytes", _u64),
        ("l2_bytes", _u64),
        ("reverse_packets", _u64),
        ("reverse_bytes", _u64),
        ("reverse_l2_bytes", _u64),
        ("tcp_flags", _u8),
        ("reverse_tcp_flags", _u8),
        ("tos", _u8),
        ("ttl_min", _u8),
        ("ttl_max", _u8),
        ("fragments", _u32),
        ("retransmissions", _u32),
        ("out_of_order", _u32),
        ("handshake_rtt_us", _u32),
        ("first_seen", _time),
        ("last_seen", _time),
        ("flow_start", _time),
        ("segment", _u32),
        ("final", pa.bool_()),
        ("total_packets", _u64),
        ("total_bytes", _u64),
        ("end_reason", _word),
        ("interface", _word),
        ("direction", _word),
        (
            "tunnel",
            pa.struct(
                [
                    ("type", _text),
                    ("id", _u32),
                    ("outer_source_ip", _text),
                    ("outer_dest_ip", _text),
                ]
            ),
        ),
        ("sampling_interval", _u32),
    ]
)

WORDS = [field.name for field in SCHEMA if field.type == _word]

# (enterprise, element) of what is one number both here and there.
_NUMBERS: dict[tuple[int, int], str] = {
    (0, 2): "packets",
    (0, 1): "bytes",
    (0, 352): "l2_bytes",
    (REVERSE, 2): "reverse_packets",
    (REVERSE, 1): "reverse_bytes",
    (REVERSE, 352): "reverse_l2_bytes",
    (0, 4): "protocol_number",
    (0, 7): "source_port",
    (0, 11): "dest_port",
    (0, 60): "ip_version",
    (0, 6): "tcp_flags",
    (REVERSE, 6): "reverse_tcp_flags",
    (0, 5): "tos",
    (0, 52): "ttl_min",
    (0, 53): "ttl_max",
}
_COUNTERS = {
    element: name.removeprefix("reverse_")
    for element, name in _NUMBERS.items()
    if name.removeprefix("reverse_") in ("packets", "bytes")
}
_TIMES = {(0, 152): "first_seen", (0, 153): "last_seen"}
_TEXTS = {
    (0, 8): ("source_ip", IPV4),
    (0, 12): ("dest_ip", IPV4),
    (0, 27): ("source_ip", IPV6),
    (0, 28): ("dest_ip", IPV6),
    (0, 56): ("source_mac", MAC),
    (0, 80): ("dest_mac", MAC),
    (0, 148): ("flow_id", HEX),
}
_REASON, _WAY = (0, 136), (0, 61)

_REASONS = pa.array(["idle", "active", "end", "forced", "resources"])  # 1, 2, …
_WAYS = pa.array(["ingress", "egress"])

Element = tuple[int, int]  # enterprise, number
Field = tuple[Element, int]  # and bytes


@dataclass(frozen=True)
class Template:
    fields: tuple[Field, ...]

    @cached_property
    def fixed_bytes(self) -> int:
        return sum(size for _, size in self.fields if size != VARIABLE)

    @cached_property
    def variable(self) -> int:
        return sum(size == VARIABLE for _, size in self.fields)

    @cached_property
    def places(self) -> list[tuple[Element, int, int]]:
        """Where the fields of fixed size lie: element, offset, bytes."""
        found, at = [], 0
        for element, size in self.fields:
            if size == VARIABLE:
                break
            found.append((element, at, size))
            at += size
        return found

    @cached_property
    def counters(self) -> list[tuple[str, int, int]]:
        """Those that packets and bytes are made of: which of the two, offset, bytes."""
        return [
            (_COUNTERS[element], at, size)
            for element, at, size in self.places
            if element in _COUNTERS and 1 <= size <= 8
        ]


@dataclass(frozen=True, slots=True)
class Layout:
    """Of data records that can be read together."""

    template: Template
    record_bytes: int
    interface: bytes
    host: str
    session_id: str


class IpfixRows:
    """Data records of many batches, gathered by layout, until there are enough for columns."""

    def __init__(self) -> None:
        self._gathered: dict[Layout, list[bytes]] = {}
        self.records = 0

    def add(self, data: bytes, host: str, session_id: str) -> None:
        for layout, body in read_records(data, host, session_id):
            self._gathered.setdefault(layout, []).append(body)
            self.records += len(body) // layout.record_bytes

    def take_tables(self) -> list[Any]:
        """Columns of all that was added since the last call."""
        gathered, self._gathered, self.records = self._gathered, {}, 0
        return [_fill(_read(b"".join(bodies), layout)) for layout, bodies in gathered.items()]


def count_records(data: bytes) -> Counts:
    """Records, packets and bytes of a batch."""
    counts = [_count(body, layout) for layout, body in read_records(data, "", "")]
    return sum(c[0] for c in counts), sum(c[1] for c in counts), sum(c[2] for c in counts)


def read_records(data: bytes, host: str, session_id: str) -> Iterator[tuple[Layout, bytes]]:
    """A whole batch: its data records, those that can be read together in one piece."""
    templates: dict[int, Template] = {}
    sets = ipfix_sets(data)
    for kind, at, size, _ in sets:
        if kind == TEMPLATE_SET:
            templates |= _learn(data[at : at + size])
    for kind, at, size, size_all in sets:
        if kind not in templates:
            continue
        layout = _layout(data[at : at + size], templates[kind], host, session_id)
        if layout is not None:
            yield layout, ipfix_records(data, kind, layout.record_bytes, size_all)


@lru_cache(256)
def _learn(body: bytes) -> dict[int, Template]:
    """The same ones come with each batch. Not to be changed."""
    at, templates = 0, dict[int, Template]()
    while at + 4 <= len(body):
        number, count = struct.unpack_from("!HH", body, at)
        at += 4
        if number < DATA_SET_MIN:
            break  # padding
        fields: list[Field] = []
        for _ in range(count):
            if at + 4 > len(body):
                return templates
            element, size = struct.unpack_from("!HH", body, at)
            at += 4
            enterprise = 0
            if element & 0x8000:
                if at + 4 > len(body):
                    return templates
                (enterprise,) = struct.unpack_from("!I", body, at)
                at += 4
            fields.append(((enterprise, element & 0x7FFF), size))
        templates[number] = Template(tuple(fields))
    return templates


def _layout(body: bytes, template: Template, host: str, session_id: str) -> Layout | None:
    """None: the set cannot be read."""
    size, name = template.fixed_bytes, b""
    if template.variable:
        # It comes last. One byte of length, and the same name in every record of a batch.
        last = template.fields[-1][1] == VARIABLE and template.variable == 1
        if not last or len(body) <= size or body[size] == 255:
            return None
        name = body[size + 1 : size + 1 + body[size]]
        size += 1 + body[size]
    if size == 0 or len(body) < size:
        return None
    return Layout(template, size, name, host, session_id)


def _count(body: bytes, layout: Layout) -> Counts:
    sums = {"packets": 0, "bytes": 0}
    for name, at, size in layout.template.counters:
        sums[name] += column_sum(Strided(body, layout.record_bytes, at, size))
    return len(body) // layout.record_bytes, sums["packets"], sums["bytes"]


def _read(body: bytes, layout: Layout) -> dict[str, Any]:
    """Columns by name."""
    columns: dict[str, Any] = {}
    rows = len(body) // layout.record_bytes
    for element, at, size in layout.template.places:
        _read_field(columns, element, Strided(body, layout.record_bytes, at, size))
    if layout.interface:
        columns["interface"] = _same(layout.interface.decode(errors="replace"), rows)
    columns["host"] = _same(layout.host, rows)
    columns["session_id"] = _same(layout.session_id, rows)
    _add_up(columns)
    return columns


def _read_field(columns: dict[str, Any], element: Element, field: Strided) -> None:
    """A field whose size is not what its element has is left out."""
    if element in _TEXTS:
        name, kind = _TEXTS[element]
        if field.width == TEXT_WIDTHS[kind]:
            columns[name] = _text_of(field, kind)
    elif not 1 <= field.width <= 8:
        return
    elif element in _NUMBERS:
        columns[_NUMBERS[element]] = _number(field)
    elif element in _TIMES:
        columns[_TIMES[element]] = _number(field) * np.uint64(1_000_000)
    elif element == _REASON:
        reasons = _number(field)
        known = (reasons >= 1) & (reasons <= len(_REASONS))
        places = pa.array((reasons - 1).astype(np.int32), mask=~known)
        columns["end_reason"] = pa.DictionaryArray.from_arrays(places, _REASONS)
    elif element == _WAY:
        places = pa.array((_number(field) & 1).astype(np.int32))
        columns["direction"] = pa.DictionaryArray.from_arrays(places, _WAYS)


def _number(field: Strided) -> Any:
    return np.frombuffer(column_numbers(field), np.uint64)


def _text_of(field: Strided, kind: int) -> Any:
    ends, text = column_texts(field, kind)
    return pa.StringArray.from_buffers(field.rows, pa.py_buffer(ends), pa.py_buffer(text))


def _same(word: str, rows: int) -> Any:
    return pa.DictionaryArray.from_arrays(np.zeros(rows, np.int32), pa.array([word], _text))


def _nothing(rows: int, kind: Any) -> Any:
    """Nulls, which are the same each time and the larger part of many tables."""
    if rows > NULLS:
        return pa.nulls(rows, kind)
    return _nulls(kind).slice(0, rows)


@lru_cache
def _nulls(kind: Any) -> Any:
    return pa.nulls(NULLS, kind)


def _add_up(columns: dict[str, Any]) -> None:
    """Here counters hold both directions."""
    for name in ("packets", "bytes", "l2_bytes"):
        if name in columns:
            reverse = columns.setdefault(f"reverse_{name}", np.zeros_like(columns[name]))
            columns[name] = columns[name] + reverse


def _fill(columns: dict[str, Any]) -> Any:
    """The table, with nulls where IPFIX has nothing."""
    rows = len(columns["host"])
    arrays = []
    for field in SCHEMA:
        column = columns.get(field.name)
        if column is None:
            arrays.append(_nothing(rows, field.type))
        elif field.type == _time:
            arrays.append(pa.Array.from_buffers(_time, rows, [None, pa.py_buffer(column)]))
        elif isinstance(column, np.ndarray):
            arrays.append(pa.array(column.astype(field.type.to_pandas_dtype())))
        else:
            arrays.append(column)
    return pa.Table.from_arrays(arrays, schema=SCHEMA)
