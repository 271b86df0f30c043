"""One segment file of the spool: made, written to, read back, and found again after a crash."""

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
    end: int = SEGMENT_HEAD_BYTES  # where the next frame goes
    first: int = 0  # number of its first frame
    last: int = 0  # and of its last, 0 if it has none
    records_total: int = 0  # as its last frame has them
    packets_total: int = 0
    recovered: bool = False  # written by an earlier run: check every frame again
    unsynced: bool = False


def pread(fd: int, size: int, offset: int) -> bytes:
    """Nothing where the disk gives nothing: a bad sector is damage like any other."""
    try:
        return os.pread(fd, size, offset)
    except OSError:
        return b""


def make_segment(directory: Path, number: int, *, first: int, size: int) -> Segment:
    """New and preallocated. It keeps its name when it is used again under another number."""
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
    """An emptied one, which needs no room on the disk."""
    try:
        write_all(spare.fd, [pack_segment_head(number, first)], 0)
    except OSError:
        remove_segment(spare)
        raise
    return Segment(number, spare.path, spare.fd)


def erase_segment(segment: Segment) -> None:
    """It holds nothing from now on. Raises OSError."""
    write_all(segment.fd, [bytes(SEGMENT_HEAD_BYTES)], 0)


def remove_segment(segment: Segment) -> None:
    """One that cannot be removed is found, and passed over, by the next run."""
    os.close(segment.fd)
    with contextlib.suppress(OSError):
        segment.path.unlink()


def is_removed(segment: Segment) -> bool:
    """By somebody else: what is written to it would end with this process."""
    return os.fstat(segment.fd).st_nlink == 0


def write_all(fd: int, parts: list[bytes], offset: int) -> None:
    """A short write is an error: the next one says which, most likely that the disk is full."""
    wanted = sum(map(len, parts))
    written = os.pwritev(fd, parts, offset)
    if written < wanted:
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
    if len(payload) < head.payload_bytes:  # what this run wrote itself may be gone, too
        return None
    return head, Message(subject, block, payload, head.records, head.packets)


def whole_frames(segment: Segment) -> Iterator[tuple[int, FrameHead]]:
    """The whole frames of a segment, in order, each with its offset."""
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
    """The segment as far as it is whole, and whether a frame begins behind that is not.
    None: it holds nothing."""
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
    behind = read_head(segment, segment.end)
    torn = behind is not None and behind.number == expected
    if segment.last == 0:
        os.close(fd)
        return None, torn
    return segment, torn
