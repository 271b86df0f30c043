"""The state directory: what outlives a run of the agent is kept there."""

from __future__ import annotations

import os
from pathlib import Path


def state_directory() -> Path:
    """Returns systemd's state directory, or /var/lib/netsonde."""
    return Path(os.environ.get("STATE_DIRECTORY", "").partition(":")[0] or "/var/lib/netsonde")


def part_of(path: Path) -> Path:
    """Returns the temporary file of a state file."""
    return path.with_name(f"{path.name}.part")


def write_part(path: Path, content: bytes) -> Path:
    """Writes and syncs the temporary file of `path`, and returns its path. Raises OSError."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    part = part_of(path)
    part.unlink(missing_ok=True)  # left by a run that was killed
    file = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(file, "wb") as out:
        out.write(content)
        out.flush()
        os.fsync(out.fileno())
    return part


def sync_directory(path: Path) -> None:
    """Makes renamed and removed files of a directory last. Raises OSError."""
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def write_state(path: Path, content: bytes) -> None:
    """Replaces a file of the state directory as a whole: its old content stays until the new one is
    on the disk. Raises OSError."""
    write_part(path, content).replace(path)
    sync_directory(path.parent)
