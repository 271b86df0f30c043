"""Waits until a live capture has seen the sent packets, and checks packet conservation."""

from __future__ import annotations

from typing import Any

from bus import Bus
from deadlines import eventually, eventually_now
from netns import HOST_DEVICE, Wire
from replay import check_conservation

EQUAL_READINGS = 5


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
    """Returns the status of an idle capture: EQUAL_READINGS readings, 50 ms apart, are equal.

    Two are not enough: on a busy machine the capture's thread may not run for 50 ms."""
    before: dict[str, Any] = {}
    equal = 1

    async def ask() -> dict[str, Any] | None:
        nonlocal before, equal
        status = await bus.ok("status")
        names = ("packets_captured", "packets_dropped")
        same = [status[name] for name in names] == [before.get(name) for name in names]
        before = status
        equal = equal + 1 if same else 1
        return status if equal >= EQUAL_READINGS else None

    status = await eventually(ask, "the counters to stop changing", interval_sec=0.05)
    check_conservation(status)
    return status


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
