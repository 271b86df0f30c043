"""Points in time as requests write them."""

from __future__ import annotations

import pytest

from netsonde.errors import InvalidRequest
from netsonde.wire.instant import instant_ns

NOW_NS = 1_767_225_600_000_000_007


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("1969-12-31T23:59:59Z", 0),  # clamped to the epoch
        ("2026-01-01T00:00:00Z", 1_767_225_600_000_000_000),
        ("2026-01-01T00:00:00.000000001Z", 1_767_225_600_000_000_001),
        ("2026-01-01T00:00:00.5+00:00", 1_767_225_600_500_000_000),
        ("2026-01-01t02:00:00.123456789+02:00", 1_767_225_600_123_456_789),
        ("2025-12-31 16:30:00-07:30", 1_767_225_600_000_000_000),
        ("2026-01-01T00:00:00.1234567899Z", 1_767_225_600_123_456_789),  # truncated to nanoseconds
        ("2016-12-31t23:59:60.5z", 1_483_228_800_500_000_000),  # a leap second
        ("9999-12-31T23:59:59-23:59", (1 << 64) - 1),  # clamped to the maximum
        ("-5m", NOW_NS - 300_000_000_000),
        ("-1.5s", NOW_NS - 1_500_000_000),
        ("-250ms", NOW_NS - 250_000_000),
        ("-2h", NOW_NS - 7_200_000_000_000),
        ("-1d", NOW_NS - 86_400_000_000_000),
        ("-999999999d", 0),
    ],
)
def test_instant_is_parsed(text: str, expected: int) -> None:
    assert instant_ns(text, NOW_NS, field="$.start") == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "now",
        "5m",
        "-5",
        "-m",
        "-5 m",
        "--5m",
        "-5M",
        "2026-01-01",
        "2026-01-01T00:00:00",
        "2026-13-01T00:00:00Z",
        "2026-01-01T24:00:01Z",
        "2026-01-01T00:00:61Z",
        "2026-01-01T00:00:00.Z",
        "20260101T000000Z",
        "2026-01-01T00:00:00+0100",
        "2026-01-01T00:00:00+99:00",
        "0000-01-01T00:00:00Z",
        "٢٠٢٦-01-01T00:00:00Z",
        "1767225600",
    ],
)
def test_malformed_instant_is_rejected(text: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        instant_ns(text, NOW_NS, field="$.end")
    assert caught.value.field == "$.end"
