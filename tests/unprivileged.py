"""Runs the agent as a user other than root, with exactly the named capabilities.

The files that this user must read may be below directories that only root may enter, such as a
home. The command then runs in a mount namespace in which open directories replace those and contain
only the required files.
"""

from __future__ import annotations

import contextlib
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

USER_ID = 47_474  # no account uses it
REPOSITORY = Path(__file__).resolve().parents[1]

_SCRIPT = """
set -e
stage=$1; shift
mount -t tmpfs -o mode=755 none "$stage"
while [ "$1" != -- ]; do
  mkdir -p "$stage/$1"; mount --bind "$2" "$stage/$1"; shift 2
done
shift
while [ "$1" != -- ]; do mount -t tmpfs -o mode=755 none "$1"; shift; done
shift
while [ "$1" != -- ]; do
  [ -d "$2" ] || mkdir -p "$2"; mount --bind "$stage/$1" "$2"; shift 2
done
shift
exec "$@"
"""


def prefix(capabilities: Sequence[str], stage: Path) -> tuple[str, ...]:
    """Words before a command. `stage` is an empty directory that any user may enter."""
    needed = {Path(sys.prefix).resolve(), Path(sys.base_prefix).resolve(), REPOSITORY}
    private = sorted({_private(path) for path in needed} - {None}, key=str)
    hidden = sorted(path for path in needed if _private(path) is not None)
    numbered = [(str(number), str(path)) for number, path in enumerate(hidden)]
    flat = [word for pair in numbered for word in pair]
    script = ["unshare", "--mount", "--propagation", "private", "sh", "-c", _SCRIPT, "sh"]
    words = [str(stage), *flat, "--", *map(str, private), "--", *flat, "--"]
    return (*script, *words, *drop(capabilities))


def drop(capabilities: Sequence[str]) -> tuple[str, ...]:
    names = ",".join(["-all", *(f"+{name.removeprefix('CAP_').lower()}" for name in capabilities)])
    return (
        "setpriv", f"--reuid={USER_ID}", f"--regid={USER_ID}", "--clear-groups",
        f"--bounding-set={names}", f"--inh-caps={names}", f"--ambient-caps={names}",
    )  # fmt: skip


def _private(path: Path) -> Path | None:
    """Returns the topmost directory of the path that other users may not enter."""
    for directory in [*reversed(path.parents), path]:
        if not directory.stat().st_mode & 0o001:
            return directory
    return None


@contextlib.contextmanager
def open_directory() -> Iterator[Path]:
    """Makes a directory open to all users; pytest's temporary directories are private to root."""
    made = Path(tempfile.mkdtemp(prefix="netsonde-test-"))
    made.chmod(0o777)
    try:
        yield made
    finally:
        shutil.rmtree(made)
