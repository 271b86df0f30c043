"""What a collector knows of its directory, moved together with the data.

`state.json` is replaced as a whole, after the data that it speaks of are on disk and before
any message is acknowledged. So whatever moment a crash comes at, the file it names is cut
back to the length it gives, and what was written beyond is delivered, and written, again.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path

import msgspec

from ..errors import NetsondeError
from .ledger import Ledger

NAME = "state.json"


class StateError(NetsondeError):
    """The directory is not one that this collector may write to."""


class OpenFile(msgspec.Struct):
    """The file that grows now."""

    name: str
    bytes: int
    records: int
    since: float  # seconds since the epoch


class Totals(msgspec.Struct):
    batches: int = 0
    records: int = 0
    packets: int = 0
    bytes: int = 0
    repeated: int = 0  # batches that came again
    unreadable: int = 0


class State(msgspec.Struct):
    format: str
    stream: str
    version: int = 1
    files: int = 0  # begun so far
    file: OpenFile | None = None
    closing: list[str] = []  # complete files that do not have their name yet
    ledger: Ledger = msgspec.field(default_factory=Ledger)
    totals: Totals = msgspec.field(default_factory=Totals)


def write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


class StateFile:
    """Owns the directory: one collector at a time."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        try:
            directory.mkdir(parents=True, exist_ok=True)
            self._directory_fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
            fcntl.flock(self._directory_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StateError(f"{directory}: another collector writes here") from None
        except OSError as error:
            raise StateError(f"{directory}: {error.strerror}") from None

    def load(self, *, format: str, stream: str) -> State:  # noqa: A002 - its name in the file
        """The state that was left here, or a new one."""
        try:
            data = (self.directory / NAME).read_bytes()
        except FileNotFoundError:
            return State(format=format, stream=stream)
        try:
            state = msgspec.json.decode(data, type=State)
        except msgspec.DecodeError as error:
            raise StateError(f"{self.directory / NAME}: {error}") from None
        if (state.format, state.stream) != (format, stream):
            raise StateError(
                f"{self.directory} holds {state.format} of {state.stream}; "
                f"use another directory for {format} of {stream}"
            )
        return state

    def save(self, state: State) -> None:
        """Returns when it is on disk."""
        temporary = self.directory / f".{NAME}"
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
        try:
            write_all(fd, msgspec.json.encode(state))
            os.fsync(fd)
        finally:
            os.close(fd)
        os.rename(temporary, self.directory / NAME)
        self.sync_directory()

    def sync_directory(self) -> None:
        os.fsync(self._directory_fd)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            os.close(self._directory_fd)
