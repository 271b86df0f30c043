"""Merges pcapng files of several hosts by time into one file with one section.

A part is what one host wrote: one little-endian section, times in nanoseconds, enhanced packet
blocks. A part is mostly in order of time. Each place where its time goes back starts a new run,
and all runs of all parts are merged. Memory is bounded by the number of runs that overlap in
time, not by the size of the files.

The interface blocks come first. Their names are `<host>/<interface>`, whatever the part says, so
that no host can write packets under another host's name.
"""

from __future__ import annotations

import heapq
import os
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from ..errors import NetsondeError

SECTION, INTERFACE, PACKET = 0x0A0D0D0A, 1, 6
OLD_PACKETS = (2, 3)  # packet blocks without a time or out of use; netsonde never writes them
BYTE_ORDER = 0x1A2B3C4D
NAME, RESOLUTION, END = 2, 9, 0  # options of an interface block
NS = 9  # if_tsresol: 10^-9 s
BLOCK_BYTES_MAX = 1 << 20
READ_BYTES = 256 << 10
WRITE_BYTES = 1 << 20
RUNS_MAX = 1 << 16
_HEAD = struct.Struct("<II")
_PACKET = struct.Struct("<IIIIIII")  # type, length, interface, time high and low, caplen, wirelen

Place = tuple[int, int]  # time and number of a run


class PcapngError(NetsondeError):
    """The file is not what a host writes."""


@dataclass(slots=True)
class Part:
    """One host's file, open for reading. `read` fills in the rest."""

    host: str
    file: int
    interfaces: list[bytes] = field(default_factory=list)
    runs: list[tuple[int, int, int]] = field(default_factory=list)  # first time, start, end
    packets: int = 0

    def read(self) -> Part:
        """Checks the whole file and finds its interfaces and runs. Raises PcapngError."""
        last_ns, start, first_ns, end = -1, 0, 0, 0
        for at, kind, buffer, place, length in _blocks(self.file, 0, os.fstat(self.file).st_size):
            end = at + length
            if kind == PACKET:
                time_ns = self._check_packet(buffer, place, length)
                if time_ns < last_ns or last_ns < 0:
                    if last_ns >= 0:
                        self.runs.append((first_ns, start, at))
                    start, first_ns = at, time_ns
                    if len(self.runs) >= RUNS_MAX:
                        raise PcapngError("malformed pcapng: its packets are in no order")
                last_ns = time_ns
                self.packets += 1
            elif (kind == SECTION) != (at == 0):
                raise PcapngError("malformed pcapng: it has not exactly one section")
            elif kind == SECTION and struct.unpack_from("<I", buffer, place + 8)[0] != BYTE_ORDER:
                raise PcapngError("malformed pcapng: not little-endian")
            elif kind == INTERFACE:
                block = bytes(buffer[place : place + length])
                self.interfaces.append(_named_interface(block, self.host))
            elif kind in OLD_PACKETS:
                raise PcapngError(f"malformed pcapng: block type {kind}")
        if not end:
            raise PcapngError("malformed pcapng: it is empty")
        if last_ns >= 0:
            self.runs.append((first_ns, start, end))
        return self

    def _check_packet(self, buffer: bytes, place: int, length: int) -> int:
        """Returns the time."""
        if length < _PACKET.size + 4:
            raise PcapngError("malformed pcapng: a short packet block")
        _, _, interface, high, low, caplen, _ = _PACKET.unpack_from(buffer, place)
        if interface >= len(self.interfaces) or caplen > length - _PACKET.size - 4:
            raise PcapngError("malformed pcapng: a packet block")
        return int(high) << 32 | int(low)


def merge(parts: Sequence[Part]) -> Iterator[bytes]:
    """Yields the merged file in pieces. Packets of one host with the same time keep their order.
    `Part.read` has checked the parts."""
    buffer = bytearray(_section())
    runs: list[_Run] = []
    count = 0
    for part in parts:
        for block in part.interfaces:
            buffer += block
        runs += [_Run(part.file, start, end, count) for _, start, end in part.runs]
        count += len(part.interfaces)
    times = (first_ns for part in parts for first_ns, _, _ in part.runs)
    heap: list[Place] = [(first_ns, number) for number, first_ns in enumerate(times)]
    heapq.heapify(heap)
    while heap:
        _, number = heapq.heappop(heap)
        limit = heap[0] if heap else None
        next_ns = runs[number].copy(buffer, number, limit)
        if next_ns is not None:
            heapq.heappush(heap, (next_ns, number))
        if len(buffer) >= WRITE_BYTES:
            yield bytes(buffer)
            buffer.clear()
    yield bytes(buffer)


class _Run:
    """A range of a file whose packets are in order. shift: added to interface numbers."""

    def __init__(self, file: int, start: int, end: int, shift: int) -> None:
        self._range = file, start, end
        self._shift = shift
        self._blocks: Iterator[tuple[int, int, bytes, int, int]] | None = None
        self._next: tuple[bytes, int, int] | None = None

    def copy(self, buffer: bytearray, number: int, limit: Place | None) -> int | None:
        """Appends packets up to the limit, or until the buffer is full. Returns the time of the
        next packet; None at the end."""
        if self._blocks is None:  # opened late: few runs overlap
            self._blocks = _blocks(*self._range)
            self._next = self._step()
        unpack, pack, shift = _PACKET.unpack_from, _PACKET.pack, self._shift
        while self._next is not None:
            block, place, length = self._next
            kind, size, interface, high, low, caplen, wirelen = unpack(block, place)
            time_ns: int = high << 32 | low
            if (limit is not None and (time_ns, number) > limit) or len(buffer) >= WRITE_BYTES:
                return time_ns
            buffer += pack(kind, size, interface + shift, high, low, caplen, wirelen)
            buffer += block[place + _PACKET.size : place + length]
            self._next = self._step()
        self._blocks = iter(())
        return None

    def _step(self) -> tuple[bytes, int, int] | None:
        """Returns the next packet block and skips others, such as statistics."""
        for _, kind, buffer, place, length in self._blocks or ():
            if kind == PACKET:
                return buffer, place, length
        return None


def _blocks(file: int, start: int, end: int) -> Iterator[tuple[int, int, bytes, int, int]]:
    """Yields each block: offset in the file, type, a buffer, its place there, its length."""
    at, buffer, place = start, b"", 0
    while at < end:
        if len(buffer) - place < 12:
            buffer, place = os.pread(file, READ_BYTES, at), 0
            if len(buffer) < 12:
                raise PcapngError("malformed pcapng: it is cut")
        kind, length = _HEAD.unpack_from(buffer, place)
        if length < 12 or length % 4 or length > BLOCK_BYTES_MAX or at + length > end:
            raise PcapngError("malformed pcapng: a block's length")
        if len(buffer) - place < length:
            buffer, place = os.pread(file, max(READ_BYTES, length), at), 0
            if len(buffer) < length:
                raise PcapngError("malformed pcapng: it is cut")
        yield at, kind, buffer, place, length
        at += length
        place += length


def _section() -> bytes:
    # The section's length is not known.
    return struct.pack("<IIIHHqI", SECTION, 28, BYTE_ORDER, 1, 0, -1, 28)


def _named_interface(block: bytes, host: str) -> bytes:
    """Returns the interface block with the host in its name."""
    if len(block) < 20:
        raise PcapngError("malformed pcapng: a short interface block")
    name, kept, resolution = "", b"", 6
    at, end = 16, len(block) - 4
    while at + 4 <= end:
        code, length = struct.unpack_from("<HH", block, at)
        value = block[at + 4 : at + 4 + length]
        if code == END:
            break
        if at + 4 + length > end:
            raise PcapngError("malformed pcapng: an option of an interface")
        if code == NAME:
            name = value.decode(errors="replace").removeprefix(f"{host}/")
        else:
            kept += _option(code, value)
        if code == RESOLUTION and length == 1:
            resolution = value[0]
        at += 4 + (length + 3) // 4 * 4
    if resolution != NS:
        raise PcapngError("malformed pcapng: its times are not in nanoseconds")
    full = f"{host}/{name}" if name else host
    body = block[8:16] + _option(NAME, full.encode()) + kept + _option(END, b"")
    length = len(body) + 12
    return struct.pack("<II", INTERFACE, length) + body + struct.pack("<I", length)


def _option(code: int, value: bytes) -> bytes:
    return struct.pack("<HH", code, len(value)) + value + bytes(-len(value) % 4)
