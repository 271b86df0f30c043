"""The same machine, without some of its shared libraries.

A command that is run with `without(…)` before it sees, in a mount namespace of its own, a
library directory in which the ones named are not there: the loader says of them what it says
on a host that never had them. Everything else is as it is. Needs root, like the live tests.
"""

from __future__ import annotations

import fnmatch
import sysconfig
from pathlib import Path

LIBRARIES = Path("/usr/lib") / str(sysconfig.get_config_var("MULTIARCH"))
DPDK = ("librte_*", "dpdk")
BPF = ("libbpf.*", "libxdp.*")

# The real directory moves aside, and links into it take its place.
_HIDE = 'mount --bind "$1" "$2" && mount --bind "$3" "$1" && shift 3 && exec "$@"'


def without(directory: Path, *patterns: str) -> tuple[str, ...]:
    """What goes before a command. `directory` is for the links, and must outlive the command;
    `patterns` are of names in LIBRARIES. With none of them, only the detour is there."""
    real, shown = directory / "real", directory / "shown"
    real.mkdir(parents=True)
    shown.mkdir()
    for one in LIBRARIES.iterdir():
        if not any(fnmatch.fnmatchcase(one.name, pattern) for pattern in patterns):
            (shown / one.name).symlink_to(real / one.name)
    directories = (str(LIBRARIES), str(real), str(shown))
    return ("unshare", "--mount", "sh", "-c", _HIDE, "without", *directories)
