"""Measures a tap at 100 Mbit/s: is the copy whole, and what does it cost the capture thread?

    .venv/bin/python tests/bench/tap.py [SECONDS]

Frames of 1,000 bytes go over a veth pair at 100 Mbit/s. Three runs: without a tap, with a tap whose
filter matches nothing, and with one that matches everything, whole packets, granted enough. Prints
the processor time of the capture thread, the packets that were dropped, and those that the tap
lost. Exits with 1 if a limit is missed. Needs root.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import netns
from agents import Agent, Fleet
from bus import Bus
from netns import HOST_DEVICE, Sender, Wire
from packets import UDP, ethernet, ipv4, udp
from servers import NatsServer
from tapping import Tapped, open_tap

FRAME_BYTES = 1000
FRAMES_PER_SEC = 100_000_000 // 8 // FRAME_BYTES
STEP_SEC = 0.01
WINDOW = 4 << 20
EXTRA_MAX = 0.03  # processor time with a tap that matches nothing


def thread_ticks(pid: int) -> int:
    """Returns the processor time of the capture thread, in nanoseconds."""
    for task in Path(f"/proc/{pid}/task").iterdir():
        if (task / "comm").read_text().startswith("sonde-cap"):
            return int((task / "schedstat").read_text().split()[0])
    raise SystemExit("no capture thread")


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


async def run(agent: Agent, bus: Bus, sender: Sender, seconds: float, expression: str) -> float:
    """Returns the processor time per frame, in nanoseconds."""
    frame = ethernet(ipv4(udp(bytes(FRAME_BYTES - 42), 1000, 53), UDP, "10.0.0.1", "10.0.0.2"))
    await bus.ok("start", {"interface": HOST_DEVICE, "backend": "af_packet"})
    tapped = paying = None
    if expression:
        tapped = await open_tap(bus, filter=expression, snaplen=0, credit=WINDOW, duration_sec=3600)
        paying = asyncio.create_task(pay(tapped))
    before = thread_ticks(agent.pid)
    sent = await offer(sender, frame, seconds)
    await asyncio.sleep(0.5)
    spent = (thread_ticks(agent.pid) - before) / sent
    said = f"{expression or 'no tap':16} {spent:7.0f} ns a frame, {sent} frames"
    if tapped is not None and paying is not None:
        totals = await tapped.stop()
        paying.cancel()
        said += f", matched {totals.matched}, sent {totals.sent}, lost {totals.lost}"
    status = await bus.ok("stop")
    print(f"{said}, dropped {status['packets_dropped']}", flush=True)
    return spent


async def measure(agent: Agent, url: str, sender: Sender, seconds: float) -> bool:
    bus = await Bus.connect(url)
    ratios = []
    for _ in range(3):
        plain = await run(agent, bus, sender, seconds, "")
        quiet = await run(agent, bus, sender, seconds, "udp port 4999")
        ratios.append(quiet / plain - 1)
    await run(agent, bus, sender, seconds, "udp")
    await bus.close()
    extra = sorted(ratios)[1]
    print(f"processor time with a tap that matches nothing: {extra:+.1%} (median of 3)")
    return extra <= EXTRA_MAX


def main() -> int:
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 10.0
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
                good = asyncio.run(measure(agent, server.url, sender, seconds))
                sender.close()
                fleet.dismiss()
                server.kill()
        finally:
            wire.delete()
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
