"""A mount namespace in which this machine lacks some of its shared libraries.

A command with `without(…)` in front sees a library directory without the named files. The loader
reports them as missing, as on a host that never had them. Needs root.
"""

from __future__ import annotations

import fnmatch
import sysconfig
from pathlib import Path

LIBRARIES = Path("/usr/lib") / str(sysconfig.get_config_var("MULTIARCH"))
DPDK = ("librte_*", "dpdk")
BPF = ("libbpf.*", "libxdp.*")

# The real directory is mounted elsewhere; a directory of links replaces it.
_HIDE = 'mount --bind "$1" "$2" && mount --bind "$3" "$1" && shift 3 && exec "$@"'


def without(directory: Path, *patterns: str) -> tuple[str, ...]:
    """Returns the words to put before a command. `directory` holds the links and must outlive the
    command. `patterns` match names in LIBRARIES; without any, all libraries remain visible."""
    real, shown = directory / "real", directory / "shown"
    real.mkdir(parents=True)
    shown.mkdir()
    for one in LIBRARIES.iterdir():
        if not any(fnmatch.fnmatchcase(one.name, pattern) for pattern in patterns):
            (shown / one.name).symlink_to(real / one.name)
    directories = (str(LIBRARIES), str(real), str(shown))
    return ("unshare", "--mount", "sh", "-c", _HIDE, "without", *directories)
