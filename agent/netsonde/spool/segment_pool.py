"""The pool of the spool's segment files.

Creating or removing a file blocks the event loop for milliseconds. A released file is therefore
erased and kept as a spare. Spares beyond 1/SPARES_SHARE of all segments are removed on another
thread.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from .segment import Segment, erase_segment, is_removed, make_segment, remove_segment, reuse_segment

SPARES_SHARE = 4  # one in four segments may be a spare


class SegmentPool:
    def __init__(self, directory: Path, *, segment_bytes: int, segments_max: int) -> None:
        self._directory = directory
        self._segment_bytes = segment_bytes
        self._segments_max = segments_max
        self._spares_max = max(segments_max // SPARES_SHARE, 1)
        self._spares: list[Segment] = []
        self.number = 0  # number of the newest segment

    @property
    def has_surplus(self) -> bool:
        return len(self._spares) > self._spares_max

    def has_room(self, used: int) -> bool:
        """Returns True if a segment can be added to `used` ones."""
        return bool(self._spares) or used < self._segments_max

    def begin(self, *, first: int) -> Segment:
        """Returns a segment for frames from number `first`. Raises OSError."""
        self.number += 1
        while self._spares:
            spare = self._spares.pop()
            if not is_removed(spare):
                return reuse_segment(spare, self.number, first=first)
            remove_segment(spare)
        return make_segment(self._directory, self.number, first=first, size=self._segment_bytes)

    def release(self, segment: Segment) -> None:
        """Makes a segment a spare. It is erased, so that the next run finds no old frames."""
        try:
            erase_segment(segment)
        except OSError:
            remove_segment(segment)
        else:
            self._spares.append(segment)

    def surplus(self) -> Callable[[], None]:
        """Returns a function that removes the surplus spares, on any thread."""
        surplus, self._spares = self._spares[self._spares_max :], self._spares[: self._spares_max]

        def remove() -> None:
            for segment in surplus:
                remove_segment(segment)

        return remove

    def close(self) -> None:
        for segment in self._spares:
            os.close(segment.fd)
        self._spares.clear()
