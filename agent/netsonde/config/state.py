"""The state directory: what outlives a run of the agent is kept there."""

from __future__ import annotations

import os
from pathlib import Path


def state_directory() -> Path:
    """Returns systemd's state directory, or /var/lib/netsonde."""
    return Path(os.environ.get("STATE_DIRECTORY", "").partition(":")[0] or "/var/lib/netsonde")


def write_state(path: Path, content: bytes) -> None:
    """Replaces a file of the state directory as a whole: its old content stays until the new one is
    on the disk. Raises OSError."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    part.unlink(missing_ok=True)  # left by a run that was killed
    file = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(file, "wb") as out:
        out.write(content)
        out.flush()
        os.fsync(out.fileno())
    part.replace(path)
