"""Blocks of a merged live pcapng: little-endian, one section, times in nanoseconds.

https://www.ietf.org/archive/id/draft-ietf-opsawg-pcapng-03.html
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

SECTION, INTERFACE, STATISTICS, PACKET = 0x0A0D0D0A, 1, 5, 6
BYTE_ORDER = 0x1A2B3C4D
OPT_END, OPT_COMMENT = 0, 1
IF_NAME, IF_TSRESOL, IF_FILTER = 2, 9, 11
ISB_IFRECV, ISB_IFDROP = 4, 5
NS = 9  # 10^-9 s
_PACKET = struct.Struct("<IIIIIII")  # type, length, interface, time high and low, caplen, wirelen
_LENGTH = struct.Struct("<I")
_TRAILER_BYTES = 8  # end of options and the length


@dataclass(frozen=True, slots=True)
class Block:
    """One packet block as a host sent it. number: of the interface, in the host's list."""

    data: memoryview
    number: int
    time_ns: int

    def renumbered(self, number: int) -> bytes:
        """Returns the block with another interface number."""
        return b"".join((self.data[:8], struct.pack("<I", number), self.data[12:]))


def packet_blocks(payload: bytes) -> Iterator[Block]:
    """Yields the packet blocks of a message. Raises ValueError."""
    view, at = memoryview(payload), 0
    while at + _PACKET.size + 4 <= len(view):
        kind, length, number, high, low, caplen, _ = _PACKET.unpack_from(view, at)
        fits = _PACKET.size + 4 + caplen <= length <= len(view) - at and length % 4 == 0
        if kind != PACKET or not fits:
            raise ValueError("not a packet block")
        if _LENGTH.unpack_from(view, at + length - 4)[0] != length:
            raise ValueError("a packet block with two lengths")
        yield Block(view[at : at + length], number, high << 32 | low)
        at += length
    if at < len(view):
        raise ValueError("not a packet block")


def section_block() -> bytes:
    return _block(SECTION, struct.pack("<IHHq", BYTE_ORDER, 1, 0, -1))


def interface_block(
    name: str, linktype: int, snaplen: int, *, expression: str, comment: str
) -> bytes:
    """Returns an interface block. expression: the filter, shown by readers."""
    options = _option(IF_NAME, name.encode()) + _option(IF_TSRESOL, bytes((NS,)))
    options += _option(IF_FILTER, b"\0" + expression.encode())
    if comment:
        options += _option(OPT_COMMENT, comment.encode())
    return _block(INTERFACE, struct.pack("<HHI", linktype, 0, snaplen) + options + _option(OPT_END))


def statistics_block(number: int, time_ns: int, received: int, dropped: int) -> bytes:
    """Returns an interface's statistics: packets that matched, and those of them that are lost."""
    options = _option(ISB_IFRECV, struct.pack("<Q", received + dropped))
    options += _option(ISB_IFDROP, struct.pack("<Q", dropped)) + _option(OPT_END)
    head = struct.pack("<III", number, time_ns >> 32, time_ns & 0xFFFFFFFF)
    return _block(STATISTICS, head + options)


def with_comment(block: bytes, comment: str) -> bytes:
    """Returns a packet block of a host, which ends with its options, with a comment added."""
    body = block[8:-_TRAILER_BYTES] + _option(OPT_COMMENT, comment.encode()) + _option(OPT_END)
    return _block(PACKET, body)


def _option(code: int, value: bytes = b"") -> bytes:
    return struct.pack("<HH", code, len(value)) + value + bytes(-len(value) % 4)


def _block(kind: int, body: bytes) -> bytes:
    length = struct.pack("<I", len(body) + 12)
    return struct.pack("<I", kind) + length + body + length
