"""A real tshark with netsonde's plug-in, in a mount namespace whose extcap folder has only that.

tshark of Debian 12 ignores WIRESHARK_EXTCAP_DIR for root, so the test's folder is mounted over the
system's.
"""

from __future__ import annotations

import os
import re
import signal
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

from agents import COMMAND
from deadlines import TIMEOUT_SEC, eventually, eventually_now

INTERFACE = "netsonde"
PACKET = 6

_MOUNT = 'mount --bind "$1" "$2" && shift 2 && exec "$@"'


def system_folder() -> Path:
    shown = subprocess.run(["tshark", "-G", "folders"], capture_output=True, text=True, check=True)
    found = re.search(r"^Extcap path:\s*(\S+)$", shown.stdout, re.MULTILINE)
    assert found is not None, shown.stdout
    return Path(found[1])


def mounted(folder: Path) -> tuple[str, ...]:
    """Words before a command that then has `folder` as the system's extcap folder."""
    return ("unshare", "--mount", "sh", "-c", _MOUNT, "sh", str(folder), str(system_folder()))


def install(folder: Path) -> Path:
    """Returns the installed plug-in."""
    words = [str(COMMAND), "extcap", "install", "--dir", str(folder)]
    subprocess.run(words, check=True, capture_output=True)
    return folder / "netsonde-extcap"


class Shark:
    """A tshark that captures from `netsonde`. Every file that tshark and the plug-in make is in
    `directory`."""

    def __init__(self, directory: Path, url: str, *words: str, **fields: object) -> None:
        self.temporary = directory / "tmp"
        self.temporary.mkdir(parents=True)
        self.folder = directory / "extcap"
        self.plugin = install(self.folder)
        self.path = directory / "live.pcapng"
        self.errors = directory / "tshark.err"
        chosen = {"nats": url, **fields}
        options = [f"-oextcap.{INTERFACE}.{name}:{value}" for name, value in chosen.items()]
        command = ["tshark", "-n", "-i", INTERFACE, "-w", str(self.path), *options, *words]
        with self.errors.open("wb") as out:
            self.process = subprocess.Popen(
                [*mounted(self.folder), *command],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=out,
                env={**os.environ, "TMPDIR": str(self.temporary), "HOME": str(directory)},
            )
        self.children: set[int] = set()

    @property
    def said(self) -> str:
        return self.errors.read_text()

    def packets(self) -> int:
        data = self.path.read_bytes() if self.path.exists() else b""
        return sum(kind == PACKET for kind in kinds(data))

    async def opened(self, interfaces: int = 1) -> Shark:
        """Waits until the file has the interface blocks."""

        def ready() -> bool:
            data = self.path.read_bytes() if self.path.exists() else b""
            return sum(kind == 1 for kind in kinds(data)) >= interfaces

        await eventually(lambda: ready() or self.process.poll() is not None, "the interfaces")
        assert self.process.poll() is None, self.said
        self.children = set(descendants(self.process.pid))
        assert len(self.children) == 2, self.children  # dumpcap and the plug-in
        return self

    @property
    def plugin_pid(self) -> int:
        (found,) = [one for one in self.children if b"netsonde.extcap" in command_line(one)]
        return found

    def left(self) -> list[str]:
        """Returns the processes and the temporary files that are left."""
        running = [str(command_line(one)) for one in self.children if command_line(one)]
        return running + [one.name for one in self.temporary.iterdir()]

    def wait(self) -> int:
        return self.process.wait(TIMEOUT_SEC)

    def close(self) -> None:
        """Ends tshark, and the processes that a failed test left."""
        if self.process.poll() is None:
            self.children |= set(descendants(self.process.pid))
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()
        for one in self.children:
            if command_line(one):
                os.kill(one, signal.SIGKILL)
        eventually_now(lambda: not any(map(command_line, self.children)), "the processes to end")

    def rows(self) -> list[list[str]]:
        """Returns the interface and the time of each packet."""
        command = ["tshark", "-n", "-r", str(self.path), "-T", "fields"]
        command += ["-e", "frame.interface_name", "-e", "frame.time_epoch"]
        shown = subprocess.run(command, capture_output=True, text=True, check=True)
        return [line.split("\t") for line in shown.stdout.splitlines()]


def kinds(data: bytes) -> Iterator[int]:
    """Yields the type of each complete pcapng block."""
    at = 0
    while at + 12 <= len(data):
        kind, length = struct.unpack_from("<II", data, at)
        at += length
        if at > len(data) or length < 12:
            return
        yield kind


def descendants(pid: int) -> Iterator[int]:
    try:
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    except FileNotFoundError:
        return
    for child in map(int, text.split()):
        yield child
        yield from descendants(child)


def command_line(pid: int) -> bytes:
    """Returns the words of a process; nothing for one that has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""
