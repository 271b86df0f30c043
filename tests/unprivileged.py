"""Running the agent as a user who is not root, with exactly the capabilities that are named.

What that user must be able to read may lie below directories that only root may enter (a
home, a private checkout). The command then runs in a mount namespace in which those are
replaced by open ones that hold nothing but what is needed.
"""

from __future__ import annotations

import contextlib
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

USER_ID = 47_474  # nobody's
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
    """Before a command. `stage`: an empty directory that anyone may enter."""
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
    """The uppermost directory on the way that others may not enter."""
    for directory in [*reversed(path.parents), path]:
        if not directory.stat().st_mode & 0o001:
            return directory
    return None


@contextlib.contextmanager
def open_directory() -> Iterator[Path]:
    """pytest's own temporary directories are root's alone."""
    made = Path(tempfile.mkdtemp(prefix="netsonde-test-"))
    made.chmod(0o777)
    try:
        yield made
    finally:
        shutil.rmtree(made)
