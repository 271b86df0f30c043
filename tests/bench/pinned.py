"""Runs a process on one core and measures it.

The measured process or its peer uses the last core available to this process. Everything else
(NATS, collectors, this program) uses the others.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

CORES = sorted(os.sched_getaffinity(0))
METER_CORE = CORES[-1]
OTHER_CORES = CORES[:-1] or CORES
PREFIX = ("taskset", "-c", str(METER_CORE))


@dataclass(frozen=True)
class Measured:
    seconds: float  # by clock, from before the start to after the exit
    cpu_seconds: float  # user and system
    output: str


def keep_off_the_meter_core() -> None:
    os.sched_setaffinity(0, OTHER_CORES)


def run_pinned(command: Sequence[str | Path]) -> Measured:
    """Runs a command and keeps its stdout. Raises with the output if the command fails."""
    begin = time.monotonic()
    process = subprocess.Popen(
        [*PREFIX, *map(str, command)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert process.stdout is not None
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.monotonic() - begin
    process.returncode = os.waitstatus_to_exitcode(status)
    process.stdout.close()
    if process.returncode != 0:
        raise RuntimeError(f"{command[0]} exited with {process.returncode}:\n{output}")
    return Measured(seconds, usage.ru_utime + usage.ru_stime, output)
