"""Runs a C test that is built with AddressSanitizer and UndefinedBehaviorSanitizer.

`make test` builds them first. If a build is missing, the test fails and names it.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
ASAN = REPOSITORY / "build" / "asan"
SOURCES = REPOSITORY / "native" / "tests"

SANITIZERS = {
    "ASAN_OPTIONS": "detect_leaks=1:abort_on_error=0:strict_string_checks=1",
    "UBSAN_OPTIONS": "print_stacktrace=1:halt_on_error=1",
}

C_TESTS = sorted(path.stem for path in SOURCES.glob("*_test.c"))
WATCHING_THE_CLOCK = {"netflow_export_test", "session_buffer_test", "seal_test", "session_test"}
ON_INTERFACES = {
    name for name in C_TESTS if '#include "live.h"' in (SOURCES / f"{name}.c").read_text()
}
ALONE = sorted(WATCHING_THE_CLOCK | ON_INTERFACES)
HANGS_SEC = 600


def run_c_test(name: str) -> None:
    assert (ASAN / name).is_file(), f"build/asan/{name} is absent: `make test` builds it"
    done = subprocess.run(
        [ASAN / name],
        cwd=ASAN,
        capture_output=True,
        text=True,
        errors="replace",
        env={**os.environ, **SANITIZERS},
        timeout=HANGS_SEC,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
