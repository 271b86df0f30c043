"""Rates from two snapshots."""

from __future__ import annotations

import pytest

from netsonde.capture.rates import Window, between, drop_rate, next_tick
from netsonde.core.values import Stats
from netsonde.wire.instant import NS_PER_SEC


def test_rates_are_per_second() -> None:
    before = Stats(packets_captured=100, bytes_captured=10_000, packets_dropped=5)
    after = Stats(packets_captured=1100, bytes_captured=1_010_000, packets_dropped=255)
    rates = between(before, after, 2 * NS_PER_SEC)
    assert rates.interval_sec == 2
    assert rates.packets_per_sec == 500
    assert rates.throughput_mbps == pytest.approx(4.0)
    assert rates.avg_packet_size == 1000
    assert rates.drop_rate_percent == pytest.approx(20.0)
    assert rates.packets_dropped == 250


def test_empty_interval_has_zero_rates() -> None:
    rates = between(Stats(), Stats(), 0)
    assert (rates.packets_per_sec, rates.avg_packet_size, rates.drop_rate_percent) == (0, 0, 0)
    assert drop_rate(0, 0) == 0
    assert drop_rate(0, 7) == 1


def test_rates_before_the_first_interval_count_from_the_start() -> None:
    window = Window(Stats(), 0)
    assert window.rates(Stats(packets_captured=50), NS_PER_SEC // 2).packets_per_sec == 100
    assert window.rates(Stats(packets_captured=50), NS_PER_SEC).packets_per_sec == 50


def test_rates_are_of_the_last_full_interval() -> None:
    window = Window(Stats(), 0)
    window.advance(Stats(packets_captured=1000), NS_PER_SEC)
    assert window.rates(Stats(packets_captured=9000), NS_PER_SEC + 1).packets_per_sec == 1000
    window.advance(Stats(packets_captured=3000), 2 * NS_PER_SEC)
    assert window.rates(Stats(packets_captured=3000), 9 * NS_PER_SEC).packets_per_sec == 2000


@pytest.mark.parametrize(
    ("now_sec", "due_sec"), [(10.0, 15.0), (14.9, 15.0), (15.0, 15.0), (15.1, 20.0), (61.0, 65.0)]
)
def test_intervals_that_passed_in_a_stall_are_skipped(now_sec: float, due_sec: float) -> None:
    assert next_tick(10.0, 5.0, now_sec) == due_sec
