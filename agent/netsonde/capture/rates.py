"""Rates of a session: differences of two snapshots over a time.

Pure arithmetic with time as an argument. `advance` closes an interval; until the first one
is full, the rates are over the time since the start.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..core.values import Stats
from ..wire.instant import NS_PER_SEC


@dataclass(frozen=True, slots=True)
class Rates:
    interval_sec: float
    throughput_mbps: float
    packets_per_sec: int
    avg_packet_size: float
    drop_rate_percent: float
    packets_dropped: int  # within the interval


def drop_rate(captured: int, dropped: int) -> float:
    """Returns the dropped share of the offered packets, 0…1."""
    offered = captured + dropped
    return dropped / offered if offered else 0.0


def between(before: Stats, after: Stats, interval_ns: int) -> Rates:
    interval_sec = max(interval_ns, 1) / NS_PER_SEC
    packets = after.packets_captured - before.packets_captured
    size = after.bytes_captured - before.bytes_captured
    dropped = after.packets_dropped - before.packets_dropped
    return Rates(
        interval_sec=interval_sec,
        throughput_mbps=size * 8 / 1e6 / interval_sec,
        packets_per_sec=round(packets / interval_sec),
        avg_packet_size=size / packets if packets else 0.0,
        drop_rate_percent=100 * drop_rate(packets, dropped),
        packets_dropped=dropped,
    )


def next_tick(last_sec: float, interval_sec: float, now_sec: float) -> float:
    """Returns when the next interval ends. Ends that passed during a stall are skipped."""
    due_sec = last_sec + interval_sec
    if due_sec > now_sec:
        return due_sec
    return due_sec + math.ceil((now_sec - due_sec) / interval_sec) * interval_sec


class Window:
    def __init__(self, stats: Stats, now_ns: int) -> None:
        self._before = stats
        self._before_ns = now_ns
        self._last: Rates | None = None

    def advance(self, stats: Stats, now_ns: int) -> Rates:
        """Ends the interval now and begins the next."""
        self._last = between(self._before, stats, now_ns - self._before_ns)
        self._before, self._before_ns = stats, now_ns
        return self._last

    def rates(self, stats: Stats, now_ns: int) -> Rates:
        """Over the last full interval, or since the start before there was one."""
        return self._last or between(self._before, stats, now_ns - self._before_ns)
