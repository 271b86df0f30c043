"""The peer: softflowd reads the same file and exports NetFlow v9 to a counting sink.

It runs with two table sizes: its default of 8,192 flows, beyond which it evicts flows, and one
that holds every flow, like netsonde's. A run is void unless it saw every packet.
"""

from __future__ import annotations

import re
import shutil
import socket
import threading
from pathlib import Path
from types import TracebackType

from pinned import Measured, run_pinned
from workbench import OUT, Trace

DEFAULT_TABLE = 8192
FITTING_TABLE = 1 << 21
RECEIVE_BUFFER_BYTES = 64 << 20


def find() -> str | None:
    """Returns the program's path. sbin is not in every user's PATH."""
    return shutil.which("softflowd") or shutil.which("softflowd", path="/usr/sbin:/sbin")


class Sink:
    """Receives NetFlow v9 datagrams on loopback and counts them."""

    def __init__(self) -> None:
        self.datagrams = 0
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
        self._socket.bind(("127.0.0.1", 0))
        self._socket.settimeout(0.1)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._receive)

    @property
    def address(self) -> str:
        host, port = self._socket.getsockname()
        return f"{host}:{port}"

    def _receive(self) -> None:
        buffer = bytearray(65536)
        while True:
            try:
                bytes_received = self._socket.recv_into(buffer)
            except TimeoutError:
                if self._stopping.is_set():  # only after the last datagram
                    return
                continue
            if bytes_received >= 20 and buffer[:2] == b"\0\x09":
                self.datagrams += 1

    def __enter__(self) -> Sink:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stopping.set()
        self._thread.join()
        self._socket.close()


def replay(binary: str, trace: Trace, table_size: int) -> Measured:
    with Sink() as sink:
        command: list[str | Path] = [binary, "-d", "-6", "-r", trace.path, "-v", "9"]
        command += ["-m", str(table_size), "-n", sink.address]
        command += ["-p", OUT / "softflowd.pid", "-c", "none"]
        measured = run_pinned(command)
    processed = re.search(r"Packets processed: (\d+)", measured.output)
    ignored = re.search(r"Ignored packets: (\d+)", measured.output)
    if processed is None or ignored is None or sink.datagrams == 0:
        raise RuntimeError(f"softflowd on {trace.name}, {sink.datagrams} datagrams:\n"
                           f"{measured.output}")  # fmt: skip
    seen = int(processed[1])
    if trace.packets not in (seen, seen + int(ignored[1])):
        raise RuntimeError(f"softflowd saw {seen} of {trace.packets} packets of {trace.name}")
    return measured
