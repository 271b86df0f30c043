"""The spool's segment files: begun, emptied, used again, and removed when they are too many.

To make or remove one takes a disk milliseconds, in which the event loop can do nothing else. So
a file that is done with is emptied and waits to be used again, a part of all at most; `surplus`
gives the rest away to be removed elsewhere. It knows no message.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from .segment import Segment, erase_segment, is_removed, make_segment, remove_segment, reuse_segment

SPARES_SHARE = 4  # this part of all segments may wait


class SegmentPool:
    def __init__(self, directory: Path, *, segment_bytes: int, segments_max: int) -> None:
        self._directory = directory
        self._segment_bytes = segment_bytes
        self._segments_max = segments_max
        self._kept = max(segments_max // SPARES_SHARE, 1)
        self._spares: list[Segment] = []
        self.number = 0  # of the last one begun

    @property
    def has_surplus(self) -> bool:
        return len(self._spares) > self._kept

    def has_room(self, used: int) -> bool:
        """For another, while so many are in use."""
        return bool(self._spares) or used < self._segments_max

    def begin(self, *, first: int) -> Segment:
        """For frames from number `first` on. Raises OSError."""
        self.number += 1
        while self._spares:
            spare = self._spares.pop()
            if not is_removed(spare):
                return reuse_segment(spare, self.number, first=first)
            remove_segment(spare)
        return make_segment(self._directory, self.number, first=first, size=self._segment_bytes)

    def release(self, segment: Segment) -> None:
        """Emptied, so that a run that finds the file does not take it for what it was."""
        try:
            erase_segment(segment)
        except OSError:
            remove_segment(segment)
        else:
            self._spares.append(segment)

    def surplus(self) -> Callable[[], None]:
        """What is too many is gone when the function returned here has returned, which may run
        on another thread."""
        many, self._spares = self._spares[self._kept :], self._spares[: self._kept]

        def remove() -> None:
            for segment in many:
                remove_segment(segment)

        return remove

    def close(self) -> None:
        for segment in self._spares:
            os.close(segment.fd)
        self._spares.clear()
