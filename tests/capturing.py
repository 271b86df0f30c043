"""Waits until a live capture has seen the sent packets, and checks packet conservation."""

from __future__ import annotations

from typing import Any

from bus import Bus
from deadlines import eventually, eventually_now
from netns import HOST_DEVICE, Wire
from processes import capture_threads
from replay import check_conservation

EQUAL_READINGS = 5
HANDED_OVER = 3  # readings until the kernel has handed over its last block


async def start(bus: Bus, backend: str = "af_packet", **options: Any) -> dict[str, Any]:
    return await bus.ok("start", {"interface": HOST_DEVICE, "backend": backend, **options})


async def settled(bus: Bus, offered: int) -> dict[str, Any]:
    """Returns the status once captured + dropped equals `offered` packets."""

    async def ask() -> dict[str, Any] | None:
        status = await bus.ok("status")
        seen = status["packets_captured"] + status["packets_dropped"]
        return status if seen >= offered else None

    status = await eventually(ask, f"{offered} packets to be captured or dropped")
    assert status["packets_captured"] + status["packets_dropped"] == offered
    check_conservation(status)
    return status


async def at_rest(bus: Bus) -> dict[str, Any]:
    """Returns the status of an idle capture: EQUAL_READINGS readings, 50 ms apart, are equal, and
    each capture thread has slept.

    Two are not enough: a packet waits in the kernel until its block is complete or some ms old. On
    a busy machine no number of readings is enough: a thread may get no processor for a second."""
    before: list[int] = []
    calm = Calm()

    async def ask() -> dict[str, Any] | None:
        nonlocal before
        calm.look()
        status = await bus.ok("status")
        now = [status[name] for name in ("packets_captured", "packets_dropped")]
        calm.count(now == before)
        before = now
        return status if calm.lasts(EQUAL_READINGS) else None

    status = await eventually(ask, "the counters to stop changing", interval_sec=0.05)
    check_conservation(status)
    return status


class Calm:
    """Counts equal readings, and the capture threads that have slept after the first of them."""

    def __init__(self) -> None:
        self._readings = 0
        self._asleep: set[str] = set()  # before the next reading
        self._threads: set[str] = set()
        self._slept: set[str] = set()

    def look(self) -> None:
        """Notes which threads are asleep. Call this before each reading."""
        states = dict(capture_threads())
        self._threads = set(states)
        self._asleep = {thread for thread, asleep in states.items() if asleep}

    def count(self, equal: bool) -> None:
        """Counts a reading. In the time of the first equal ones the kernel hands over what it
        has."""
        self._readings = self._readings + 1 if equal else 1
        self._slept = self._slept | self._asleep if self._readings >= HANDED_OVER else set()

    def lasts(self, readings: int) -> bool:
        return self._readings >= readings and self._slept >= self._threads


def delivered(wire: Wire, device: str = HOST_DEVICE) -> int:
    """Returns the packets that the kernel received on the host's end of the wire.

    With an XDP program the kernel counts a packet when it takes it off the queue, which on a busy
    machine can be after `send` has returned. So this waits for EQUAL_READINGS equal readings."""
    readings: list[int] = []

    def ask() -> bool:
        readings.append(int(wire.link(device)["stats64"]["rx"]["packets"]))
        return len(readings) >= EQUAL_READINGS and len(set(readings[-EQUAL_READINGS:])) == 1

    eventually_now(ask, f"the counters of {device} to stop changing")
    return readings[-1]
