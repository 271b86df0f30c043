"""A file that a download fills and that a later run can continue.

Next to the file lies its progress: which upload it is part of, and how much of it is on disk. An
interrupted download continues behind the last chunk that the progress names. Bytes behind that
chunk are discarded.
"""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from pathlib import Path

import msgspec

READ_BYTES = 1 << 20
SAVE_BYTES = 4 << 20  # progress is saved at least this often


class _Progress(msgspec.Struct):
    """nuid: id of the upload. seq: of the last chunk in the bucket's stream."""

    nuid: str = ""
    chunks: int = 0
    size: int = 0
    seq: int = 0


class PartFile:
    """Use it with `with`. At the end the file stays; `discard` removes it. Raises OSError."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._progress_path = path.with_name(f"{path.name}.progress")
        self._progress = _Progress()
        self._saved = 0
        self._file = -1
        self.digest = hashlib.sha256()

    def __enter__(self) -> PartFile:
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        self._file = os.open(self.path, flags, 0o600)
        with suppress(OSError, msgspec.DecodeError):
            data = self._progress_path.read_bytes()
            self._progress = msgspec.json.decode(data, type=_Progress)
        if not self._rehash():
            self._restart("")
        self._saved = self.size
        return self

    def __exit__(self, *_: object) -> None:
        file, self._file = self._file, -1
        with suppress(OSError):
            self._save(file)
        os.close(file)

    @property
    def size(self) -> int:
        return self._progress.size

    @property
    def chunks(self) -> int:
        return self._progress.chunks

    @property
    def seq(self) -> int:
        return self._progress.seq

    def begin(self, nuid: str) -> None:
        """Starts over if what is on disk belongs to another upload."""
        if self._progress.nuid != nuid:
            self._restart(nuid)

    def append(self, data: bytes, seq: int) -> None:
        left = memoryview(data)
        while left:
            left = left[os.write(self._file, left) :]
        self.digest.update(data)
        done = self._progress
        done.size += len(data)
        done.chunks += 1
        done.seq = seq
        if done.size - self._saved >= SAVE_BYTES:
            self._save(self._file)

    def discard(self) -> None:
        """Empties the file, which `remove` deletes."""
        self._restart("")

    def remove(self) -> None:
        for path in (self.path, self._progress_path):
            with suppress(OSError):
                path.unlink()

    def _rehash(self) -> bool:
        """Reads what is on disk. Returns False if it is less than the progress says."""
        left = self._progress.size
        while left > 0:
            data = os.read(self._file, min(READ_BYTES, left))
            if not data:
                return False
            self.digest.update(data)
            left -= len(data)
        os.ftruncate(self._file, self._progress.size)
        return True

    def _restart(self, nuid: str) -> None:
        self._progress, self._saved, self.digest = _Progress(nuid), 0, hashlib.sha256()
        os.lseek(self._file, 0, os.SEEK_SET)
        os.ftruncate(self._file, 0)

    def _save(self, file: int) -> None:
        os.fdatasync(file)  # the progress never names more than is on disk
        self._saved = self._progress.size
        temporary = self._progress_path.with_name(f"{self._progress_path.name}.new")
        temporary.write_bytes(msgspec.json.encode(self._progress))
        temporary.replace(self._progress_path)
