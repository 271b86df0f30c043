"""Service notifications to systemd: ready, alive, stopping (sd_notify(3)).

Each message is one datagram to the socket in NOTIFY_SOCKET; without it nothing is sent.
READY=1 when the service and the wanted capture run, see app.py. WATCHDOG=1 every third of
WATCHDOG_USEC while the capture threads' heartbeat moves. The socket never blocks.
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
        self.notify("READY=1", f"STATUS={status}")

    def status(self, status: str) -> None:
        self.notify(f"STATUS={status}")

    def stopping(self) -> None:
        self.notify("STOPPING=1", "STATUS=draining")

    async def run(self, alive: Callable[[], bool]) -> None:
        """Notifies the watchdog until cancelled. A blocked event loop notifies nothing."""
        if not self._watchdog_sec:
            return
        while True:
            if alive():
                self.notify("WATCHDOG=1")
            await asyncio.sleep(self._watchdog_sec / 3)

    def notify(self, *lines: str) -> None:
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
    """Returns 0 if no watchdog is set, or if it is set for another process."""
    usec, pid = given.get("WATCHDOG_USEC", ""), given.get("WATCHDOG_PID", str(os.getpid()))
    if not usec.isdecimal() or pid != str(os.getpid()):
        return 0.0
    return int(usec) / US_PER_SEC
