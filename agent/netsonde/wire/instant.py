"""Points in time as a request writes them: RFC 3339 with an offset, or "-5m" ago.

To the nanosecond, which datetime does not keep. Time is an argument.
"""

from __future__ import annotations

import re

from ..core.values import NS_PER_SEC
from ..errors import InvalidRequest
from .records import parse_rfc3339

_AGO = re.compile(r"-(\d{1,9}(?:\.\d{1,9})?)(ms|s|m|h|d)", re.ASCII)
_NS_MAX = (1 << 64) - 1  # in the year 2554; people write 9999 for "whenever"
_UNIT_MS = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}


def instant_ns(text: str, now_ns: int, *, field: str) -> int:
    """Nanoseconds since the epoch, within the core's 64 bits. Raises InvalidRequest."""
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
