"""How a message lies in a spool segment, and how the spool's position lies in its file.

    segment   magic │ number │ first frame's number │ checksum            32 bytes, then frames
    frame     magic │ checksum │ sizes │ number │ records │ packets │ totals     64 bytes, then
              subject, NATS header block, payload; padded to 8
    position  two slots of 128 bytes, written in turn: the newer whole one counts

The checksum of a frame covers its segment's number and its own offset too, so that what a
recycled file still holds of an earlier life is never taken for a frame. All numbers are
little-endian; checksums are CRC-32. The whole is described in docs/stream.md.
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
    """What is published: the subject, a whole NATS header block, the payload, and how many
    records with how many packets it stands for."""

    subject: bytes
    head: bytes
    payload: bytes
    records: int
    packets: int

    @property
    def bytes(self) -> int:
        """As it lies in a segment."""
        length = FRAME_HEAD_BYTES + len(self.subject) + len(self.head) + len(self.payload)
        return -(-length // 8) * 8


@dataclass(frozen=True, slots=True)
class FrameHead:
    checksum: int
    subject_bytes: int
    head_bytes: int
    payload_bytes: int
    number: int  # 1, 2, … over the spool's life
    records: int
    packets: int
    records_total: int  # over the spool's life, this frame's included
    packets_total: int

    @property
    def bytes(self) -> int:
        length = FRAME_HEAD_BYTES + self.subject_bytes + self.head_bytes + self.payload_bytes
        return -(-length // 8) * 8


@dataclass(slots=True)
class Position:
    """All frames up to `number` are done with; totals are those of that frame."""

    number: int = 0
    records_total: int = 0
    packets_total: int = 0
    records_lost: int = 0  # over the spool's life
    packets_lost: int = 0
    records_lost_beyond: int = 0  # of these, how many lie beyond `number`
    packets_lost_beyond: int = 0


@dataclass(frozen=True, slots=True)
class Taken:
    """A message given out and not yet finished."""

    number: int
    message: Message
    records_before: int  # totals of the frame before
    packets_before: int


@dataclass(frozen=True, slots=True)
class Recovery:
    """What `open` found."""

    messages: int = 0
    records: int = 0
    packets: int = 0
    torn: bool = False  # the last append was cut short
    records_lost: int = 0  # damaged or gone since the last run
    packets_lost: int = 0


def pack_segment_head(number: int, first: int) -> bytes:
    body = _SEGMENT.pack(SEGMENT_MAGIC, number, first, 0, 0)[:-8]
    return body + struct.pack("<II", zlib.crc32(body), 0)


def unpack_segment_head(data: bytes) -> tuple[int, int] | None:
    """(number, first frame's number), or None if this is no segment."""
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
    """data: the frame as read, head included, padding or not."""
    length = FRAME_HEAD_BYTES + head.subject_bytes + head.head_bytes + head.payload_bytes
    if len(data) < length:
        return False
    checksum = zlib.crc32(_PLACE.pack(segment, offset))
    checksum = zlib.crc32(data[:4] + bytes(4) + data[8:FRAME_HEAD_BYTES], checksum)
    return zlib.crc32(memoryview(data)[FRAME_HEAD_BYTES:length], checksum) == head.checksum


def pack_position(position: Position, turn: int) -> bytes:
    body = _POSITION.pack(
        POSITION_MAGIC,
        turn,
        position.number,
        position.records_total,
        position.packets_total,
        position.records_lost,
        position.packets_lost,
        position.records_lost_beyond,
        position.packets_lost_beyond,
        0,
    )[:-4]
    return (body + struct.pack("<I", zlib.crc32(body))).ljust(POSITION_SLOT_BYTES, b"\0")


def unpack_position(data: bytes) -> tuple[int, Position] | None:
    """(turn, position) of one slot, or None if it is not whole."""
    if len(data) < _POSITION.size:
        return None
    magic, turn, *numbers, checksum = _POSITION.unpack_from(data)
    if magic != POSITION_MAGIC or checksum != zlib.crc32(data[: _POSITION.size - 4]):
        return None
    return turn, Position(*numbers)
