"""The C programs of the benchmarks still compile against the core."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
BENCH = REPOSITORY / "tests" / "bench"
DRIVERS = sorted(path for path in BENCH.rglob("*.c") if ".bpf" not in path.name)
DRIVERS = [path for path in DRIVERS if "out" not in path.relative_to(BENCH).parts]
FLAGS = ("-std=gnu11", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-Werror")
INCLUDES = ("-Inative", "-Inative/include")


@pytest.mark.parametrize("driver", DRIVERS, ids=lambda path: path.stem)
def test_benchmark_driver_compiles(driver: Path) -> None:
    done = subprocess.run(
        ["cc", "-fsyntax-only", *FLAGS, *INCLUDES, driver],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
