"""A token bucket: `burst` at once, then `per_sec`. Time is an argument."""

from __future__ import annotations


class RateLimit:
    def __init__(self, per_sec: float, burst: float) -> None:
        self._per_sec = per_sec
        self._burst = burst
        self._left = burst
        self._filled_sec = 0.0

    def take(self, amount: float, now_sec: float) -> bool:
        """Returns whether `amount` is within the limit, and takes it then."""
        gained = (now_sec - self._filled_sec) * self._per_sec
        self._left = min(self._left + gained, self._burst)
        self._filled_sec = now_sec
        if self._left < amount:
            return False
        self._left -= amount
        return True
