"""The window to the stream: it keeps servers near and far busy, and makes no queue in them."""

from __future__ import annotations

from collections import deque

import pytest

from netsonde.spool.send_window import LEAST_AGE_SEC, QUEUE_SEC, WINDOW_BYTES_MIN, Window

BATCH_BYTES = 250_000


class Server:
    """Stores bytes_per_sec, one message after the other; way_sec there and back."""

    def __init__(self, way_sec: float, bytes_per_sec: float) -> None:
        self.way_sec = way_sec
        self.bytes_per_sec = bytes_per_sec
        self.window = Window()
        self.now_sec = self.free_sec = 1000.0
        self.under_way: deque[tuple[float, float]] = deque()  # sent, acknowledged
        self.landed_bytes = 0
        self.delay_sec = 0.0

    def run(self, seconds: float) -> float:
        """What share of what it can store it was given."""
        begin_sec, self.landed_bytes = self.now_sec, 0
        while self.now_sec < begin_sec + seconds:
            while len(self.under_way) * BATCH_BYTES < self.window.bytes:
                store_sec = BATCH_BYTES / self.bytes_per_sec
                self.free_sec = max(self.now_sec + self.way_sec, self.free_sec) + store_sec
                self.under_way.append((self.now_sec, self.free_sec))
            sent_sec, self.now_sec = self.under_way.popleft()
            self.delay_sec = self.now_sec - sent_sec
            self.landed_bytes += BATCH_BYTES
            self.window.landed(BATCH_BYTES, sent_sec, self.now_sec)
        return self.landed_bytes / (self.now_sec - begin_sec) / self.bytes_per_sec

    @property
    def queue_sec(self) -> float:
        return self.delay_sec - self.way_sec


@pytest.mark.parametrize("way_sec", [0.0005, 0.005, 0.05])
@pytest.mark.parametrize("bytes_per_sec", [40e6, 200e6])
def test_a_server_is_busy_and_its_queue_short(way_sec: float, bytes_per_sec: float) -> None:
    server = Server(way_sec, bytes_per_sec)
    server.run(2)
    assert server.run(2 * LEAST_AGE_SEC) > 0.9
    # Three that come one after the other are never fewer: the window's least, and one begun.
    least_sec = (WINDOW_BYTES_MIN + 2 * BATCH_BYTES) / bytes_per_sec
    assert server.queue_sec <= least_sec + 2 * QUEUE_SEC


def test_a_server_that_slows_down_gets_less_under_way_and_more_again() -> None:
    server = Server(0.01, 200e6)
    assert server.run(5) > 0.9
    before = server.window.bytes
    server.bytes_per_sec = 20e6
    assert server.run(5) > 0.9
    assert server.window.bytes < before / 2
    server.bytes_per_sec = 200e6
    server.run(2)
    assert server.run(5) > 0.9


def test_a_way_that_became_longer_is_no_queue_for_ever() -> None:
    server = Server(0.001, 100e6)
    server.run(5)
    server.way_sec = 0.05
    server.run(LEAST_AGE_SEC + 5)
    assert server.run(5) > 0.9
