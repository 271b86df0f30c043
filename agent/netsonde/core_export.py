"""The half of core.py that calls what native/include/export.h declares.

Collectors of a session, the decoder of captured exports, and columns of their records. It has
no handle of its own: a Capture lends its own for the time of a call.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .addresses import endpoint
from .core import CoreError, check_status, ffi, lib, text_of
from .errors import InvalidCollector, NetflowExportUnavailable, RequestError
from .seam import CollectorSettings, CollectorStats, DecodedMessage

COLLECTORS_MAX: int = lib.SONDE_COLLECTORS_MAX
_NUMBERS = tuple(
    name for name, field in CollectorStats.__dataclass_fields__.items() if field.type == "int"
)


def add_collector(handle: Any, settings: CollectorSettings) -> None:
    """Records reach it from the next one on."""
    config = ffi.new("struct sonde_collector_config *")
    address = ffi.new("char[]", settings.address.encode())
    config.address = address
    config.port = settings.port
    config.version = settings.version
    config.profile = lib.SONDE_PROFILE_FULL if settings.full else lib.SONDE_PROFILE_COMPAT
    config.biflow = int(settings.biflow)
    config.message_bytes_max = settings.message_bytes_max
    config.pace_bytes_per_sec = settings.pace_bytes_per_sec
    error = ffi.new("struct sonde_error *")
    status = lib.sonde_session_collector_add(handle, config, error)
    if status < 0:
        raise _refusal(status, text_of(error.detail), settings)


def _refusal(status: int, detail: str, settings: CollectorSettings) -> RequestError | CoreError:
    if status != lib.SONDE_INVALID:
        return CoreError(status, detail)
    if settings.standing:  # the request is not to blame
        where = endpoint(settings.address, settings.port)
        return NetflowExportUnavailable(f"[export] collectors: {where}: {detail}")
    return InvalidCollector(f"{detail}.")


def remove_collector(handle: Any, address: str, port: int) -> None:
    error = ffi.new("struct sonde_error *")
    status = lib.sonde_session_collector_remove(handle, address.encode(), port, error)
    if status == lib.SONDE_INVALID:
        raise InvalidCollector(f"{text_of(error.detail)}.")
    check_status(status)


def read_collectors(handle: Any) -> list[CollectorStats]:
    """In the order of adding. Takes a turn of the export thread, well below a millisecond
    as a rule."""
    stats = ffi.new("struct sonde_collector_stats[]", COLLECTORS_MAX)
    count = lib.sonde_session_collectors(handle, stats, COLLECTORS_MAX)
    return [_snapshot(stats[index]) for index in range(count)]


def _snapshot(stats: Any) -> CollectorStats:
    return CollectorStats(
        address=text_of(stats.address),
        connected=bool(stats.connected),
        last_error=text_of(stats.last_error),
        **{name: getattr(stats, name) for name in _NUMBERS},
    )


def flush_export(handle: Any, timeout_sec: float) -> bool:
    """Waits until every record made so far was sent or lost, and counted; false if the time
    was too short for it."""
    error = ffi.new("struct sonde_error *")
    status = lib.sonde_session_export_flush(handle, int(timeout_sec * 1000), error)
    if status == lib.SONDE_STATE:
        return False
    check_status(status)
    return True


class ExportDecoder:
    """Remembers templates from one message to the next."""

    def __init__(self) -> None:
        made = lib.sonde_export_decoder_create()
        if made == ffi.NULL:
            raise MemoryError
        self._decoder = ffi.gc(made, lib.sonde_export_decoder_destroy)
        self._message = ffi.new("struct sonde_decoded_message *")

    def decode(self, source: int, data: memoryview | bytes) -> DecodedMessage | None:
        """The message at the start of `data`; None if none begins there. `source` tells
        exporters apart, below 2^64."""
        message = self._message
        status = lib.sonde_export_decode(
            self._decoder, source, ffi.from_buffer(data), len(data), message
        )
        if status == lib.SONDE_FORMAT:
            return None
        check_status(status)
        return DecodedMessage(
            size=message.bytes,
            version=message.version,
            domain=message.domain,
            sequence=message.sequence,
            export_ns=message.export_ns,
            records=message.records,
            templates=message.templates,
            sets_unknown=message.sets_unknown,
            malformed=message.malformed,
            templates_refused=message.templates_refused,
            text=bytes(ffi.buffer(message.text, message.text_bytes)),
        )


# ---- columns -------------------------------------------------------------------------------

IPV4, IPV6 = lib.SONDE_COLUMN_IPV4, lib.SONDE_COLUMN_IPV6
MAC, HEX = lib.SONDE_COLUMN_MAC, lib.SONDE_COLUMN_HEX
TEXT_WIDTHS: dict[int, int] = {IPV4: 4, IPV6: 16, MAC: 6, HEX: 8}


_SETS_MAX = 64


def ipfix_sets(data: bytes) -> list[tuple[int, int, int, int]]:
    """Of whole messages, each set of templates and for each id the first data set: id, offset,
    bytes, and bytes of all sets of that id."""
    sets = ffi.new("struct sonde_set[]", _SETS_MAX)
    count = lib.sonde_ipfix_sets(ffi.from_buffer(data), len(data), sets, _SETS_MAX)
    return [(one.id, one.offset, one.bytes, one.bytes_all) for one in sets[0:count]]


def ipfix_records(data: bytes, kind: int, record_bytes: int, bytes_all: int) -> bytes:
    """The data records of all sets of that id; record_bytes is at least 1."""
    records = bytearray(bytes_all)
    size = lib.sonde_ipfix_records(
        ffi.from_buffer(data), len(data), kind, record_bytes,
        ffi.from_buffer("uint8_t[]", records, require_writable=True),
    )  # fmt: skip
    return bytes(memoryview(records)[:size])


@dataclass(frozen=True, slots=True)
class Strided:
    """Where a field lies in records of one size, one after the other."""

    body: bytes
    record_bytes: int
    at: int
    width: int

    @property
    def rows(self) -> int:
        return len(self.body) // self.record_bytes

    def _first(self, width: int) -> Any:
        if self.width != width or self.at + width > self.record_bytes:
            raise ValueError(f"no field of {width} bytes")
        return ffi.from_buffer("uint8_t[]", self.body) + self.at


def column_numbers(field: Strided) -> bytearray:
    """Big-endian numbers of up to 8 bytes, as native ones of 8."""
    numbers = bytearray(8 * field.rows)
    if not 1 <= field.width <= 8:
        raise ValueError(f"no number has {field.width} bytes")
    lib.sonde_column_numbers(
        field._first(field.width), field.record_bytes, field.width, field.rows,
        ffi.from_buffer("uint64_t[]", numbers, require_writable=True),
    )  # fmt: skip
    return numbers


def column_sum(field: Strided) -> int:
    """Of big-endian numbers of up to 8 bytes, modulo 2^64."""
    if not 1 <= field.width <= 8:
        raise ValueError(f"no number has {field.width} bytes")
    first = field._first(field.width)
    return int(lib.sonde_column_sum(first, field.record_bytes, field.width, field.rows))


def column_texts(field: Strided, kind: int) -> tuple[bytearray, bytes]:
    """Arrow's offsets, 32 bits each, and the texts. Raises ValueError if the field's size is
    not the kind's."""
    first = field._first(TEXT_WIDTHS[kind])
    ends = bytearray(4 * (field.rows + 1))
    text = ffi.new("char[]", (field.rows + 1) * lib.SONDE_COLUMN_TEXT_MAX)
    size = lib.sonde_column_texts(
        first, field.record_bytes, kind, field.rows, text,
        ffi.from_buffer("int32_t[]", ends, require_writable=True),
    )  # fmt: skip
    return ends, bytes(ffi.buffer(text, size))


# ---- decoder -------------------------------------------------------------------------------


def decode_export(data: bytes) -> list[bytes]:
    """The data records of whole messages, each a JSON object; the templates must be among
    them. What cannot be read is left out."""
    decoder, lines, at = ExportDecoder(), list[bytes](), 0
    while at < len(data):
        message = decoder.decode(0, memoryview(data)[at:])
        if message is None or message.size == 0:
            break
        lines += message.text.splitlines()
        at += message.size
    return lines
