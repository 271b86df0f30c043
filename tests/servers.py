"""A nats-server of one's own: the real one, on a free port, gone when the test is.

It can be killed and come back on the same port, and it can be frozen: a frozen server keeps
its connections open and says nothing, which is worse than a dead one.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from deadlines import eventually_now

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
        """`config`: lines of a nats-server configuration file; `prefix`: before the command."""
        self.address = address
        self.prefix = tuple(prefix)
        self.directory = directory
        self.config = config
        self.port = -1  # until the server has picked one; the same ever after
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
            return 0  # not there yet, or half written
        return int(urls[0].rsplit(":", 1)[1])

    def freeze(self) -> None:
        """Comes back when every thread has stopped: on a busy machine some run on for a while."""
        os.kill(self.pid, signal.SIGSTOP)
        eventually_now(self._stop_reply, "nats-server to freeze")

    def _stop_reply(self) -> bool:
        try:
            states = [path.read_text() for path in Path(f"/proc/{self.pid}/task").glob("*/stat")]
        except (FileNotFoundError, ProcessLookupError):
            return False  # of a thread that has just ended
        return all(state.rpartition(")")[2].split()[0] == "T" for state in states)

    def thaw(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def kill(self) -> None:
        """SIGKILL: no goodbye to the clients."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


# Below the ports that the kernel hands out, and each process begins elsewhere: nobody takes the
# port before the server that it is for has come.
_ports = itertools.count(os.getpid() * 97 % 12000)


def free_port() -> int:
    """A port that nothing listens on now: for a server that comes later."""
    while True:
        port = 20000 + next(_ports) % 12000
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
