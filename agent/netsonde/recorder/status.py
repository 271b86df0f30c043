"""Fill level of the capture buffer for status and metrics."""

from __future__ import annotations

from ..core.values import Stats
from ..wire.instant import NS_PER_SEC, rfc3339
from ..wire.replies import BufferState


def usage_percent(stats: Stats) -> float:
    """Returns 0 to 100. A buffer that has wrapped stays at 100."""
    if not stats.buffer_bytes_capacity:
        return 0.0
    return min(100 * stats.buffer_bytes_used / stats.buffer_bytes_capacity, 100.0)


def retention_sec(stats: Stats, *, live: bool) -> float:
    """Returns the age of the oldest packet in memory. A replay counts from its newest packet."""
    if not stats.buffer_oldest_ns:
        return 0.0
    until_ns = stats.time_ns if live else stats.buffer_newest_ns
    return max(until_ns - stats.buffer_oldest_ns, 0) / NS_PER_SEC


def buffer_state(stats: Stats) -> BufferState:
    oldest_ns, newest_ns = stats.buffer_oldest_ns, stats.buffer_newest_ns
    return BufferState(
        bytes_used=stats.buffer_bytes_used,
        bytes_capacity=stats.buffer_bytes_capacity,
        packets=stats.buffer_packets,
        oldest_time=rfc3339(oldest_ns) if oldest_ns else None,
        newest_time=rfc3339(newest_ns) if newest_ns else None,
        segments=stats.segments,
        segment_bytes=stats.segment_bytes,
    )
