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

from ..config.state import part_of, sync_directory, write_part
from ..errors import StateUnavailable
from ..wire.requests import CaptureOptions

NAME = "session.json"


class PersistedStart:
    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._path = directory / NAME
        self._part = part_of(self._path)
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
            write_part(self._path, msgspec.json.encode(options))
        except OSError as error:
            raise self._unavailable(error) from None

    def discard(self) -> None:
        with contextlib.suppress(OSError):
            self._part.unlink()

    def commit(self) -> None:
        """Gives the temporary file its name. Raises StateUnavailable."""
        try:
            self._part.replace(self._path)
            sync_directory(self._directory)
        except OSError as error:
            raise self._unavailable(error) from None

    def remove(self) -> None:
        """Raises StateUnavailable."""
        try:
            self._path.unlink()
            sync_directory(self._directory)
        except FileNotFoundError:
            return
        except OSError as error:
            raise self._unavailable(error) from None

    def _unavailable(self, error: OSError) -> StateUnavailable:
        reason = os.strerror(error.errno or 5).lower()
        return StateUnavailable(f"Cannot write {self._path}: {reason}.")
