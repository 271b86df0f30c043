"""One segment file of the spool: create, write, read, and recover after a crash."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from .format import (
    FRAME_HEAD_BYTES,
    SEGMENT_HEAD_BYTES,
    FrameHead,
    Message,
    frame_is_whole,
    pack_segment_head,
    unpack_frame_head,
    unpack_segment_head,
)


@dataclass(slots=True)
class Segment:
    number: int
    path: Path
    fd: int
    end: int = SEGMENT_HEAD_BYTES  # offset of the next frame
    first: int = 0  # number of its first frame
    last: int = 0  # number of its last frame, 0 if empty
    records_total: int = 0  # totals of its last frame
    packets_total: int = 0
    recovered: bool = False  # written by an earlier run: check every frame
    unsynced: bool = False


def pread(fd: int, size: int, offset: int) -> bytes:
    """Returns no bytes on a read error: a bad sector counts as a damaged frame."""
    try:
        return os.pread(fd, size, offset)
    except OSError:
        return b""


def make_segment(directory: Path, number: int, *, first: int, size: int) -> Segment:
    """Creates a preallocated segment. Reuse keeps the file name, under another number."""
    path = directory / f"{number:016x}.spool"
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    segment = Segment(number, path, fd)
    try:
        os.posix_fallocate(fd, 0, size)
        write_all(fd, [pack_segment_head(number, first)], 0)
    except OSError:
        remove_segment(segment)
        raise
    return segment


def reuse_segment(spare: Segment, number: int, *, first: int) -> Segment:
    """Turns an erased segment into a new one. Needs no disk space."""
    try:
        write_all(spare.fd, [pack_segment_head(number, first)], 0)
    except OSError:
        remove_segment(spare)
        raise
    return Segment(number, spare.path, spare.fd)


def erase_segment(segment: Segment) -> None:
    """Invalidates all frames. Raises OSError."""
    write_all(segment.fd, [bytes(SEGMENT_HEAD_BYTES)], 0)


def remove_segment(segment: Segment) -> None:
    """Closes and deletes the file. If that fails, the next run skips the file."""
    os.close(segment.fd)
    with contextlib.suppress(OSError):
        segment.path.unlink()


def is_removed(segment: Segment) -> bool:
    """Returns True if the file was deleted. Frames written to it would end with this process."""
    return os.fstat(segment.fd).st_nlink == 0


def write_all(fd: int, parts: list[bytes], offset: int) -> None:
    """Writes all bytes or raises OSError. A retry after a short write returns the error."""
    written = os.pwritev(fd, parts, offset)
    if written < sum(map(len, parts)):
        rest = b"".join(parts)[written:]
        while rest:
            count = os.pwrite(fd, rest, offset + written)
            if count == 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            rest, written = rest[count:], written + count


def read_head(segment: Segment, offset: int = SEGMENT_HEAD_BYTES) -> FrameHead | None:
    return unpack_frame_head(pread(segment.fd, FRAME_HEAD_BYTES, offset))


def read_frame(segment: Segment, offset: int, *, check: bool) -> tuple[FrameHead, Message] | None:
    head = read_head(segment, offset)
    if head is None:
        return None
    data = pread(segment.fd, head.bytes, offset)
    if check and not frame_is_whole(head, data, segment=segment.number, offset=offset):
        return None
    at = FRAME_HEAD_BYTES
    subject = data[at : at + head.subject_bytes]
    at += head.subject_bytes
    block = data[at : at + head.head_bytes]
    at += head.head_bytes
    payload = data[at : at + head.payload_bytes]
    if len(payload) < head.payload_bytes:  # possible even without `check`: truncated file
        return None
    return head, Message(subject, block, payload, head.records, head.packets)


def whole_frames(segment: Segment) -> Iterator[tuple[int, FrameHead]]:
    """Yields (offset, head) of a segment's frames until the first invalid one."""
    offset, expected = SEGMENT_HEAD_BYTES, segment.first
    while True:
        head = read_head(segment, offset)
        if head is None or head.number != expected:
            return
        data = pread(segment.fd, head.bytes, offset)
        if not frame_is_whole(head, data, segment=segment.number, offset=offset):
            return
        yield offset, head
        offset += head.bytes
        expected += 1


def load_segment(path: Path) -> tuple[Segment | None, bool]:
    """Returns the valid part of a segment and whether a torn frame follows. The segment is None
    if it has no valid frame."""
    fd = os.open(path, os.O_RDWR)
    found = unpack_segment_head(pread(fd, SEGMENT_HEAD_BYTES, 0))
    if found is None:
        os.close(fd)
        return None, False
    segment = Segment(found[0], path, fd, first=found[1], recovered=True)
    for offset, head in whole_frames(segment):
        segment.end, segment.last = offset + head.bytes, head.number
        segment.records_total, segment.packets_total = head.records_total, head.packets_total
    expected = segment.last + 1 if segment.last else segment.first
    next_head = read_head(segment, segment.end)
    torn = next_head is not None and next_head.number == expected
    if segment.last == 0:
        os.close(fd)
        return None, torn
    return segment, torn
