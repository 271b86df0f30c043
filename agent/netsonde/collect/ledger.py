"""Which batches have been collected: per host and boot, ranges of `seq`.

The ledger is part of the state that moves with the files, so it says exactly what is in
them. A range that is missing in the middle is a gap until its batches come, which after a
restart of an agent or a server they may do late and in any order.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass

import msgspec

BOOTS_MAX = 64  # of one host; those first heard of are forgotten, a clock set back or not

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
    from_one: bool = True  # False: whoever joins a live stream late has missed nothing

    def note(self, host: str, boot: str, seq: int) -> bool:
        """Enters a batch; False if it was here before."""
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
