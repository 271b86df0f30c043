"""Times in requests and records: RFC 3339 with an offset, or "-5m" for five minutes ago.

Nanoseconds since the epoch as integers, because datetime keeps only microseconds.
"""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime, timedelta

from ..errors import InvalidRequest

_AGO = re.compile(r"-(\d{1,9}(?:\.\d{1,9})?)(ms|s|m|h|d)", re.ASCII)
_NS_MAX = (1 << 64) - 1  # in the year 2554; callers write 9999 for "no limit"
_UNIT_MS = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}


def instant_ns(text: str, now_ns: int, *, field: str) -> int:
    """Returns nanoseconds since the epoch, clamped to 64 bits. Raises InvalidRequest."""
    ago = _AGO.fullmatch(text)
    if ago:
        whole, _, fraction = ago[1].partition(".")
        unit_ns = _UNIT_MS[ago[2]] * 1_000_000
        elapsed_ns = int(whole) * unit_ns + int(fraction.ljust(9, "0")) * unit_ns // NS_PER_SEC
        return max(now_ns - elapsed_ns, 0)
    try:
        return min(max(parse_rfc3339(text), 0), _NS_MAX)
    except ValueError:
        raise InvalidRequest(
            f"{field}: {text[:64]!r} is neither RFC 3339 with an offset nor a time ago like -5m",
            field=field,
        ) from None


_RFC3339 = re.compile(
    r"(\d{4}-\d\d-\d\d)[Tt ](\d\d:\d\d):(\d\d)(?:\.(\d+))?([Zz]|[+-]\d\d:\d\d)", re.ASCII
)


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def rfc3339(time_ns: int) -> str:
    """`2026-01-02T03:04:05.000000006Z`"""
    seconds, nanoseconds = divmod(time_ns, 1_000_000_000)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{nanoseconds:09d}Z"


def rfc3339_seconds(time_ns: int) -> str:
    """`2026-01-02T03:04:05Z`, for texts that people read"""
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(time_ns // 1_000_000_000))}Z"


def parse_rfc3339(text: str) -> int:
    """Returns nanoseconds since the epoch; finer digits are cut. Accepts every spelling of
    RFC 3339 §5.6; a leap second counts as the next second. Raises ValueError."""
    spelled = _RFC3339.fullmatch(text)
    if spelled is None:
        raise ValueError(f"{text[:64]!r} is not RFC 3339 with an offset")
    date, minute, second, fraction, offset = spelled.groups()
    leap = second == "60"
    zone = "+00:00" if offset in "Zz" else offset
    moment = datetime.fromisoformat(f"{date}T{minute}:{'59' if leap else second}{zone}")
    seconds = (moment - _EPOCH) // timedelta(seconds=1) + leap
    return seconds * 1_000_000_000 + int((fraction or "")[:9].ljust(9, "0"))


NS_PER_SEC = 1_000_000_000
