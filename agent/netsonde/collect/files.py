"""Output files that grow by whole commits and get their final name when complete.

    flows-20261122T151500Z-000017.jsonl.part      growing
    flows-20261122T151500Z-000017.jsonl           complete

`add` buffers lines, `commit` writes them to disk and records the file's length in the state,
`rotate` completes the file. After a crash `resume` truncates the file to the recorded length:
later bytes belong to batches that were not acked.
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
    """The reader of standard output has gone. Distinct from a broken pipe to NATS."""


class Files(Protocol):
    format: str

    def resume(self, state: State) -> None: ...

    def add(self, batch: Batch) -> tuple[int, int, int]:
        """Buffers a batch. Returns the sums of its records, packets and bytes. Raises
        UnreadableError without adding anything."""

    def commit(self, state: State) -> None: ...

    def rotate(self, state: State) -> None:
        """Completes the current file, after a commit. The caller saves the state."""

    def poll(self, state: State) -> None:
        """Removes files from `state.closing` that have their final name now."""

    def drain(self, state: State) -> None:
        """Returns when every complete file has its final name."""


def begin_file(state: State, suffix: str) -> OpenFile:
    """Names the next file: sortable by time and unique."""
    state.files += 1
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    return OpenFile(f"flows-{stamp}-{state.files:06d}{suffix}", 0, 0, time.time())


def create(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)


def reopen(path: Path, length: int) -> int:
    """Opens a part file and truncates it to the committed length."""
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    size = os.fstat(fd).st_size
    if size < length:
        os.close(fd)
        raise StateError(f"{path} was changed: {size} bytes, expected at least {length}")
    os.ftruncate(fd, length)
    os.lseek(fd, length, os.SEEK_SET)
    return fd


def sweep(directory: Path, keep: Collection[str]) -> None:
    """Deletes part files of runs that ended before their first commit."""
    for path in directory.glob(f"flows-*{PART}"):
        if path.name.removesuffix(PART) not in keep:
            path.unlink()


def append_durably(fd: int, length: int, data: bytes) -> None:
    """Appends all or, after an error such as a full disk, nothing."""
    try:
        write_all(fd, data)
        os.fdatasync(fd)
    except OSError:
        os.ftruncate(fd, length)
        os.lseek(fd, length, os.SEEK_SET)
        raise


class JsonlFiles:
    """One JSON object per record and line."""

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
            state.file = None  # completed before the state was saved
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
        """Blocks until all batches are on disk. The caller saves the state."""
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

    def poll(self, state: State) -> None: ...

    def drain(self, state: State) -> None: ...


class Lines:
    """Standard output, without a state: a crash may print some records twice."""

    format = "stdout"

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._lines: list[bytes] = []
        self._left = memoryview(b"")  # not yet written: full disk or slow reader

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
            except BlockingIOError:  # another process made the pipe non-blocking
                select.select([], [self._fd], [])

    def rotate(self, state: State) -> None: ...

    def poll(self, state: State) -> None: ...

    def drain(self, state: State) -> None: ...
