"""Measures a tap at 100 Mbit/s: what a quiet one costs the capture thread, and is a copy whole?

    .venv/bin/python tests/bench/tap.py [PAIRS]

Frames of 1,000 bytes go over a veth pair at 100 Mbit/s through one session. Each of PAIRS (80)
compares half a second without a tap with half a second with a tap whose filter matches nothing, in
changing order: neighbours see the same load of the machine. Prints the median of the ratios of
the capture thread's processor time, with the quartiles and a 95 % interval of the median (bootstrap
over the pairs). Then a tap that matches everything, whole
packets, granted enough, has to lose nothing. Exits with 1 if a limit is missed. Needs root.
"""

from __future__ import annotations

import asyncio
import random
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import netns
from agents import Agent, Fleet
from bus import Bus
from deadlines import eventually_now
from netns import HOST_DEVICE, Sender, Wire
from packets import UDP, ethernet, ipv4, udp
from servers import NatsServer
from tapping import Tapped, open_tap

FRAME_BYTES = 1000
FRAMES_PER_SEC = 100_000_000 // 8 // FRAME_BYTES
STEP_SEC = 0.01
WINDOW = 4 << 20
PAIR_SEC = 0.5
SETTLE_SEC = 0.1
QUIET = "udp port 4999"
RESAMPLES = 4000
EXTRA_MAX = 0.03  # processor time with a tap that matches nothing


def thread_ns(pid: int) -> int:
    """Returns the processor time of the capture thread, in nanoseconds."""
    return int(
        (eventually_now(lambda: task_of(pid), "the capture thread") / "schedstat")
        .read_text()
        .split()[0]
    )


def task_of(pid: int) -> Path | None:
    """A thread has its name a moment after its start."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return next((one for one in tasks if (one / "comm").read_text().startswith("sonde-cap")), None)


async def offer(sender: Sender, frame: bytes, seconds: float) -> int:
    """Sends at the rate; returns the frames sent."""
    began = time.monotonic()
    sent = 0
    while (elapsed := time.monotonic() - began) < seconds:
        due = int(elapsed * FRAMES_PER_SEC) - sent
        sent += sender.send([frame] * due)
        await asyncio.sleep(STEP_SEC)
    return sent


async def pay(tapped: Tapped) -> None:
    """Grants what has arrived, as a reader does."""
    granted = 0
    while tapped.end is None:
        await asyncio.sleep(0.01)
        taken = tapped.bytes_heard
        if taken + WINDOW - granted >= WINDOW // 4:
            granted = taken + WINDOW
            body = b'{"bytes": %d}' % granted
            await tapped.bus.client.publish(f"capture.host.alpha.{tapped.control('credit')}", body)


@dataclass(frozen=True)
class Offer:
    """A session under load, and how to measure it."""

    agent: Agent
    bus: Bus
    sender: Sender

    async def window(self, seconds: float) -> float:
        """Returns the capture thread's time per frame, in nanoseconds."""
        frame = ethernet(ipv4(udp(bytes(FRAME_BYTES - 42), 1000, 53), UDP, "10.0.0.1", "10.0.0.2"))
        before = thread_ns(self.agent.pid)
        sent = await offer(self.sender, frame, seconds)
        return (thread_ns(self.agent.pid) - before) / sent

    async def compared(self, seconds: float, *, tapped: bool) -> float:
        """Opens a tap that matches nothing, and ends it before or after the window: what opening
        and ending cost is in neither."""
        tap = await open_tap(self.bus, filter=QUIET, credit=WINDOW, duration_sec=60)
        if not tapped:
            await tap.stop()
        await asyncio.sleep(SETTLE_SEC)
        spent = await self.window(seconds)
        if tapped:
            assert (await tap.stop()).matched == 0
        return spent

    async def whole(self, seconds: float) -> bool:
        """Copies every frame. Returns whether all arrived."""
        tapped = await open_tap(self.bus, filter="udp", snaplen=0, credit=WINDOW, duration_sec=3600)
        paying = asyncio.create_task(pay(tapped))
        spent = await self.window(seconds)
        await asyncio.sleep(0.5)
        totals = await tapped.stop()
        paying.cancel()
        print(
            f"a tap that copies every frame: {spent:.0f} ns a frame, matched {totals.matched},"
            f" sent {totals.sent}, lost {totals.lost}"
        )
        return totals.sent == totals.matched


def median_interval(values: list[float]) -> tuple[float, float]:
    """Returns a 95 % interval of the median, from medians of random samples of the values."""
    generator = random.Random(1)
    medians = sorted(
        statistics.median(generator.choices(values, k=len(values))) for _ in range(RESAMPLES)
    )
    return medians[RESAMPLES // 40], medians[-RESAMPLES // 40]


async def measure(agent: Agent, url: str, sender: Sender, pairs: int) -> bool:
    bus = await Bus.connect(url)
    await bus.ok("start", {"interface": HOST_DEVICE, "backend": "af_packet"})
    load = Offer(agent, bus, sender)
    await load.window(PAIR_SEC)
    plain: list[float] = []
    quiet: list[float] = []
    for number in range(pairs):
        for tapped in (number % 2 == 0, number % 2 == 1):
            spent = await load.compared(PAIR_SEC, tapped=tapped)
            (quiet if tapped else plain).append(spent)
    ratios = [tapped / bare - 1 for bare, tapped in zip(plain, quiet, strict=True)]
    low, extra, high = statistics.quantiles(ratios, n=4)
    least, most = median_interval(ratios)
    print(
        f"ns a frame: {statistics.median(plain):.0f} without a tap,"
        f" {statistics.median(quiet):.0f} with a tap that matches nothing\n"
        f"processor time with it: {extra:+.1%} (median of {pairs} pairs; 95 % interval"
        f" {least:+.1%} to {most:+.1%}; quartiles {low:+.1%}, {high:+.1%}; limit {EXTRA_MAX:+.0%})"
    )
    whole = await load.whole(5.0)
    status = await bus.ok("stop")
    print(f"dropped {status['packets_dropped']}")
    await bus.close()
    return extra <= EXTRA_MAX and whole and status["packets_dropped"] == 0


def main() -> int:
    pairs = int(sys.argv[1]) if len(sys.argv) > 1 else 80
    wire = Wire()
    with tempfile.TemporaryDirectory() as name:
        try:
            wire.create()
            with netns.entered(wire.host):
                server = NatsServer(Path(name) / "nats").start()
                fleet = Fleet(server, Path(name))
                fleet.prefix = wire.prefix
                agent = fleet.start(tap={"rate_kbps": 0}, log={"level": "warning"})
                sender = wire.sender()
                good = asyncio.run(measure(agent, server.url, sender, pairs))
                sender.close()
                fleet.dismiss()
                server.kill()
        finally:
            wire.delete()
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
