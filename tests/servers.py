"""The nats-server of one test, on a port that no other process can take.

A test can kill it, start it again on the same port, and freeze it. A frozen server keeps its
connections open and sends nothing.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from deadlines import eventually_now
from processes import freeze

MONITORED = "http_port: -1\n"
BINARY = Path(sys.executable).with_name("nats-server")


class NatsServer:
    def __init__(
        self,
        directory: Path,
        *,
        config: str = "",
        address: str = "127.0.0.1",
        prefix: Sequence[str] = (),
    ) -> None:
        """`config` holds lines of a nats-server configuration file. `prefix` is put before the
        command; it may enter another network namespace, where the server chooses its port."""
        self.address = address
        self.prefix = tuple(prefix)
        self.directory = directory
        self.config = config
        self.port = -1 if prefix else free_port(address)  # -1 until the server has chosen
        self._process: subprocess.Popen[bytes] | None = None
        directory.mkdir(parents=True, exist_ok=True)

    @property
    def url(self) -> str:
        return f"nats://{self.address}:{self.port}"

    @property
    def pid(self) -> int:
        assert self._process is not None, "the server is not running"
        return self._process.pid

    def start(self) -> NatsServer:
        log = (self.directory / "nats-server.log").open("ab")
        config_path = self.directory / "nats-server.conf"
        config_path.write_text(self.config)
        command = [*self.prefix, str(BINARY), "-c", str(config_path), "-a", self.address]
        command += ["-p", str(self.port)]
        command += ["--ports_file_dir", str(self.directory)]
        self._process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        log.close()
        ports_path = self.directory / f"nats-server_{self.pid}.ports"
        self.port = eventually_now(lambda: self._port_in(ports_path), "nats-server to listen")
        return self

    def _port_in(self, path: Path) -> int:
        assert self._process is not None
        assert self._process.poll() is None, (self.directory / "nats-server.log").read_text()
        try:
            urls = json.loads(path.read_text())["nats"]
        except (FileNotFoundError, json.JSONDecodeError):
            return 0  # absent or half written
        return int(urls[0].rsplit(":", 1)[1])

    def ask(self, path: str) -> dict[str, Any]:
        """Returns a page of the monitoring port, which `config` has to open as MONITORED does."""
        ports = json.loads((self.directory / f"nats-server_{self.pid}.ports").read_text())
        with urllib.request.urlopen(f"{ports['monitoring'][0]}{path}", timeout=60) as reply:
            page: dict[str, Any] = json.load(reply)
        return page

    def freeze(self) -> None:
        """Returns when the server has stopped."""
        freeze(self.pid)

    def thaw(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def kill(self) -> None:
        """Sends SIGKILL and waits for the process."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


HELD_MAX = 64
_held: deque[socket.socket] = deque()


def free_port(address: str = "127.0.0.1") -> int:
    """Returns a port that refuses connections until a server of this test listens on it.

    A socket stays bound to the port, so the kernel gives it to no other process. It does not
    listen and has SO_REUSEADDR, so a server that sets the option too (nats-server, asyncio) can
    bind the port. The oldest of HELD_MAX sockets is closed when another one is needed.
    """
    return hold_port(0, address)


def hold_port(port: int, address: str = "127.0.0.1") -> int:
    """Does the same for a given port, which no process uses now."""
    held = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    held.bind((address, port))
    if len(_held) == HELD_MAX:
        _held.popleft().close()
    _held.append(held)
    return int(held.getsockname()[1])
