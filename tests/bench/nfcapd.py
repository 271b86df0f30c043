"""nfcapd as the collector under test: starting it, its socket buffer, and its counts.

nfcapd requests a receive buffer large enough for a pause of the machine and gets what
net.core.rmem_max allows. With the needed privilege the benchmark raises its socket to the
requested size through a copy of the descriptor. Neither nfcapd nor the machine is reconfigured.
"""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from workbench import OUT

RECEIVE_BUFFER_BYTES = 128 << 20
READY_SEC = 10.0
SO_RCVBUFFORCE = 33  # asm-generic/socket.h; not in Python's socket module
SYS_PIDFD_GETFD = 438


def find() -> str | None:
    return shutil.which("nfcapd")


@contextmanager
def collecting() -> Iterator[tuple[int, Path]]:
    """Yields (port, log); nfcapd has ended when the block has."""
    directory = OUT / "nfcapd"
    shutil.rmtree(directory, ignore_errors=True)
    (directory / "flows").mkdir(parents=True)
    log = directory / "log"
    port = free_port()
    command = ["nfcapd", "-4", "-b", "127.0.0.1", "-p", str(port), "-t", "86400"]
    command += ["-w", str(directory / "flows"), "-B", str(RECEIVE_BUFFER_BYTES)]
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT)
    try:
        deadline = time.monotonic() + READY_SEC
        while "Startup nfcapd" not in log.read_text():
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"nfcapd does not start:\n{log.read_text()}")
            time.sleep(0.01)
        with suppress(PermissionError):  # the kernel's buffer remains and paces are slower
            grant_buffer(process.pid)
        yield port, log
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()
        shutil.rmtree(directory / "flows")


def grant_buffer(pid: int) -> None:
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        if os.readlink(descriptor).startswith("socket:"):
            with copy_socket(pid, int(descriptor.name)) as copied:
                copied.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, RECEIVE_BUFFER_BYTES)


def copy_socket(pid: int, number: int) -> socket.socket:
    libc = ctypes.CDLL(None, use_errno=True)
    process = os.pidfd_open(pid)
    try:
        copied = libc.syscall(SYS_PIDFD_GETFD, process, number, 0)
    finally:
        os.close(process)
    if copied < 0:
        raise OSError(ctypes.get_errno(), f"descriptor {number} of nfcapd")
    return socket.socket(fileno=copied)


def drain(port: int) -> float:
    """Waits until nfcapd has read its socket empty; returns the monotonic time of that."""
    while True:
        table = Path("/proc/net/udp").read_text()
        found = re.search(rf":{port:04X} \S+ \S+ [0-9A-F]+:([0-9A-F]+)", table)
        if found is None or int(found[1], 16) == 0:
            return time.monotonic()
        time.sleep(0.001)


def read_counts(log: Path) -> dict[str, int]:
    counts: dict[str, int] = {}
    for line in re.findall(r"^Ident: 'none' (.*)$", log.read_text(), re.MULTILINE):
        for name, count in re.findall(r"([A-Z][A-Za-z ]*): (\d+)", line):
            counts[name] = counts.get(name, 0) + int(count)
    return counts


def free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
