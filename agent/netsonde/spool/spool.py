"""A bounded message queue on disk that survives the agent.

Messages are appended to preallocated segment files of a fixed size. `take` returns them in
order. `finish` marks one as stored elsewhere. A segment without unfinished messages is reused.
A full spool drops its oldest segment and counts the records in `records_lost`. Nothing here
blocks.

Durability: after `append` a message is in the kernel, so kill -9 loses none. A power cut loses
the messages since the last sync, which the caller runs every second. A checksum detects a torn
frame. Messages taken but not finished are returned again after a restart, with the same headers.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections import deque
from collections.abc import Callable
from pathlib import Path

from ..errors import ConfigError, NetsondeError
from .format import SEGMENT_HEAD_BYTES, Message, Position, Recovery, Taken, pack_frame_head
from .position import PositionFile
from .segment import (
    Segment,
    load_segment,
    read_frame,
    read_head,
    remove_segment,
    whole_frames,
    write_all,
)
from .segment_pool import SegmentPool

SEGMENTS_WANTED = 16
SEGMENT_BYTES_MIN = 1 << 19  # larger than any batch
SEGMENT_BYTES_MAX = 8 << 20
CACHED_BYTES_MAX = 16 << 20  # appended messages also kept in memory until `take`


class SpoolError(NetsondeError):
    """A message cannot be written, and no older message can be dropped for it."""


class SpoolFullError(SpoolError):
    """A message fits only if the oldest messages are dropped."""


class Spool:
    def __init__(self, directory: Path, *, bytes_max: int) -> None:
        self._directory = directory
        self._segment_bytes = min(
            max(bytes_max // SEGMENTS_WANTED, SEGMENT_BYTES_MIN), SEGMENT_BYTES_MAX
        )
        self._segments_max = max(bytes_max // self._segment_bytes, 2)
        self._pool = SegmentPool(
            directory, segment_bytes=self._segment_bytes, segments_max=self._segments_max
        )
        self._segments: deque[Segment] = deque()
        self._lock_fd = -1
        self._position_file: PositionFile | None = None
        self._position = Position()
        self._number = 0  # number of the newest frame
        self._records_total = 0
        self._packets_total = 0
        self._reading: Segment | None = None
        self._offset = 0
        self._next = 1  # number of the next frame to be taken
        self._records_taken = 0  # totals before that frame
        self._packets_taken = 0
        self._taken: dict[int, Taken] = {}
        self._losses: deque[tuple[int, int, int]] = deque()  # (last number, records, packets)
        self._cache: dict[int, Message] = {}
        self._cached_bytes = 0

    # ---- figures -----------------------------------------------------------------------------

    @property
    def bytes_max(self) -> int:
        return self._segments_max * self._segment_bytes

    @property
    def bytes_used(self) -> int:
        """Counts earlier segments in full, the newest up to its last frame."""
        if not self._segments:
            return 0
        return (len(self._segments) - 1) * self._segment_bytes + self._segments[-1].end

    @property
    def records_lost(self) -> int:
        """Counted over the spool's lifetime."""
        return self._position.records_lost

    @property
    def packets_lost(self) -> int:
        return self._position.packets_lost

    @property
    def packets_total(self) -> int:
        """Packets of all messages ever appended."""
        return self._packets_total

    @property
    def records_total(self) -> int:
        return self._records_total

    @property
    def records_unfinished(self) -> int:
        """Records appended and neither finished nor lost."""
        waiting = self._records_total - self._records_taken
        return waiting + sum(taken.message.records for taken in self._taken.values())

    @property
    def messages_waiting(self) -> int:
        """Messages appended and not yet taken."""
        return self._number - self._next + 1

    @property
    def empty(self) -> bool:
        return not self._taken and self._next > self._number

    @property
    def wants_sync(self) -> bool:
        return not self.empty or self._pool.has_surplus

    # ---- lifetime ----------------------------------------------------------------------------

    def open(self) -> Recovery:
        """Creates the directory or recovers its messages. Raises ConfigError."""
        try:
            self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
            self._lock_fd = os.open(self._directory / "lock", flags, 0o600)
            fcntl.flock(self._lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._position_file = PositionFile(self._directory / "position")
            self._position = self._position_file.read()
            return self._recover()
        except BlockingIOError:
            why = "another agent uses this spool"
        except OSError as error:
            why = error.strerror or str(error)
        self.close()
        raise ConfigError(f"flows.spool_dir: {self._directory}: {why}")

    def close(self) -> None:
        """Closes all files. Unfinished messages stay for the next run."""
        if self._position_file is not None:
            with contextlib.suppress(OSError):
                self.prepare_sync()()
        for segment in self._segments:
            os.close(segment.fd)
        self._pool.close()
        if self._position_file is not None:
            self._position_file.close()
        if self._lock_fd >= 0:
            os.close(self._lock_fd)
        self._segments.clear()
        self._position_file, self._lock_fd = None, -1

    def prepare_sync(self) -> Callable[[], None]:
        """Returns a function that syncs all appended messages to disk and removes surplus files.
        It blocks, may run on any thread, and raises OSError."""
        remove_surplus = self._pool.surplus()
        segments = [segment for segment in self._segments if segment.unsynced]
        for segment in segments:
            segment.unsynced = False
        fds = [os.dup(segment.fd) for segment in segments]
        if self._position_file is not None:
            fds.append(os.dup(self._position_file.fd))

        def sync() -> None:
            try:
                for fd in fds:
                    os.fdatasync(fd)
            finally:
                for fd in fds:
                    os.close(fd)
                remove_surplus()

        return sync

    # ---- append ------------------------------------------------------------------------------

    def append(self, message: Message, *, force: bool = False) -> int:
        """Returns how many older records it dropped. Without `force` it drops none and raises
        SpoolFullError if the spool is full."""
        if SEGMENT_HEAD_BYTES + message.bytes > self._segment_bytes:
            raise SpoolError(f"a message of {message.bytes} bytes is larger than a segment")
        lost = 0
        if not self._segments or self._segments[-1].end + message.bytes > self._segment_bytes:
            lost = self._add_segment(force=force)
        segment = self._segments[-1]
        number = self._number + 1
        head = pack_frame_head(
            message,
            segment=segment.number,
            offset=segment.end,
            number=number,
            records_total=self._records_total + message.records,
            packets_total=self._packets_total + message.packets,
        )
        try:
            write_all(
                segment.fd, [head, message.subject, message.head, message.payload], segment.end
            )
        except OSError as error:
            raise SpoolError(f"cannot write {segment.path}: {error.strerror}") from None
        self._number = number
        self._records_total += message.records
        self._packets_total += message.packets
        segment.end += message.bytes
        segment.first = segment.first or number
        segment.last = number
        segment.records_total, segment.packets_total = self._records_total, self._packets_total
        segment.unsynced = True
        if self._cached_bytes + message.bytes <= CACHED_BYTES_MAX:
            self._cache[number] = message
            self._cached_bytes += message.bytes
        return lost

    def _add_segment(self, *, force: bool) -> int:
        """Adds a segment. Drops the oldest if the limit is reached or the disk is full."""
        lost, reason = 0, "the spool is full"
        while True:
            if self._pool.has_room(len(self._segments)):
                try:
                    self._segments.append(self._begin_segment())
                    return lost
                except OSError as error:
                    reason = error.strerror or str(error)
                    if error.errno not in (errno.ENOSPC, errno.EDQUOT) or not self._segments:
                        raise SpoolError(
                            f"cannot add a segment in {self._directory}: {reason}"
                        ) from None
            if self._segments[0].last > self._position.number and not force:
                raise SpoolFullError(f"{self._directory}: {reason}")
            lost += self._drop_oldest()

    def _begin_segment(self) -> Segment:
        begun = self._pool.begin(first=self._number + 1)
        begun.records_total, begun.packets_total = self._records_total, self._packets_total
        return begun

    def _drop_oldest(self) -> int:
        """Drops the oldest segment. Returns how many of its records were never taken."""
        segment = self._segments.popleft()
        before = self._position.records_lost
        if segment.last >= self._next:
            for number in range(self._next, segment.last + 1):
                self._forget_cached(number)
            self._skip(segment.last, segment.records_total, segment.packets_total)
        if self._reading is segment:
            self._reading = None
        self._pool.release(segment)
        self._advance()
        return self._position.records_lost - before

    def _skip(self, last: int, records_total: int, packets_total: int) -> None:
        """Counts the messages from the next to `last` as lost. The totals are those of `last`."""
        self._note_lost(
            last, records_total - self._records_taken, packets_total - self._packets_taken
        )
        self._next = last + 1
        self._records_taken, self._packets_taken = records_total, packets_total

    def _note_lost(self, last: int, records: int, packets: int) -> None:
        self._position.records_lost += records
        self._position.packets_lost += packets
        self._losses.append((last, records, packets))

    # ---- take and finish ---------------------------------------------------------------------

    def take(self) -> Taken | None:
        """Returns the next message or None. Skips damaged messages and counts them as lost."""
        while self._next <= self._number:
            number = self._next
            segment = self._segment_of(number)
            if number < segment.first:
                self._skip_gap(segment)
                continue
            if self._reading is not segment:
                self._reading, self._offset = segment, SEGMENT_HEAD_BYTES
            taken = self._read(segment, number)
            if taken is not None:
                self._taken[number] = taken
                return taken
            self._skip_damaged(segment)
        return None

    def _segment_of(self, number: int) -> Segment:
        if self._reading is not None and number <= self._reading.last:
            return self._reading
        return next(segment for segment in self._segments if segment.last >= number)

    def _read(self, segment: Segment, number: int) -> Taken | None:
        message = self._forget_cached(number)
        if message is None:
            found = read_frame(segment, self._offset, check=segment.recovered)
            if found is None or found[0].number != number:
                return None
            message = found[1]
        before = (self._records_taken, self._packets_taken)
        self._offset += message.bytes
        self._next = number + 1
        self._records_taken += message.records
        self._packets_taken += message.packets
        return Taken(number, message, *before)

    def _skip_damaged(self, segment: Segment) -> None:
        """Counts the rest of a damaged segment as lost. The totals give the number."""
        self._skip(segment.last, segment.records_total, segment.packets_total)
        self._reading = None
        self._advance()

    def _skip_gap(self, segment: Segment) -> None:
        """Counts messages between two segments as lost: a segment of an earlier run is missing."""
        head = read_head(segment)
        if head is None:
            self._skip_damaged(segment)
            return
        before = (head.records_total - head.records, head.packets_total - head.packets)
        self._skip(segment.first - 1, *before)
        self._advance()

    def _forget_cached(self, number: int) -> Message | None:
        message = self._cache.pop(number, None)
        if message is not None:
            self._cached_bytes -= message.bytes
        return message

    def finish(self, taken: Taken, *, lost: bool = False) -> None:
        """Marks a message as stored elsewhere or, with `lost`, counts it as lost."""
        if self._taken.pop(taken.number, None) is None:
            return
        if lost:
            self._note_lost(taken.number, taken.message.records, taken.message.packets)
        self._advance()

    def _advance(self) -> None:
        """Moves the position to the first unfinished message. Releases the segments before it."""
        position = self._position
        if self._taken:
            first = self._taken[min(self._taken)]
            position.number = first.number - 1
            position.records_total = first.records_before
            position.packets_total = first.packets_before
        else:
            position.number = self._next - 1
            position.records_total = self._records_taken
            position.packets_total = self._packets_taken
        while self._losses and self._losses[0][0] <= position.number:
            self._losses.popleft()
        position.records_lost_after = sum(loss[1] for loss in self._losses)
        position.packets_lost_after = sum(loss[2] for loss in self._losses)
        self._write_position()
        while len(self._segments) > 1 and self._segments[0].last <= position.number:
            if self._reading is self._segments[0]:
                self._reading = None
            self._pool.release(self._segments.popleft())

    def count_lost(self, records: int, packets: int) -> None:
        """Counts losses from before the spool, after an earlier run was killed."""
        self._position.records_lost += records
        self._position.packets_lost += packets
        self._write_position()

    def _write_position(self) -> None:
        if self._position_file is not None:
            self._position_file.write(self._position)

    # ---- recovery ----------------------------------------------------------------------------

    def _recover(self) -> Recovery:
        torn = False
        (self._directory / "spare").unlink(missing_ok=True)  # file of an earlier release
        position = self._position
        self._number = position.number
        self._records_total = position.records_total
        self._packets_total = position.packets_total
        found: list[Segment] = []
        for path in self._directory.glob("*.spool"):
            segment, cut = load_segment(path)
            torn = torn or cut
            if segment is None:
                path.unlink()
            elif segment.last <= position.number:
                remove_segment(segment)
            else:
                found.append(segment)
        self._segments.extend(sorted(found, key=lambda segment: segment.number))
        if found:
            self._pool.number = self._segments[-1].number
        return self._resume(torn)

    def _resume(self, torn: bool) -> Recovery:
        """Resumes at the first message after the position. Counts missing messages as lost."""
        position = self._position
        lost_before = (position.records_lost, position.packets_lost)
        self._next = position.number + 1
        self._records_taken = position.records_total
        self._packets_taken = position.packets_total
        if self._segments:
            newest = self._segments[-1]
            self._number = newest.last
            self._records_total, self._packets_total = newest.records_total, newest.packets_total
            self._seek_next()
        else:
            self._records_taken, self._packets_taken = self._records_total, self._packets_total
        if self._number < self._next - 1:
            self._number = self._next - 1
        self._losses.clear()
        self._advance()
        return Recovery(
            messages=self.messages_waiting,
            records=self._records_total - self._records_taken,
            packets=self._packets_total - self._packets_taken,
            torn=torn,
            records_lost=position.records_lost - lost_before[0],
            packets_lost=position.packets_lost - lost_before[1],
        )

    def _seek_next(self) -> None:
        for segment in self._segments:
            for offset, head in whole_frames(segment):
                if head.number < self._next:
                    continue
                # Messages between the position and this frame are missing.
                position = self._position
                records = head.records_total - head.records - self._records_taken
                packets = head.packets_total - head.packets - self._packets_taken
                records -= position.records_lost_after
                packets -= position.packets_lost_after
                if records > 0 or packets > 0:
                    self._note_lost(head.number - 1, max(records, 0), max(packets, 0))
                self._reading, self._offset, self._next = segment, offset, head.number
                self._records_taken = head.records_total - head.records
                self._packets_taken = head.packets_total - head.packets
                return
