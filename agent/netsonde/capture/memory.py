"""The memory that this process may use: the host's, or less where a cgroup limits it."""

from __future__ import annotations

from pathlib import Path

PROC, CGROUPS = Path("/proc"), Path("/sys/fs/cgroup")


def total_mb(proc: Path = PROC, cgroups: Path = CGROUPS) -> int:
    """Returns MiB."""
    first = (proc / "meminfo").read_text().split("\n", 1)[0]
    return min([int(first.split()[1]) << 10, *_limits(proc, cgroups)]) >> 20


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
