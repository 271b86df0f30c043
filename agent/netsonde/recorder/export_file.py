"""Writes packets to a file in [buffer] export_dir on this host.

The agent chooses the name, never the requester. The file has a hidden name until it is
complete. An incomplete file is removed.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os

from ..core.threads import on_thread
from ..errors import ExportFileUnavailable, PathNotAllowed


class ExportFile:
    """An async context. Without `commit` the file is removed.

    bytes_max limits all files in the directory together."""

    def __init__(self, directory: str, name: str, *, bytes_max: int) -> None:
        if not directory:
            raise PathNotAllowed("[buffer] export_dir is not set on this host.", field="$.to")
        self.path = os.path.join(directory, name)
        self._part_path = os.path.join(directory, f".{name}.part")
        self._directory = directory
        self._room = bytes_max
        self._file = -1

    async def __aenter__(self) -> ExportFile:
        try:
            await on_thread(self._open)
        except OSError as error:
            raise _failed(error) from None
        except asyncio.CancelledError:  # `__aexit__` does not run if `__aenter__` raises
            self._discard()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        self._discard()

    def _discard(self) -> None:
        if self._file >= 0:
            self._close()
            with contextlib.suppress(OSError):
                os.unlink(self._part_path)

    def _close(self) -> None:
        file, self._file = self._file, -1
        os.close(file)

    async def write(self, data: memoryview) -> None:
        self._room -= len(data)
        if self._room < 0:
            raise ExportFileUnavailable(
                "The files in [buffer] export_dir would exceed [buffer] export_mb. Remove some."
            )
        try:
            await on_thread(lambda: self._write(data))
        except OSError as error:
            raise _failed(error) from None

    async def commit(self) -> None:
        """Renames the complete file to its final name."""
        try:
            await on_thread(self._finish)
        except OSError as error:
            raise _failed(error) from None
        self._close()

    # ---- on a thread ------------------------------------------------------------------------

    def _open(self) -> None:
        with os.scandir(self._directory) as entries:
            files = [e.stat(follow_symlinks=False) for e in entries if e.is_file()]
        self._room -= sum(file.st_size for file in files)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        self._file = os.open(self._part_path, flags, 0o600)

    def _write(self, data: memoryview) -> None:
        while data:
            data = data[os.write(self._file, data) :]

    def _finish(self) -> None:
        os.fsync(self._file)
        os.rename(self._part_path, self.path)
        self._part_path = self.path  # a cancelled commit removes the renamed file


def _failed(error: OSError) -> ExportFileUnavailable:
    reason = os.strerror(error.errno or errno.EIO).lower()
    return ExportFileUnavailable(f"Cannot write a file in [buffer] export_dir: {reason}.")
