"""How much may be under way to the stream: enough to keep it busy, little enough not to queue.

What is sent beyond what the server can store waits in its buffers, and behind it wait the
requests and replies of everyone whom that server serves. So the window follows the delay, as
LEDBAT's does (RFC 6817): it shrinks when acknowledgements come more than QUEUE_SEC later than
the least that one has taken, and grows when they come sooner. A long way to the server is no
queue, and gets a large window. The least delay is found anew now and then, by a moment with
little under way: the way may have become longer, and a queue that stays must not pass for one.
"""

from __future__ import annotations

import math

WINDOW_BYTES_MIN = 1 << 20  # four of the largest batches: a server stores without a pause
WINDOW_BYTES_MAX = 16 << 20
QUEUE_SEC = 0.010
LEAST_AGE_SEC = 30.0


class Window:
    def __init__(self) -> None:
        self.bytes = float(WINDOW_BYTES_MIN)
        self._least_sec = math.inf
        self._since_sec = -math.inf  # when that was looked for anew

    def landed(self, size: int, sent_sec: float, now_sec: float) -> None:
        """A message of `size` bytes, sent then, was acknowledged now."""
        if now_sec - self._since_sec >= LEAST_AGE_SEC:
            self.bytes, self._least_sec, self._since_sec = WINDOW_BYTES_MIN, math.inf, now_sec
        if sent_sec < self._since_sec:
            return  # it met the queue of before
        self._least_sec = min(self._least_sec, now_sec - sent_sec)
        queued_sec = now_sec - sent_sec - self._least_sec
        # Over one window of acknowledgements it changes by a message, at most.
        change = max(1 - queued_sec / QUEUE_SEC, -1.0) * size * size / self.bytes
        self.bytes = min(max(self.bytes + change, WINDOW_BYTES_MIN), WINDOW_BYTES_MAX)
