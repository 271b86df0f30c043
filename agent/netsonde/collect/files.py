"""Files that grow by whole commits and appear under their name only when they are complete.

    flows-20261122T151500Z-000017.jsonl.part      grows
    flows-20261122T151500Z-000017.jsonl           complete

`add` keeps lines in memory, `commit` brings them to the disk and says how long the file is
now, `rotate` completes it. After a crash `resume` cuts the file back to the length that the
state recorded: what lies beyond belongs to batches that were never acknowledged.
"""

from __future__ import annotations

import os
import time
from collections.abc import Collection
from pathlib import Path
from typing import Protocol

from .batches import Batch
from .state import OpenFile, State, StateError, write_all

PART = ".part"


class ReaderGoneError(Exception):
    """Nobody reads what is printed any more. Apart from what breaks on the way to NATS."""


class Files(Protocol):
    format: str

    def resume(self, state: State) -> None: ...

    def add(self, batch: Batch) -> tuple[int, int, int]:
        """How many records, packets and bytes (the records' own count) it had. Raises
        UnreadableError; nothing of it was added then."""

    def commit(self, state: State) -> None: ...

    def rotate(self, state: State) -> Path | None: ...

    def tend(self, state: State) -> None:
        """Now and then: enters in the state which files got their names meanwhile."""

    def settle(self, state: State) -> None:
        """Returns when every complete file has its name."""


def begin_file(state: State, suffix: str) -> OpenFile:
    """Names the next file: sortable by time, never used twice."""
    state.files += 1
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    return OpenFile(f"flows-{stamp}-{state.files:06d}{suffix}", 0, 0, time.time())


def reopen(path: Path, length: int) -> int:
    """The part file, cut back to what was committed."""
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    size = os.fstat(fd).st_size
    if size < length:
        os.close(fd)
        raise StateError(f"{path} has {size} bytes and should have {length}: it was changed")
    os.ftruncate(fd, length)
    os.lseek(fd, length, os.SEEK_SET)
    return fd


def sweep(directory: Path, keep: Collection[str]) -> None:
    """Part files of runs that ended before their first commit."""
    for path in directory.glob(f"flows-*{PART}"):
        if path.name.removesuffix(PART) not in keep:
            path.unlink()


def append_durably(fd: int, length: int, data: bytes) -> None:
    """All of it, or, if the disk is full, nothing: what was written is cut off again."""
    try:
        write_all(fd, data)
        os.fdatasync(fd)
    except OSError:
        os.ftruncate(fd, length)
        os.lseek(fd, length, os.SEEK_SET)
        raise


class JsonlFiles:
    """One JSON object a record, one a line."""

    format = "jsonl"

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._fd = -1
        self._lines: list[bytes] = []
        self._records = 0

    def resume(self, state: State) -> None:
        sweep(self._directory, [state.file.name] if state.file else [])
        if state.file is None:
            return
        part = self._directory / (state.file.name + PART)
        if not part.exists() and (self._directory / state.file.name).exists():
            state.file = None  # it was completed, and the state came too late
            return
        try:
            self._fd = reopen(part, state.file.bytes)
        except OSError as error:
            raise StateError(f"{part}: {error.strerror}") from None

    def add(self, batch: Batch) -> tuple[int, int, int]:
        lines, counts = batch.lines_and_counts()
        self._lines += lines
        self._records += len(lines)
        return counts

    def commit(self, state: State) -> None:
        """Blocks until all that was added is on disk. The state is the caller's to save."""
        if not self._lines:
            return
        if state.file is None:
            file = begin_file(state, ".jsonl")
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            self._fd = os.open(self._directory / (file.name + PART), flags, 0o644)
            state.file = file
        data = b"\n".join([*self._lines, b""])
        append_durably(self._fd, state.file.bytes, data)
        self._lines.clear()
        state.file.bytes += len(data)
        state.file.records += self._records
        self._records = 0

    def rotate(self, state: State) -> Path | None:
        """After a commit: gives the file its name. The state is the caller's to save."""
        if state.file is None:
            return None
        os.close(self._fd)
        path = self._directory / state.file.name
        os.rename(path.with_name(path.name + PART), path)
        state.file = None
        return path

    def tend(self, state: State) -> None: ...

    def settle(self, state: State) -> None: ...


class Lines:
    """Standard output: nothing is kept, so a crash may print some records twice."""

    format = "stdout"

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._lines: list[bytes] = []
        self._rest = b""  # of a write that was not taken whole

    def resume(self, state: State) -> None: ...

    def add(self, batch: Batch) -> tuple[int, int, int]:
        lines, counts = batch.lines_and_counts()
        self._lines += lines
        return counts

    def commit(self, state: State) -> None:
        lines, self._lines = self._lines, []
        self._rest += b"\n".join([*lines, b""])
        try:
            while self._rest:
                self._rest = self._rest[os.write(self._fd, self._rest) :]
        except BrokenPipeError:
            raise ReaderGoneError from None

    def rotate(self, state: State) -> Path | None:
        return None

    def tend(self, state: State) -> None: ...

    def settle(self, state: State) -> None: ...
