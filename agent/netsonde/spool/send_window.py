"""The send window: how many bytes may be in flight to the stream.

Messages that the server cannot store yet queue in its buffers and delay all its other clients.
The window therefore follows the delay, like LEDBAT (RFC 6817). It shrinks when acks take more
than QUEUE_SEC longer than the shortest delay, and grows when they are faster. A long path is not
a queue and gets a large window. Every LEAST_AGE_SEC the window drops to its minimum to measure
the shortest delay again: the path may have become longer, or a queue may never have drained.
"""

from __future__ import annotations

import math

WINDOW_BYTES_MIN = 1 << 20  # four of the largest batches keep a server busy
WINDOW_BYTES_MAX = 16 << 20
QUEUE_SEC = 0.010
LEAST_AGE_SEC = 30.0


class Window:
    def __init__(self) -> None:
        self.bytes = float(WINDOW_BYTES_MIN)
        self._least_sec = math.inf
        self._since_sec = -math.inf  # start of the current measurement

    def acked(self, size: int, sent_sec: float, now_sec: float) -> None:
        """Adapts the window to the ack of a message of `size` bytes."""
        if now_sec - self._since_sec >= LEAST_AGE_SEC:
            self.bytes, self._least_sec, self._since_sec = WINDOW_BYTES_MIN, math.inf, now_sec
        if sent_sec < self._since_sec:
            return  # sent into the queue of the larger window
        self._least_sec = min(self._least_sec, now_sec - sent_sec)
        queued_sec = now_sec - sent_sec - self._least_sec
        # The acks of one window change it by one message at most.
        change = max(1 - queued_sec / QUEUE_SEC, -1.0) * size * size / self.bytes
        self.bytes = min(max(self.bytes + change, WINDOW_BYTES_MIN), WINDOW_BYTES_MAX)
