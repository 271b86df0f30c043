"""The Parquet schema of flow records, and IPFIX batches as columns.

Batches are gathered until there are enough for a table. Then each column is allocated in full
length and the core reads the batches into it, without a Python object per record. Columns
without an IPFIX element are null.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa

from ..core.ipfix import TEXT_MAX, Column, Field, RecordReader
from .templates import Records, read_records

NULLS = 1 << 18

_u8, _u16, _u32, _u64 = pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64()
_text, _time = pa.string(), pa.timestamp("ns", tz="UTC")
_word = pa.dictionary(pa.int32(), _text)  # few different values

_process = pa.struct(
    [
        ("pid", _u32),
        ("start_ticks", _u64),
        ("name", _text),
        ("exe", _text),
        ("uid", _u32),
        ("cgroup", _text),
        ("unit", _text),
        ("container", _text),
        ("pod", _text),
        ("how", _text),
        ("reason", _text),
        ("shared", pa.bool_()),
        ("side", _text),
    ]
)

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
        ("ifindex", _u32),
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
        ("timestamps_late", _u32),
        ("app", _word),
        ("name", _text),
        ("name_source", _word),
        ("alpn", pa.list_(_text)),
        ("tls_version", _word),
        ("ech", pa.bool_()),
        ("label_state", _word),
        ("process", _process),
        ("peer_process", _process),
        ("duration_us", pa.int64()),  # last_seen - first_seen
        ("more", _text),  # unknown fields as a JSON object
    ]
)

WORDS = [field.name for field in SCHEMA if field.type == _word]

_REASONS = pa.array(["idle", "active", "end", "forced", "resources"])  # 1, 2, …
_DIRECTIONS = pa.array(["ingress", "egress"])


@dataclass(frozen=True, slots=True)
class _Part:
    """The data records of one template in one batch."""

    records: Records
    rows: int
    words: dict[str, str]  # columns with one value for all rows


class IpfixRows:
    """Data records of many batches, grouped by their columns."""

    def __init__(self) -> None:
        self._gathered: dict[frozenset[str], list[_Part]] = {}
        self.records = 0

    def add(self, data: bytes, host: str, session_id: str) -> None:
        for records in read_records(data):
            words = {"host": host, "session_id": session_id}
            if records.interface:
                words["interface"] = records.interface.decode(errors="replace")
            part = _Part(records, records.rows, words)
            kind = frozenset((*records.template.columns, *words))
            self._gathered.setdefault(kind, []).append(part)
            self.records += part.rows

    def take_tables(self) -> list[Any]:
        """Returns and clears the tables of all records added since the last call."""
        gathered, self._gathered, self.records = self._gathered, {}, 0
        return [_fill(_read(parts)) for parts in gathered.values()]


def _read(parts: list[_Part]) -> dict[str, Any]:
    """Reads parts with the same columns. Returns the columns by name."""
    rows = sum(part.rows for part in parts)
    made = {name: _column(field, rows) for name, field in parts[0].records.template.columns.items()}
    readers: dict[tuple[int, int], RecordReader] = {}
    row = 0
    for part in parts:
        records = part.records
        kind = id(records.template), records.record_bytes
        reader = readers.get(kind)
        if reader is None:
            fields = records.template.columns.items()
            reader = RecordReader(
                records.record_bytes, [(field, made[name]) for name, field in fields]
            )
            readers[kind] = reader
        reader.read(records.data, records.set_id, row, part.rows)
        row += part.rows
    columns = {name: _FINISH.get(name, _plain)(column, rows) for name, column in made.items()}
    for name in parts[0].words:
        columns[name] = _constants([(part.words[name], part.rows) for part in parts], rows)
    _add_up(columns)
    _join_ifindex(columns)
    _add_durations(columns, made)
    return columns


def _column(field: Field, rows: int) -> Column:
    """Allocates a column, uninitialized."""
    if not field.is_text:
        return Column(np.empty(rows, f"u{field.row_bytes}"))
    ends = np.empty(rows + 1, np.int32)
    ends[0] = 0
    return Column(np.empty((rows + 1) * TEXT_MAX, np.uint8), ends)


def _plain(column: Column, rows: int) -> Any:
    if column.ends is None:
        return column.values
    ends, text = pa.py_buffer(column.ends), pa.py_buffer(column.values)
    return pa.StringArray.from_buffers(rows, ends, text.slice(0, int(column.ends[rows])))


def _time_of(column: Column, rows: int) -> Any:
    np.multiply(column.values, np.uint64(1_000_000), out=column.values)
    return pa.Array.from_buffers(_time, rows, [None, pa.py_buffer(column.values)])


def _reasons(column: Column, rows: int) -> Any:
    indices = column.values - np.uint8(1)  # 0 becomes 255, which is unknown too
    known = indices < len(_REASONS)
    mask = None if known.all() else ~known
    return pa.DictionaryArray.from_arrays(pa.array(indices.astype(np.int32), mask=mask), _REASONS)


def _directions(column: Column, rows: int) -> Any:
    indices = (column.values & 1).astype(np.int32)
    return pa.DictionaryArray.from_arrays(indices, _DIRECTIONS)


_FINISH: dict[str, Callable[[Column, int], Any]] = {
    "first_seen": _time_of,
    "last_seen": _time_of,
    "end_reason": _reasons,
    "direction": _directions,
}


def _constants(found: list[tuple[str, int]], rows: int) -> Any:
    """Builds a column from (value, number of rows) of each batch."""
    numbers: dict[str, int] = {}
    indices, row = np.empty(rows, np.int32), 0
    for word, count in found:
        indices[row : row + count] = numbers.setdefault(word, len(numbers))
        row += count
    return pa.DictionaryArray.from_arrays(indices, pa.array(list(numbers), _text))


def _null_column(rows: int, kind: Any) -> Any:
    """Returns nulls, sliced from a cached array if possible: many tables are mostly nulls."""
    if rows > NULLS:
        return pa.nulls(rows, kind)
    return _nulls(kind).slice(0, rows)


@lru_cache
def _nulls(kind: Any) -> Any:
    return pa.nulls(NULLS, kind)


def _add_up(columns: dict[str, Any]) -> None:
    """Adds the reverse counters: `packets` and `bytes` count both directions."""
    for name in ("packets", "bytes", "l2_bytes"):
        if name in columns:
            reverse = columns.setdefault(f"reverse_{name}", np.zeros_like(columns[name]))
            columns[name] = columns[name] + reverse


def _join_ifindex(columns: dict[str, Any]) -> None:
    """IPFIX has the interface as ingress or egress, by direction; the other is 0."""
    if "ingress_ifindex" in columns and "egress_ifindex" in columns:
        columns["ifindex"] = columns["ingress_ifindex"] | columns["egress_ifindex"]


def _add_durations(columns: dict[str, Any], made: dict[str, Column]) -> None:
    if "first_seen" in made and "last_seen" in made:  # nanoseconds, see _time_of
        first, last = (made[name].values.view(np.int64) for name in ("first_seen", "last_seen"))
        columns["duration_us"] = (last - first) // 1000


def _fill(columns: dict[str, Any]) -> Any:
    """Returns the table, with nulls for missing columns."""
    rows = len(columns["host"])
    arrays = []
    for field in SCHEMA:
        column = columns.get(field.name)
        if column is None:
            arrays.append(_null_column(rows, field.type))
        elif isinstance(column, np.ndarray):
            arrays.append(pa.array(column))
        else:
            arrays.append(column)
    return pa.Table.from_arrays(arrays, schema=SCHEMA)
