"""Writes a file as a whole: to a temporary file in its directory, synced, then renamed.

The file has its old content until the new content is complete. A device or pipe is written to
directly.
"""

from __future__ import annotations

import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from ..errors import NetsondeError


class WriteError(NetsondeError):
    """A file cannot be written."""


@contextmanager
def replaced_file(path: str | Path, mode: int = 0o600) -> Iterator[BinaryIO]:
    """Yields a file that takes the name `path` at the end; after an exception nothing has
    changed. Raises WriteError if it cannot be opened or completed."""
    target = Path(os.path.realpath(path))
    try:
        special = target.exists() and not stat.S_ISREG(target.stat().st_mode)
        part = target.with_name(f".{target.name}.{secrets.token_hex(4)}.part")
        flags = os.O_WRONLY | os.O_CLOEXEC | (0 if special else os.O_CREAT | os.O_EXCL)
        file = os.open(target if special else part, flags, mode)
    except OSError as error:
        raise WriteError(f"{path}: {os.strerror(error.errno or 5).lower()}") from None
    try:
        with os.fdopen(file, "wb") as out:
            yield out
            if special:
                return
            out.flush()
            os.fsync(out.fileno())
        part.rename(target)
        _sync_directory(target.parent)
    except OSError as error:
        if isinstance(error, BrokenPipeError):
            raise
        raise WriteError(f"{path}: {os.strerror(error.errno or 5).lower()}") from None
    finally:
        if not special:
            with suppress(OSError):
                part.unlink()


def is_special(path: str | Path) -> bool:
    """Returns whether the path is a device, a pipe or a directory."""
    target = Path(os.path.realpath(path))
    return target.exists() and not target.is_file()


def move_file(source: Path, path: str | Path) -> None:
    """Gives a complete file of the same directory tree the name `path`. Raises WriteError."""
    if is_special(path):
        with source.open("rb") as content, replaced_file(path) as out:
            shutil.copyfileobj(content, out, 1 << 20)
        source.unlink()
        return
    target = Path(os.path.realpath(path))
    try:
        with source.open("rb") as content:
            os.fsync(content.fileno())
        source.rename(target)
    except OSError as error:
        raise WriteError(f"{path}: {os.strerror(error.errno or 5).lower()}") from None
    _sync_directory(target.parent)


def _sync_directory(directory: Path) -> None:
    with suppress(OSError):
        handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
