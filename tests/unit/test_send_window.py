"""The send window keeps near and distant servers busy without filling their queues."""

from __future__ import annotations

from collections import deque

import pytest

from netsonde.spool.send_window import LEAST_AGE_SEC, QUEUE_SEC, WINDOW_BYTES_MIN, Window

BATCH_BYTES = 250_000


class Server:
    """Stores bytes_per_sec, one message after the other. round_trip_sec is the round-trip time."""

    def __init__(self, round_trip_sec: float, bytes_per_sec: float) -> None:
        self.round_trip_sec = round_trip_sec
        self.bytes_per_sec = bytes_per_sec
        self.window = Window()
        self.now_sec = self.free_sec = 1000.0
        self.in_flight: deque[tuple[float, float]] = deque()  # sent, acknowledged
        self.landed_bytes = 0
        self.delay_sec = 0.0

    def run(self, seconds: float) -> float:
        """Returns the share of its capacity that the server used."""
        begin_sec, self.landed_bytes = self.now_sec, 0
        while self.now_sec < begin_sec + seconds:
            while len(self.in_flight) * BATCH_BYTES < self.window.bytes:
                store_sec = BATCH_BYTES / self.bytes_per_sec
                self.free_sec = max(self.now_sec + self.round_trip_sec, self.free_sec) + store_sec
                self.in_flight.append((self.now_sec, self.free_sec))
            sent_sec, self.now_sec = self.in_flight.popleft()
            self.delay_sec = self.now_sec - sent_sec
            self.landed_bytes += BATCH_BYTES
            self.window.acked(BATCH_BYTES, sent_sec, self.now_sec)
        return self.landed_bytes / (self.now_sec - begin_sec) / self.bytes_per_sec

    @property
    def queue_sec(self) -> float:
        return self.delay_sec - self.round_trip_sec


@pytest.mark.parametrize("round_trip_sec", [0.0005, 0.005, 0.05])
@pytest.mark.parametrize("bytes_per_sec", [40e6, 200e6])
def test_server_is_busy_with_a_short_queue(round_trip_sec: float, bytes_per_sec: float) -> None:
    server = Server(round_trip_sec, bytes_per_sec)
    server.run(2)
    assert server.run(2 * LEAST_AGE_SEC) > 0.9
    # The queue never falls below three messages: the minimum window and one that has begun.
    least_sec = (WINDOW_BYTES_MIN + 2 * BATCH_BYTES) / bytes_per_sec
    assert server.queue_sec <= least_sec + 2 * QUEUE_SEC


def test_window_shrinks_and_grows_with_the_servers_speed() -> None:
    server = Server(0.01, 200e6)
    assert server.run(5) > 0.9
    before = server.window.bytes
    server.bytes_per_sec = 20e6
    assert server.run(5) > 0.9
    assert server.window.bytes < before / 2
    server.bytes_per_sec = 200e6
    server.run(2)
    assert server.run(5) > 0.9


def test_longer_round_trip_is_not_taken_for_a_queue() -> None:
    server = Server(0.001, 100e6)
    server.run(5)
    server.round_trip_sec = 0.05
    server.run(LEAST_AGE_SEC + 5)
    assert server.run(5) > 0.9
