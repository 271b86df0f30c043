"""The collector's state file, stored with the data.

`state.json` is replaced as a whole, after its data are on disk and before the messages are
acked. After a crash the current file is truncated to the recorded length; later data are
delivered and written again.
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
    """The directory cannot be used by this collector."""


class DirectoryInUseError(StateError):
    """Another collector has locked the directory."""


class OpenFile(msgspec.Struct):
    """The growing file."""

    name: str
    bytes: int
    records: int
    since: float  # seconds since the epoch


class Totals(msgspec.Struct):
    batches: int = 0
    records: int = 0
    packets: int = 0
    bytes: int = 0
    repeated: int = 0  # duplicate batches
    unreadable: int = 0  # dead letters that cannot be read
    dead_letters: int = 0  # all, also those that name another host


class State(msgspec.Struct):
    format: str
    stream: str
    version: int = 1
    files: int = 0  # created so far
    file: OpenFile | None = None
    closing: list[str] = []  # complete files without their final name
    ledger: Ledger = msgspec.field(default_factory=Ledger)
    totals: Totals = msgspec.field(default_factory=Totals)
    dead_letters_bytes: int = 0


def write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


class StateFile:
    """Locks the directory for one collector; loads and saves its state."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        try:
            directory.mkdir(parents=True, exist_ok=True)
            self._directory_fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
            fcntl.flock(self._directory_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DirectoryInUseError(f"{directory} is used by another collector") from None
        except OSError as error:
            raise StateError(f"{directory}: {error.strerror}") from None

    def load(self, *, format: str, stream: str) -> State:  # noqa: A002 - its name in the file
        """Loads the state, or creates one for a new directory."""
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
                f"{self.directory} contains {state.format} of {state.stream}; "
                f"use another directory for {format} of {stream}"
            )
        return state

    def save(self, state: State) -> None:
        """Saves the state. Returns when it is on disk."""
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
