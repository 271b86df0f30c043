"""Binary format of spool segments and of the position file (docs/stream.md).

    segment   magic │ number │ first frame's number │ checksum            32 bytes, then frames
    frame     magic │ checksum │ sizes │ number │ records │ packets │ totals     64 bytes, then
              subject, NATS header block, payload; padded to 8
    position  two slots of 128 bytes, written alternately; the newer valid slot counts

A frame's checksum also covers its segment's number and its offset, so that old frames in a
reused file are never valid. Numbers are little-endian. Checksums are CRC-32.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

SEGMENT_MAGIC = b"NSspool1"
FRAME_MAGIC = b"NSf1"
POSITION_MAGIC = b"NSposit1"

_SEGMENT = struct.Struct("<8sQQII")
_FRAME = struct.Struct("<4sIHHIQIIQQQQ")
_POSITION = struct.Struct("<8sQQQQQQQQI")
_PLACE = struct.Struct("<QQ")

SEGMENT_HEAD_BYTES = _SEGMENT.size
FRAME_HEAD_BYTES = _FRAME.size
POSITION_SLOT_BYTES = 128


@dataclass(frozen=True, slots=True)
class Message:
    """A message to publish, with its number of records and their packets."""

    subject: bytes
    head: bytes  # the encoded NATS header block
    payload: bytes
    records: int
    packets: int

    @property
    def bytes(self) -> int:
        """Size of the frame in a segment."""
        return _padded(len(self.subject) + len(self.head) + len(self.payload))


@dataclass(frozen=True, slots=True)
class FrameHead:
    checksum: int
    subject_bytes: int
    head_bytes: int
    payload_bytes: int
    number: int  # 1, 2, … over the spool's lifetime
    records: int
    packets: int
    records_total: int  # over the spool's lifetime, including this frame
    packets_total: int

    @property
    def body_bytes(self) -> int:
        return self.subject_bytes + self.head_bytes + self.payload_bytes

    @property
    def bytes(self) -> int:
        return _padded(self.body_bytes)


@dataclass(slots=True)
class Position:
    """Frames up to `number` are finished. The totals are those of that frame."""

    number: int = 0
    records_total: int = 0
    packets_total: int = 0
    records_lost: int = 0  # over the spool's lifetime
    packets_lost: int = 0
    records_lost_after: int = 0  # the part of records_lost in frames after `number`
    packets_lost_after: int = 0


@dataclass(frozen=True, slots=True)
class Taken:
    """A message returned by `take` and not yet finished."""

    number: int
    message: Message
    records_before: int  # totals of the previous frame
    packets_before: int


@dataclass(frozen=True, slots=True)
class Recovery:
    """Contents and losses of a spool when it was opened."""

    messages: int = 0
    records: int = 0
    packets: int = 0
    torn: bool = False  # the last frame is incomplete
    records_lost: int = 0  # damaged or missing since the last run
    packets_lost: int = 0


def _padded(body_bytes: int) -> int:
    return -(-(FRAME_HEAD_BYTES + body_bytes) // 8) * 8


def pack_segment_head(number: int, first: int) -> bytes:
    body = _SEGMENT.pack(SEGMENT_MAGIC, number, first, 0, 0)[:-8]
    return body + struct.pack("<II", zlib.crc32(body), 0)


def unpack_segment_head(data: bytes) -> tuple[int, int] | None:
    """Returns (number, first frame's number). None if not a segment head."""
    if len(data) < _SEGMENT.size:
        return None
    magic, number, first, checksum, _ = _SEGMENT.unpack_from(data)
    if magic != SEGMENT_MAGIC or checksum != zlib.crc32(data[: _SEGMENT.size - 8]):
        return None
    return number, first


def pack_frame_head(
    message: Message,
    *,
    segment: int,
    offset: int,
    number: int,
    records_total: int,
    packets_total: int,
) -> bytes:
    fields = (
        len(message.subject),
        len(message.head),
        len(message.payload),
        number,
        message.records,
        0,
        message.packets,
        records_total,
        packets_total,
        0,
    )
    blank = _FRAME.pack(FRAME_MAGIC, 0, *fields)
    checksum = zlib.crc32(_PLACE.pack(segment, offset))
    for part in (blank, message.subject, message.head, message.payload):
        checksum = zlib.crc32(part, checksum)
    return _FRAME.pack(FRAME_MAGIC, checksum, *fields)


def unpack_frame_head(data: bytes) -> FrameHead | None:
    if len(data) < _FRAME.size:
        return None
    magic, checksum, subject, head, payload, number, records, _, packets, rtotal, ptotal, _ = (
        _FRAME.unpack_from(data)
    )
    if magic != FRAME_MAGIC:
        return None
    return FrameHead(
        checksum, subject, head, payload, number, records, packets, rtotal, ptotal
    )  # fmt: skip


def frame_is_whole(head: FrameHead, data: bytes, *, segment: int, offset: int) -> bool:
    """Returns True if the checksum matches. `data` starts with the head; padding is optional."""
    length = FRAME_HEAD_BYTES + head.body_bytes
    if len(data) < length:
        return False
    checksum = zlib.crc32(_PLACE.pack(segment, offset))
    checksum = zlib.crc32(data[:4] + bytes(4) + data[8:FRAME_HEAD_BYTES], checksum)
    return zlib.crc32(memoryview(data)[FRAME_HEAD_BYTES:length], checksum) == head.checksum


def pack_position(position: Position, sequence: int) -> bytes:
    body = _POSITION.pack(
        POSITION_MAGIC,
        sequence,
        position.number,
        position.records_total,
        position.packets_total,
        position.records_lost,
        position.packets_lost,
        position.records_lost_after,
        position.packets_lost_after,
        0,
    )[:-4]
    return (body + struct.pack("<I", zlib.crc32(body))).ljust(POSITION_SLOT_BYTES, b"\0")


def unpack_position(data: bytes) -> tuple[int, Position] | None:
    """Returns (sequence, position) of a slot. None if the slot is invalid."""
    if len(data) < _POSITION.size:
        return None
    magic, sequence, *numbers, checksum = _POSITION.unpack_from(data)
    if magic != POSITION_MAGIC or checksum != zlib.crc32(data[: _POSITION.size - 4]):
        return None
    return sequence, Position(*numbers)
