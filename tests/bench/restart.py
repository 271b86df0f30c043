"""Measures the packets that a restart of an agent with `[session]` loses: python restart.py [N].

Sends numbered frames at a steady rate over a veth pair, sends SIGTERM, and starts the agent again
when it has exited, as systemd does. The frames that neither session captured, divided by the rate,
are the length of the gap. Prints each gap, and the median. Needs root.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import netns
from agents import Agent, Fleet
from bus import Bus
from deadlines import eventually
from packets import UDP, ethernet, ipv4, udp
from servers import NatsServer

RATE = 5000  # frames a second
FRAME = ethernet(ipv4(udp(bytes(50), 1000, 53), UDP, "10.0.0.1", "10.1.0.1"))
SESSION = {
    "interface": netns.HOST_DEVICE,
    "backend": "af_packet",
    "metering": {"enable": True},
}


class Traffic:
    """Frames at RATE from a thread, until `end`."""

    def __init__(self, wire: netns.Wire) -> None:
        self.sender = wire.sender()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._send, daemon=True)
        self._thread.start()

    def _send(self) -> None:
        began = time.monotonic()
        while not self._stop.is_set():
            due = int((time.monotonic() - began) * RATE) - self.sender.frames_sent
            self.sender.send([FRAME] * due)
            time.sleep(0.001)

    def end(self) -> int:
        """Returns the number of frames sent."""
        self._stop.set()
        self._thread.join()
        self.sender.close()
        return self.sender.frames_sent


async def status_of(bus: Bus, *, not_session: str = "") -> dict[str, Any]:
    async def ask() -> dict[str, Any] | None:
        status = await bus.ok("status")
        running = status["running"] and status["session_id"] != not_session
        return status if running and status["packets_captured"] else None

    return await eventually(ask, "the capture to see packets", interval_sec=0.05)


async def measure(agent: Agent, bus: Bus, wire: netns.Wire) -> tuple[float, float]:
    """Returns the gap in the capture, and the time from SIGTERM to the first packet, in seconds."""
    first = await status_of(bus, not_session="")
    traffic = Traffic(wire)
    await asyncio.sleep(1)
    before = first["packets_captured"]
    events = await bus.events(kind="capture")
    began = time.monotonic()
    await asyncio.to_thread(agent.terminate)
    await asyncio.to_thread(agent.start)
    second = await status_of(bus, not_session=first["session_id"])
    whole_sec = time.monotonic() - began
    await asyncio.sleep(0.5)
    sent = traffic.end()
    await asyncio.sleep(0.5)
    second = await bus.ok("status")
    stopped = next(event for event in events.all() if event["event"] == "stopped")
    captured = stopped["data"]["packets_captured"] - before + second["packets_captured"]
    return (sent - captured) / RATE, whole_sec


async def main(times: int) -> None:
    wire = netns.Wire()
    try:
        wire.create()
        with netns.entered(wire.host), tempfile.TemporaryDirectory() as directory:
            server = NatsServer(Path(directory) / "nats").start()
            fleet = Fleet(server, Path(directory))
            fleet.prefix = wire.prefix
            agent = fleet.start(session=SESSION)
            bus = await Bus.connect(server.url)
            try:
                warm = Traffic(wire)
                await status_of(bus)
                warm.end()
                await asyncio.sleep(0.5)
                gaps = []
                for _ in range(times):
                    gap_sec, whole_sec = await measure(agent, bus, wire)
                    print(f"gap {gap_sec:.2f} s, SIGTERM to the first packet {whole_sec:.2f} s")
                    gaps.append(gap_sec)
                print(f"median {statistics.median(gaps):.2f} s")
            finally:
                await bus.close()
                agent.kill()
                server.kill()
    finally:
        wire.delete()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 7))
