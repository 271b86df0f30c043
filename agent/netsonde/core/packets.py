"""The capture buffer of a session: sealing, packet queries, segment files.

The functions take a session's handle, which `Capture.lend` passes. A key crosses as a buffer
of the caller's, which also overwrites it afterwards.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..errors import InvalidFilter, NetsondeError
from .library import check, check_status, ffi, lib, members, string_of, text_of
from .values import PacketGap, PacketQuery, PacketSummary

KEY_BYTES: int = lib.SONDE_ENCRYPTION_KEY_BYTES
READ_BYTES = 2 * lib.SONDE_PACKETS_READ_MIN

GAP_REASONS: dict[int, str] = {
    lib.SONDE_GAP_OVERWRITTEN: "overwritten",
    lib.SONDE_GAP_UNRECORDED: "unrecorded",
    lib.SONDE_GAP_UNSEALED: "unsealed",
    lib.SONDE_GAP_UNOPENABLE: "unopenable",
    lib.SONDE_GAP_SPILL_LOST: "spill_lost",
    lib.SONDE_GAP_LIMIT: "limit",
    lib.SONDE_GAP_DROPPED: "dropped",
}


# ---- sealing -------------------------------------------------------------------------------


def seal_with(handle: Any, cipher_suite: str, key: bytearray) -> None:
    """Seals the buffer, unencrypted packets included, before it returns: 0.3 s per GiB."""
    error = ffi.new("struct sonde_error *")
    cipher = ffi.new("char[]", cipher_suite.encode())
    view = ffi.from_buffer("uint8_t[]", key)
    check(lib.sonde_session_encryption_set(handle, 1, cipher, view, error), error)


def leave_clear(handle: Any) -> None:
    error = ffi.new("struct sonde_error *")
    check(lib.sonde_session_encryption_set(handle, 0, ffi.NULL, ffi.NULL, error), error)


def key_id(key: bytearray) -> str:
    """Returns the id of a key in segment files, which does not reveal the key."""
    made = ffi.new("uint8_t[]", lib.SONDE_ENCRYPTION_KEY_ID_BYTES)
    check_status(lib.sonde_encryption_key_id(ffi.from_buffer("uint8_t[]", key), made))
    return bytes(ffi.buffer(made)).hex()


# ---- queries -------------------------------------------------------------------------------


class AbandonedError(Exception):
    """The caller abandoned the query."""


class PacketReader:
    """One packet query (struct sonde_packets). Its calls block and must not overlap, on any
    thread; only `abandon` may run during a `read`."""

    def __init__(self) -> None:
        self._packets: Any = ffi.NULL
        self._abandoned = False
        self._buffer = bytearray(READ_BYTES)

    def open(self, handle: Any, query: PacketQuery) -> None:
        """Uses the handle until `close`. Raises InvalidFilter."""
        packets = ffi.new("struct sonde_packets **")
        error = ffi.new("struct sonde_error *")
        expression = ffi.new("char[]", string_of(query.filter, InvalidFilter))
        status = lib.sonde_session_packets_open(
            handle,
            expression if query.filter else ffi.NULL,
            query.start_ns,
            query.end_ns,
            query.max_bytes,
            query.max_packets,
            packets,
            error,
        )
        check(status, error)
        self._packets = packets[0]

    def read(self) -> memoryview:
        """Returns the next pcapng blocks, valid until the next call; empty at the end. Raises
        AbandonedError."""
        filled = 0
        room = ffi.from_buffer("uint8_t[]", self._buffer)
        while READ_BYTES - filled >= lib.SONDE_PACKETS_READ_MIN:
            if self._abandoned:
                raise AbandonedError
            taken = lib.sonde_session_packets_read(
                self._packets, room + filled, READ_BYTES - filled
            )
            if taken == lib.SONDE_END:
                break
            filled += check_status(taken)
        return memoryview(self._buffer)[:filled]

    def abandon(self) -> None:
        """Ends a running `read` within about ten milliseconds."""
        self._abandoned = True

    def summary(self) -> PacketSummary:
        made = ffi.new("struct sonde_packets_summary *")
        lib.sonde_session_packets_summary(self._packets, made)
        gaps = [made.gaps[index] for index in range(made.gap_count)]
        return PacketSummary(
            **members(PacketSummary, made),
            gaps=tuple(PacketGap(g.from_ns, g.to_ns, GAP_REASONS[g.reason]) for g in gaps),
        )

    def close(self) -> None:
        packets, self._packets = self._packets, ffi.NULL
        lib.sonde_session_packets_close(packets)


# ---- segment files ---------------------------------------------------------------------------


class SegmentError(NetsondeError):
    """The file is not a segment, or it was damaged."""


def read_segment(
    fd: int, key: bytearray | None, interface: str, write: Callable[[memoryview], object]
) -> bool:
    """Writes the file's packets as pcapng. Returns False if the file is truncated; every whole
    frame was written then. Raises SegmentError."""
    segment = ffi.new("struct sonde_segment **")
    error = ffi.new("struct sonde_error *")
    name = ffi.new("char[]", interface.encode())
    view = ffi.NULL if key is None else ffi.from_buffer("uint8_t[]", key)
    status = lib.sonde_segment_open(fd, view, name, segment, error)
    if status < 0:
        raise SegmentError(_words(status, error, key))
    buffer = bytearray(READ_BYTES)
    room = ffi.from_buffer("uint8_t[]", buffer)
    try:
        while (taken := lib.sonde_segment_read(segment[0], room, READ_BYTES, error)) >= 0:
            write(memoryview(buffer)[:taken])
    finally:
        lib.sonde_segment_close(segment[0])
    if taken not in (lib.SONDE_END, lib.SONDE_TRUNCATED):
        raise SegmentError(_words(taken, error, key))
    return bool(taken == lib.SONDE_END)


def _words(status: int, error: Any, key: bytearray | None) -> str:
    if status == lib.SONDE_KEY_WRONG and key is None:
        return "the file is encrypted: name its key file with --key"
    return text_of(error.detail) or text_of(lib.sonde_status_text(status))
