"""Packets into a file of this host, below [buffer] export_dir.

The name is the agent's, never the requester's. The file is made under a hidden name and gets
its own when it is whole, so that what lies there is complete; one that does not come to its
end is removed.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
from types import TracebackType

from ..core.threads import on_thread
from ..errors import ExportFileUnavailable, PathNotAllowed


class ExportFile:
    """An async context; left without `commit`, nothing stays."""

    def __init__(self, directory: str, name: str, *, bytes_max: int) -> None:
        """bytes_max: of all files in the directory together."""
        if not directory:
            raise PathNotAllowed("[buffer] export_dir is not set on this host.", field="$.to")
        self.path = os.path.join(directory, name)
        self._place = os.path.join(directory, f".{name}.part")  # where it lies now
        self._directory = directory
        self._room = bytes_max
        self._file = -1

    async def __aenter__(self) -> ExportFile:
        try:
            await on_thread(self._open)
        except OSError as error:
            raise _failed(error) from None
        except asyncio.CancelledError:  # `__aexit__` is not called for what was not entered
            self._discard()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._discard()

    def _discard(self) -> None:
        if self._file >= 0:
            file, self._file = self._file, -1
            os.close(file)
            with contextlib.suppress(OSError):
                os.unlink(self._place)

    async def write(self, data: memoryview) -> None:
        self._room -= len(data)
        if self._room < 0:
            raise ExportFileUnavailable(
                "The files in [buffer] export_dir would exceed [buffer] export_mb; remove some."
            )
        try:
            await on_thread(lambda: self._write(data))
        except OSError as error:
            raise _failed(error) from None

    async def commit(self) -> None:
        """From here on it is there under its own name."""
        try:
            await on_thread(self._finish)
        except OSError as error:
            raise _failed(error) from None
        file, self._file = self._file, -1
        os.close(file)

    # ---- on a thread ------------------------------------------------------------------------

    def _open(self) -> None:
        with os.scandir(self._directory) as entries:
            files = [e.stat(follow_symlinks=False) for e in entries if e.is_file()]
        self._room -= sum(file.st_size for file in files)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        self._file = os.open(self._place, flags, 0o600)

    def _write(self, data: memoryview) -> None:
        while data:
            data = data[os.write(self._file, data) :]

    def _finish(self) -> None:
        os.fsync(self._file)
        os.rename(self._place, self.path)
        self._place = self.path


def _failed(error: OSError) -> ExportFileUnavailable:
    reason = os.strerror(error.errno or errno.EIO).lower()
    return ExportFileUnavailable(f"A file in [buffer] export_dir cannot be written: {reason}.")
