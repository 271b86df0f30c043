"""The start that `persist` keeps: one JSON file in the state directory.

The file has its old content until the new content is complete: it is written to a temporary
file, synced, then renamed.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import msgspec
import structlog

from ..errors import StateUnavailable
from ..wire.requests import CaptureOptions

NAME = "session.json"


class PersistedStart:
    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._path = directory / NAME
        self._part = directory / f"{NAME}.part"
        self._log = structlog.get_logger()

    def read(self) -> CaptureOptions | None:
        """Returns None if nothing is kept, or if the file is damaged, which is logged."""
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=CaptureOptions)
        except FileNotFoundError:
            return None
        except (OSError, msgspec.DecodeError) as error:
            self._log.error("the persisted start is lost", file=str(self._path), error=str(error))
            return None

    def prepare(self, options: CaptureOptions) -> None:
        """Writes `options` to the temporary file. Raises StateUnavailable."""
        try:
            self._write(msgspec.json.encode(options))
        except OSError as error:
            raise self._unavailable(error) from None

    def discard(self) -> None:
        with contextlib.suppress(OSError):
            self._part.unlink()

    def commit(self) -> None:
        """Gives the temporary file its name. Raises StateUnavailable."""
        try:
            self._part.replace(self._path)
            self._sync()
        except OSError as error:
            raise self._unavailable(error) from None

    def remove(self) -> None:
        """Raises StateUnavailable."""
        try:
            self._path.unlink()
            self._sync()
        except FileNotFoundError:
            return
        except OSError as error:
            raise self._unavailable(error) from None

    def _write(self, content: bytes) -> None:
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._part.unlink(missing_ok=True)  # left by a run that was killed
        file = os.open(self._part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(file, "wb") as out:
            out.write(content)
            out.flush()
            os.fsync(out.fileno())

    def _sync(self) -> None:
        directory = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)

    def _unavailable(self, error: OSError) -> StateUnavailable:
        reason = os.strerror(error.errno or 5).lower()
        return StateUnavailable(f"Cannot write {self._path}: {reason}.")
