"""Checks the direction of imports in the agent. The contracts are in .importlinter."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]


def test_imports_flow_one_way() -> None:
    done = subprocess.run(
        [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert " 0 broken" in done.stdout, done.stdout


def test_one_module_loads_the_extension_module() -> None:
    """core/library.py is the only importer of _core."""
    package = REPOSITORY / "agent" / "netsonde"
    crossing = {
        str(path.relative_to(package))
        for path in package.rglob("*.py")
        if re.search(
            r"^\s*(from\s+\S*\s+)?import\s+.*\b_core\b|\._core\s+import", path.read_text(), re.M
        )
    }
    assert crossing == {"core/library.py"}


def test_the_top_level_has_few_modules() -> None:
    package = REPOSITORY / "agent" / "netsonde"
    assert len(list(package.glob("*.py"))) <= 4
