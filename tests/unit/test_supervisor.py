"""sd_notify messages and the watchdog."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from deadlines import TIMEOUT_SEC, eventually
from netsonde.daemon.supervisor import Supervisor


class Listener:
    def __init__(self, address: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(address)
        self.socket.setblocking(False)

    def heard(self) -> list[str]:
        found = []
        try:
            while True:
                found += self.socket.recv(4096).decode().splitlines()
        except BlockingIOError:
            return found


@pytest.fixture(params=["path", "abstract"])
def notify_socket(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, Listener]]:
    name = str(tmp_path / "notify") if request.param == "path" else f"\0netsonde-{os.getpid()}"
    listener = Listener(name)
    yield name.replace("\0", "@"), listener
    listener.socket.close()


def test_sends_ready_and_stopping(notify_socket: tuple[str, Listener]) -> None:
    address, listener = notify_socket
    supervisor = Supervisor({"NOTIFY_SOCKET": address})
    supervisor.ready("all is well")
    assert listener.heard() == ["READY=1", "STATUS=all is well"]
    supervisor.stopping()
    assert listener.heard()[0] == "STOPPING=1"


async def test_watchdog_is_fed_only_while_alive(notify_socket: tuple[str, Listener]) -> None:
    address, listener = notify_socket
    alive = True
    supervisor = Supervisor({"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "60000"})
    task = asyncio.create_task(supervisor.run(lambda: alive))
    await eventually(lambda: "WATCHDOG=1" in listener.heard(), "the watchdog to be fed")
    alive = False
    await asyncio.sleep(0.05)
    listener.heard()
    await asyncio.sleep(0.1)
    assert listener.heard() == []
    task.cancel()


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"WATCHDOG_USEC": "soon"},
        {"WATCHDOG_USEC": "1000", "WATCHDOG_PID": "1"},
        {"NOTIFY_SOCKET": "vsock:2:1234"},
        {"NOTIFY_SOCKET": "/nowhere/notify"},
    ],
)
async def test_missing_notify_socket_is_ignored(environ: dict[str, str]) -> None:
    supervisor = Supervisor(environ)
    supervisor.ready("x")
    await asyncio.wait_for(supervisor.run(lambda: True), TIMEOUT_SEC)
