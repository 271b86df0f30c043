"""What systemd is told: that the agent runs, that it lives, that it ends (sd_notify(3)).

The protocol is one datagram a message to the socket that NOTIFY_SOCKET names. READY=1 when
the service runs, whether or not NATS answers; WATCHDOG=1 only while the capture threads'
heartbeat moves, at a third of the interval that WATCHDOG_USEC asks for. Without a supervisor
nothing is said. No message is worth waiting for: the socket never blocks.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable, Mapping

US_PER_SEC = 1_000_000


class Supervisor:
    def __init__(self, environ: Mapping[str, str] | None = None) -> None:
        given = os.environ if environ is None else environ
        self._address = given.get("NOTIFY_SOCKET", "")
        self._watchdog_sec = _watchdog_sec(given)

    def ready(self, status: str) -> None:
        self.tell("READY=1", f"STATUS={status}")

    def stopping(self) -> None:
        self.tell("STOPPING=1", "STATUS=draining")

    async def run(self, alive: Callable[[], bool]) -> None:
        """Feeds the watchdog until cancelled. A loop that does not turn feeds nothing either."""
        if not self._watchdog_sec:
            return
        while True:
            if alive():
                self.tell("WATCHDOG=1")
            await asyncio.sleep(self._watchdog_sec / 3)

    def tell(self, *lines: str) -> None:
        if not self._address.startswith(("/", "@")):
            return
        address = self._address.encode()
        if address.startswith(b"@"):
            address = b"\0" + address[1:]
        with (
            contextlib.suppress(OSError),
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender,
        ):
            sender.setblocking(False)
            sender.sendto("\n".join(lines).encode(), address)


def _watchdog_sec(given: Mapping[str, str]) -> float:
    """0: not asked for, or asked of another process."""
    usec, pid = given.get("WATCHDOG_USEC", ""), given.get("WATCHDOG_PID", str(os.getpid()))
    if not usec.isdecimal() or pid != str(os.getpid()):
        return 0.0
    return int(usec) / US_PER_SEC
