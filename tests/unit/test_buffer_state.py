"""The fill level of the capture buffer in `status`, and the name of the system in `ping`."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest

from netsonde.core.values import Stats
from netsonde.recorder.status import buffer_state, retention_sec, usage_percent
from netsonde.service import facts

SECOND = 1_000_000_000


@pytest.mark.parametrize(
    ("used", "capacity", "percent"), [(0, 0, 0), (0, 8, 0), (2, 8, 25), (8, 8, 100), (9, 8, 100)]
)
def test_usage_is_a_percentage_of_the_capacity(used: int, capacity: int, percent: float) -> None:
    stats = Stats(buffer_bytes_used=used, buffer_bytes_capacity=capacity)
    assert usage_percent(stats) == percent


def test_retention_counts_to_now_or_to_the_newest_packet_of_a_replay() -> None:
    stats = Stats(
        time_ns=100 * SECOND, buffer_oldest_ns=70 * SECOND, buffer_newest_ns=72_500_000_000
    )
    assert retention_sec(stats, live=True) == 30
    assert retention_sec(stats, live=False) == 2.5
    assert retention_sec(Stats(time_ns=SECOND), live=True) == 0
    assert retention_sec(Stats(time_ns=1, buffer_oldest_ns=SECOND), live=True) == 0


def test_empty_buffer_has_no_times() -> None:
    empty = buffer_state(Stats(buffer_bytes_capacity=8))
    assert (empty.oldest_time, empty.newest_time, empty.bytes_capacity) == (None, None, 8)
    state = buffer_state(
        Stats(buffer_oldest_ns=SECOND, buffer_newest_ns=2 * SECOND, segments=3, segment_bytes=4)
    )
    assert state.oldest_time == "1970-01-01T00:00:01.000000000Z"
    assert state.newest_time == "1970-01-01T00:00:02.000000000Z"
    assert (state.segments, state.segment_bytes) == (3, 4)


def test_name_of_the_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "os-release"
    monkeypatch.setattr(facts, "_OS_RELEASE", path)
    assert facts._os_name() == platform.system()
    path.write_text('ID=x\n\nno field\nPRETTY_NAME="Linux a=b=c"\n')
    assert facts._os_name() == "Linux a=b=c"
    path.write_bytes(b"PRETTY_NAME=\xff")
    assert facts._os_name() == platform.system()
    path.write_text("ID=x\n")
    assert facts._os_name() == platform.system()
