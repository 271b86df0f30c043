"""The collected batches: ranges of `seq` per host and boot.

The ledger is saved with the files, so it matches their content. A missing range is a gap until
its batches arrive: after a restart of an agent or a server, they may be late and in any order.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass

import msgspec

BOOTS_MAX = 64  # per host; the first ones received are dropped, independent of clocks

Ranges = list[tuple[int, int]]  # first and last seq, ascending, never touching


@dataclass(frozen=True, slots=True)
class Gap:
    host: str
    boot: str
    first: int
    last: int

    @property
    def batches(self) -> int:
        return self.last - self.first + 1


class Ledger(msgspec.Struct):
    seen: dict[str, dict[str, Ranges]] = {}
    from_one: bool = True  # False: joining a live stream late is not a gap

    def note(self, host: str, boot: str, seq: int) -> bool:
        """Adds a batch. Returns False for a duplicate."""
        boots = self.seen.setdefault(host, {})
        ranges = boots.get(boot)
        if ranges is None:
            ranges = boots[boot] = []
            while len(boots) > BOOTS_MAX:
                del boots[next(iter(boots))]
        return _add(ranges, seq)

    def gaps(self) -> Iterator[Gap]:
        for host, boots in sorted(self.seen.items()):
            for boot, ranges in sorted(boots.items()):
                expected = 1 if self.from_one or not ranges else ranges[0][0]
                for first, last in ranges:
                    if first > expected:
                        yield Gap(host, boot, expected, first - 1)
                    expected = last + 1


def _add(ranges: Ranges, seq: int) -> bool:
    if ranges and seq == ranges[-1][1] + 1:  # nearly always
        ranges[-1] = (ranges[-1][0], seq)
        return True
    at = bisect_right(ranges, (seq, 1 << 63))
    if at > 0 and ranges[at - 1][1] >= seq:
        return False
    joins_left = at > 0 and ranges[at - 1][1] == seq - 1
    joins_right = at < len(ranges) and ranges[at][0] == seq + 1
    first = ranges[at - 1][0] if joins_left else seq
    last = ranges[at][1] if joins_right else seq
    ranges[at - joins_left : at + joins_right] = [(first, last)]
    return True
