"""What the optional libraries cost an agent that does not use them: nothing.

    python tests/bench/libraries.py [RUNS]

The same agent, in turns, on this machine as it is (with the tests' stand-in for libpfring), and
with DPDK, libbpf and libpfring hidden from it. Time from the start of the process to its first
answer on the bus; resident memory then, and once more after a `backends` request, for which
plugins and libraries are looked at. Needs root, for the hiding.
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import nats
from agent_replay import ask, resident_kib, run_agent, serve, wait_until_ready
from pinned import keep_off_the_meter_core
from table import Row, lack, match, render
from workbench import COMPILER, OUT, REPOSITORY, run

sys.path.insert(0, str(REPOSITORY / "tests"))

from absent import BPF, DPDK, without

RUNS = 9
LIMIT = 1.05
POLL_SEC = 0.002
TITLE = "agent with optional libraries"


@dataclass(frozen=True)
class Start:
    seconds: float
    kib: int
    kib_asked: int  # after `backends`
    unavailable: frozenset[str]


def build_double() -> Path:
    directory = OUT / "pfring"
    directory.mkdir(parents=True, exist_ok=True)
    source = REPOSITORY / "native" / "tests" / "pfring_double.c"
    run(*COMPILER, "-shared", "-fPIC", source, "-o", directory / "libpfring.so.1")
    return directory


async def drive(url: str, begin: float, pid: int) -> Start:
    client = await nats.connect(url)
    await wait_until_ready(client, POLL_SEC)
    seconds, kib = time.monotonic() - begin, resident_kib(pid)
    listed = await ask(client, "backends", {}, 30.0)
    await client.close()
    lacking = frozenset(one["name"] for one in listed["unavailable"])
    return Start(seconds, kib, resident_kib(pid), lacking)


def start(prefix: Sequence[str], settings: Mapping[str, str]) -> Start:
    directory = OUT / "agent"
    with serve(directory) as url:
        begin = time.monotonic()
        with run_agent(url, directory, "json", prefix=prefix, settings=settings) as process:
            return asyncio.run(drive(url, begin, process.pid))


def rows(runs: int) -> list[Row]:
    if os.geteuid() != 0:
        return [lack(TITLE, "libraries are hidden in a mount namespace, which takes root")]
    double = {"LD_LIBRARY_PATH": str(build_double())}
    there: list[Start] = []
    absent: list[Start] = []
    with tempfile.TemporaryDirectory() as directory:
        # Both take the detour by links, so that it weighs the same.
        all_of_them = without(Path(directory) / "all")
        none_of_them = without(Path(directory) / "none", *DPDK, *BPF)
        for _ in range(runs):
            there.append(start(all_of_them, double))
            absent.append(start(none_of_them, {}))
    for one in absent:
        if one.unavailable != {"dpdk", "pf_ring", "xdp"}:
            raise RuntimeError(f"hidden, and yet there: only {set(one.unavailable)} are not")
    for one in there:
        if one.unavailable:
            return [lack(TITLE, f"this machine lacks {', '.join(sorted(one.unavailable))}")]
    return [
        match(f"{TITLE}, start", "ms", [1000 * one.seconds for one in there],
              [1000 * one.seconds for one in absent], "without", LIMIT),
        match(f"{TITLE}, resident", "MiB", [one.kib / 1024 for one in there],
              [one.kib / 1024 for one in absent], "without", LIMIT),
        match(f"{TITLE}, after `backends`", "MiB", [one.kib_asked / 1024 for one in there],
              [one.kib_asked / 1024 for one in absent], "without", LIMIT),
    ]  # fmt: skip


def main() -> None:
    keep_off_the_meter_core()
    print(render(rows(int(sys.argv[1]) if len(sys.argv) > 1 else RUNS)))


if __name__ == "__main__":
    main()
