"""The state directory: what outlives a run of the agent is kept there."""

from __future__ import annotations

import os
from pathlib import Path


def state_directory() -> Path:
    """Returns systemd's state directory, or /var/lib/netsonde."""
    return Path(os.environ.get("STATE_DIRECTORY", "").partition(":")[0] or "/var/lib/netsonde")
