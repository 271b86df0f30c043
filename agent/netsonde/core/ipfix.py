"""NetFlow and IPFIX messages: records as JSON lines, or as columns.

Wraps native/include/export.h."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .library import check_status, ffi, lib, members
from .values import DecodedMessage

ENTERPRISE: int = lib.SONDE_ENTERPRISE_DEFAULT


class ExportDecoder:
    """A decoder that keeps the templates of each exporter. enterprise: of labels and owners."""

    def __init__(self, enterprise: int = ENTERPRISE) -> None:
        made = lib.sonde_export_decoder_create()
        if made == ffi.NULL:
            raise MemoryError
        self._decoder = ffi.gc(made, lib.sonde_export_decoder_destroy)
        lib.sonde_export_decoder_enterprise_set(made, enterprise)
        self._message = ffi.new("struct sonde_decoded_message *")

    def decode(self, source: int, data: memoryview | bytes) -> DecodedMessage | None:
        """Returns the message at the start of `data`, or None if it is not NetFlow or IPFIX.
        source: identifies the exporter, below 2^64."""
        message = self._message
        status = lib.sonde_export_decode(
            self._decoder, source, ffi.from_buffer(data), len(data), message
        )
        if status == lib.SONDE_FORMAT:
            return None
        check_status(status)
        return DecodedMessage(
            **members(DecodedMessage, message),
            text=bytes(ffi.buffer(message.text, message.text_bytes)),
        )


IPV4, IPV6 = lib.SONDE_COLUMN_IPV4, lib.SONDE_COLUMN_IPV6
MAC, HEX = lib.SONDE_COLUMN_MAC, lib.SONDE_COLUMN_HEX
SUM = lib.SONDE_COLUMN_SUM
TEXT_WIDTHS: dict[int, int] = {IPV4: 4, IPV6: 16, MAC: 6, HEX: 8}
TEXT_MAX: int = lib.SONDE_COLUMN_TEXT_MAX
NUMBER_KINDS: dict[int, int] = {  # by the bytes of a row
    1: lib.SONDE_COLUMN_U8,
    2: lib.SONDE_COLUMN_U16,
    4: lib.SONDE_COLUMN_U32,
    8: lib.SONDE_COLUMN_U64,
}
_ROW_BYTES = {kind: size for size, kind in NUMBER_KINDS.items()}
ALL_ROWS = (1 << 32) - 1
_SETS_MAX = 64 * 16  # interfaces, and layouts of each


def ipfix_sets(data: bytes) -> list[tuple[int, int, int]]:
    """Returns (id, offset, bytes) of each template set and of the first data set of each id,
    in whole messages."""
    sets = ffi.new("struct sonde_set[]", _SETS_MAX)
    count = lib.sonde_ipfix_sets(ffi.from_buffer(data), len(data), sets, _SETS_MAX)
    return [(one.id, one.offset, one.bytes) for one in sets[0:count]]


def ipfix_rows(data: bytes, set_id: int, record_bytes: int) -> int:
    """Returns the number of data records in all sets of that id. record_bytes: at least 1."""
    return int(
        lib.sonde_ipfix_columns(
            ffi.from_buffer(data), len(data), set_id, record_bytes, ffi.NULL, 0, 0, ALL_ROWS
        )
    )


@dataclass(frozen=True, slots=True)
class Field:
    """The position of a field in a data record, and the kind of its column."""

    offset: int
    width: int
    kind: int

    @property
    def is_text(self) -> bool:
        return self.kind in TEXT_WIDTHS

    @property
    def row_bytes(self) -> int:
        """Returns the bytes of a number in its column."""
        return _ROW_BYTES[self.kind]

    @property
    def is_sound(self) -> bool:
        if self.is_text:
            return self.width == TEXT_WIDTHS[self.kind]
        return 1 <= self.width <= 8


@dataclass(frozen=True, slots=True)
class Column:
    """The writable buffers of a field's values. ends: only for text."""

    values: Any
    ends: Any = None

    def rows_max(self, field: Field) -> int:
        if field.kind == SUM:
            return ALL_ROWS
        size = memoryview(self.values).nbytes
        if field.is_text:
            return min(size // TEXT_MAX, memoryview(self.ends).nbytes // 4) - 1
        return size // field.row_bytes


class RecordReader:
    """Reads data records of one template and size into columns."""

    def __init__(self, record_bytes: int, columns: Sequence[tuple[Field, Column]]) -> None:
        self._record_bytes = record_bytes
        self._rows_max = min(
            (column.rows_max(field) for field, column in columns), default=ALL_ROWS
        )
        self._kept: list[Any] = []  # keeps the buffers alive that the structs point at
        self._columns = ffi.new("struct sonde_column[]", len(columns))
        for place, (field, column) in zip(self._columns, columns, strict=True):
            if not field.is_sound or field.offset + field.width > record_bytes:
                raise ValueError(f"malformed field: {field.width} bytes at {field.offset}")
            place.offset, place.width, place.kind = field.offset, field.width, field.kind
            place.values = self._address("uint8_t[]", column.values)
            if field.is_text:
                place.ends = self._address("int32_t[]", column.ends)

    def _address(self, kind: str, buffer: Any) -> Any:
        self._kept.append(ffi.from_buffer(kind, buffer, require_writable=True))
        return self._kept[-1]

    def read(self, data: bytes, set_id: int, row: int, rows: int = ALL_ROWS) -> int:
        """Reads up to `rows` records of that id into columns from `row` on. Returns the number."""
        if rows > self._rows_max - row:
            raise ValueError(f"no room for {rows} rows at {row}")
        return int(
            lib.sonde_ipfix_columns(
                ffi.from_buffer(data), len(data), set_id, self._record_bytes,
                self._columns, len(self._columns), row, rows,
            )
        )  # fmt: skip


def decode_export(data: bytes) -> list[bytes]:
    """Returns the data records of whole messages as JSON objects. The messages must include
    the templates; unreadable records are skipped."""
    decoder, lines, at = ExportDecoder(), list[bytes](), 0
    while at < len(data):
        message = decoder.decode(0, memoryview(data)[at:])
        if message is None or message.bytes == 0:
            break
        lines += message.text.splitlines()
        at += message.bytes
    return lines
