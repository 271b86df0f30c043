"""The memory that this process may use: the host's, or less where a cgroup limits it."""

from __future__ import annotations

import os
from pathlib import Path

PROC, CGROUPS = Path("/proc"), Path("/sys/fs/cgroup")


def total_mb(proc: Path = PROC, cgroups: Path = CGROUPS) -> int:
    """Returns MiB."""
    return min([_host_bytes(proc), *_limits(proc, cgroups)]) >> 20


def _host_bytes(proc: Path) -> int:
    text = _read(proc / "meminfo")
    if text:
        return int(text.split("\n", 1)[0].split()[1]) << 10
    # systemd's ProcSubset=pid hides the file. sysconf uses sysinfo(2).
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _limits(proc: Path, cgroups: Path) -> list[int]:
    """Returns the limits in bytes of the process's cgroup and of those above it."""
    found = []
    for line in _read(proc / "self" / "cgroup").splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:
            top, name = cgroups, "memory.max"
        elif "memory" in controllers.split(","):
            top, name = cgroups / "memory", "memory.limit_in_bytes"
        else:
            continue
        group = top / path.lstrip("/")
        for directory in (group, *group.parents):
            text = _read(directory / name).strip()
            if text.isdigit():
                found.append(int(text))
            if directory == top:
                break
    return found


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
