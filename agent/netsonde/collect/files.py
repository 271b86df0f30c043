"""Files that grow by whole commits and appear under their name only when they are complete.

    flows-20261122T151500Z-000017.jsonl.part      grows
    flows-20261122T151500Z-000017.jsonl           complete

`add` keeps lines in memory, `commit` brings them to the disk and says how long the file is
now, `rotate` completes it. After a crash `resume` cuts the file back to the length that the
state recorded: what lies beyond belongs to batches that were never acknowledged.
"""

from __future__ import annotations

import os
import select
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

    def rotate(self, state: State) -> None:
        """After a commit: completes the file, if there is one. The caller saves the state."""

    def tend(self, state: State) -> None:
        """Now and then: enters in the state which files got their names meanwhile."""

    def settle(self, state: State) -> None:
        """Returns when every complete file has its name."""


def begin_file(state: State, suffix: str) -> OpenFile:
    """Names the next file: sortable by time, never used twice."""
    state.files += 1
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    return OpenFile(f"flows-{stamp}-{state.files:06d}{suffix}", 0, 0, time.time())


def create(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)


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
            begun = begin_file(state, ".jsonl")
            self._fd = create(self._directory / (begun.name + PART))
            state.file = begun
        data = b"\n".join([*self._lines, b""])
        append_durably(self._fd, state.file.bytes, data)
        self._lines.clear()
        state.file.bytes += len(data)
        state.file.records += self._records
        self._records = 0

    def rotate(self, state: State) -> None:
        if state.file is None:
            return
        path = self._directory / state.file.name
        os.rename(path.with_name(path.name + PART), path)
        os.close(self._fd)
        state.file = None

    def tend(self, state: State) -> None: ...

    def settle(self, state: State) -> None: ...


class Lines:
    """Standard output: nothing is kept, so a crash may print some records twice."""

    format = "stdout"

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._lines: list[bytes] = []
        self._left = memoryview(b"")  # what a full disk or a slow reader did not take yet

    def resume(self, state: State) -> None: ...

    def add(self, batch: Batch) -> tuple[int, int, int]:
        lines, counts = batch.lines_and_counts()
        self._lines += lines
        return counts

    def commit(self, state: State) -> None:
        self._left = memoryview(b"".join([self._left, *(line + b"\n" for line in self._lines)]))
        self._lines.clear()
        while self._left:
            try:
                self._left = self._left[os.write(self._fd, self._left) :]
            except BrokenPipeError:
                raise ReaderGoneError from None
            except BlockingIOError:  # somebody else's end of it was made so
                select.select([], [self._fd], [])

    def rotate(self, state: State) -> None: ...

    def tend(self, state: State) -> None: ...

    def settle(self, state: State) -> None: ...
