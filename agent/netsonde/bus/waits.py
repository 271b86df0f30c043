"""The waits between the tries of something that NATS does not do yet.

The first wait is short, because most causes pass within seconds: a stream elects a leader, or a
replica is behind. Each further wait is twice as long, so that a lasting cause costs little.
"""

from __future__ import annotations

import random

SPREAD = 0.75, 1.0  # part of a wait, random: hosts with one cause do not retry together


class Waits:
    """Waits from first_sec, doubled up to longest_sec."""

    def __init__(self, first_sec: float, longest_sec: float) -> None:
        self._first_sec = first_sec
        self._longest_sec = longest_sec
        self._next_sec = first_sec

    def reset(self) -> None:
        """Begins with the first wait again."""
        self._next_sec = self._first_sec

    @property
    def following_sec(self) -> float:
        """The next wait, before it is made random."""
        return self._next_sec

    def next(self) -> float:
        """Returns the next wait in seconds."""
        wait_sec = self._next_sec
        self._next_sec = min(wait_sec * 2, self._longest_sec)
        return wait_sec * random.uniform(*SPREAD)  # noqa: S311 - not a secret
