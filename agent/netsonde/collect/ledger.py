"""The collected batches: ranges of `seq` per host and boot.

The ledger is saved with the files, so it matches their content. A missing range is a gap until
its batches arrive: after a restart of an agent or a server, they may be late and in any order.

The size is bounded, and what is forgotten is counted. Anyone who may publish as some host can
invent hosts, boots and holes. So those with the fewest batches are forgotten first, and never
the newest ones.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import msgspec

HOSTS_MAX = 10_000
BOOTS_MAX = 64  # per host
BOOTS_RECENT = 8  # kept: a restarted agent sends the batches that its last run left behind
RANGES_MAX = 65_536  # over all hosts; each boot has at least one

Ranges = list[tuple[int, int]]  # first and last seq, ascending, never touching
Boots = dict[str, Ranges]  # in order of arrival, independent of clocks


@dataclass(frozen=True, slots=True)
class Gap:
    host: str
    boot: str
    first: int
    last: int

    @property
    def batches(self) -> int:
        return self.last - self.first + 1


class Forgotten(msgspec.Struct):
    """Counts of forgotten entries. A forgotten host or boot that sends again is new: its
    duplicates are collected twice. A batch for a forgotten hole is skipped as a duplicate."""

    hosts: int = 0
    boots: int = 0
    holes: int = 0
    batches: int = 0  # missing in those holes

    @property
    def any(self) -> bool:
        return bool(self.hosts or self.boots or self.holes)


class Ledger(msgspec.Struct):
    seen: dict[str, Boots] = {}
    from_one: bool = True  # False: joining a live stream late is not a gap
    forgotten: Forgotten = msgspec.field(default_factory=Forgotten)
    ranges: int = 0  # in all boots

    def __post_init__(self) -> None:
        self.ranges = sum(map(_size, self.seen.values()))

    def knows(self, host: str, boot: str, seq: int) -> bool:
        """Returns whether the batch is a duplicate."""
        ranges = self.seen.get(host, {}).get(boot)
        return ranges is not None and _contains(ranges, seq)

    def note(self, host: str, boot: str, seq: int) -> bool:
        """Adds a batch. Returns False for a duplicate."""
        boots = self.seen.get(host)
        if boots is None:
            boots = self.seen[host] = {}
            if len(self.seen) > HOSTS_MAX:
                self._forget_host()
        ranges = boots.get(boot)
        if ranges is None:
            ranges = boots[boot] = []
            if len(boots) > BOOTS_MAX:
                self._forget_boot(boots)
        elif ranges and seq == ranges[-1][1] + 1:  # nearly always
            ranges[-1] = (ranges[-1][0], seq)
            return True
        before = len(ranges)
        added = _add(ranges, seq)
        self.ranges += len(ranges) - before
        if self.ranges > RANGES_MAX:
            self._trim()
        return added

    def gaps(self) -> Iterator[Gap]:
        for host, boots in sorted(self.seen.items()):
            for boot, ranges in sorted(boots.items()):
                expected = 1 if self.from_one or not ranges else ranges[0][0]
                for first, last in ranges:
                    if first > expected:
                        yield Gap(host, boot, expected, first - 1)
                    expected = last + 1

    # ---- the bounds ------------------------------------------------------------------------

    def _forget_host(self) -> None:
        """Forgets the oldest host with one batch; without one, the oldest. Hosts with more move
        to the end, so that they are not looked at again and again."""
        for _ in range(len(self.seen) - 1):
            host = next(iter(self.seen))
            boots = self.seen.pop(host)
            if _batches(boots) <= 1:
                break
            self.seen[host] = boots
        else:
            boots = self.seen.pop(next(iter(self.seen)))
        self.forgotten.hosts += 1
        self.ranges -= _size(boots)

    def _forget_boot(self, boots: Boots) -> None:
        """Forgets an old boot: the one with the fewest batches."""
        old = islice(boots, max(len(boots) - BOOTS_RECENT, 1))
        self.ranges -= len(boots.pop(min(old, key=lambda boot: _count(boots[boot]))))
        self.forgotten.boots += 1

    def _trim(self) -> None:
        """Forgets an eighth of the ranges, those of the hosts that have most."""
        for boots in sorted(self.seen.values(), key=_size, reverse=True):
            enough = max(_size(boots) // 2, 1)
            while self.ranges > RANGES_MAX // 8 * 7 and _size(boots) > enough:
                biggest = max(boots.values(), key=len)
                if len(biggest) > 1:
                    self._forget_holes(biggest)
                else:
                    self._forget_boot(boots)

    def _forget_holes(self, ranges: Ranges) -> None:
        """Joins the older half of the ranges."""
        old = ranges[: len(ranges) // 2 + 1]
        span = old[-1][1] - old[0][0] + 1
        self.forgotten.holes += len(old) - 1
        self.forgotten.batches += span - _count(old)
        ranges[: len(old)] = [(old[0][0], old[-1][1])]
        self.ranges -= len(old) - 1


def _size(boots: Boots) -> int:
    return sum(map(len, boots.values()))


def _batches(boots: Boots) -> int:
    return sum(map(_count, boots.values()))


def _count(ranges: Ranges) -> int:
    return sum(last - first + 1 for first, last in ranges)


def _contains(ranges: Ranges, seq: int) -> bool:
    at = bisect_right(ranges, (seq, 1 << 63))
    return at > 0 and ranges[at - 1][1] >= seq


def _add(ranges: Ranges, seq: int) -> bool:
    at = bisect_right(ranges, (seq, 1 << 63))
    if at > 0 and ranges[at - 1][1] >= seq:
        return False
    joins_left = at > 0 and ranges[at - 1][1] == seq - 1
    joins_right = at < len(ranges) and ranges[at][0] == seq + 1
    first = ranges[at - 1][0] if joins_left else seq
    last = ranges[at][1] if joins_right else seq
    ranges[at - joins_left : at + joins_right] = [(first, last)]
    return True
