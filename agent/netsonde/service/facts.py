"""Facts about this host for the inventory, read from the system."""

from __future__ import annotations

import os
import platform
from pathlib import Path

from ..wire.inventory import Facts

_OS_RELEASE = Path("/etc/os-release")
_INTERFACES = Path("/sys/class/net")


def read_facts() -> Facts:
    """Returns the facts, without the backends."""
    return Facts(
        kernel=platform.release(),
        os=_os_name(),
        arch=platform.machine(),
        cpus=os.cpu_count() or 0,
        memory_mb=(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")) >> 20,
        interfaces=interfaces(),
    )


def interfaces() -> list[str]:
    """Returns the names of the network interfaces, sorted; empty without /sys."""
    try:
        return sorted(entry.name for entry in _INTERFACES.iterdir() if entry.is_symlink())
    except OSError:
        return []


def _os_name() -> str:
    try:
        lines = _OS_RELEASE.read_text().splitlines()
    except (OSError, UnicodeDecodeError):
        return platform.system()
    fields = dict(line.split("=", 1) for line in lines if "=" in line)
    return fields.get("PRETTY_NAME", platform.system()).strip('"')
