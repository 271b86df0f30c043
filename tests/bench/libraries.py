"""The cost of installed but unused optional libraries: none.

    python tests/bench/libraries.py [RUNS]

Runs of two agents alternate. One has this machine's libraries, with the test double of libpfring.
The other cannot see DPDK, libbpf and libpfring. Measures the time from process start to the first
answer on the bus, the resident memory then, and again after a `backends` request, which looks for
plugins and libraries. Needs root to hide the libraries.
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
from table import Row, compare_costs, render, unmeasured_row
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
    kib_after_backends: int
    unavailable: frozenset[str]


def build_doubles() -> Path:
    directory = OUT / "pfring"
    directory.mkdir(parents=True, exist_ok=True)
    doubles = {"pfring_double.c": "libpfring.so", "pfring_module_double.c": "pf_ring_module.so"}
    for source, library in doubles.items():
        path = REPOSITORY / "native" / "tests" / source
        run(*COMPILER, "-shared", "-fPIC", path, "-o", directory / library)
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
        return [
            unmeasured_row(TITLE, "libraries are hidden in a mount namespace, which takes root")
        ]
    doubles = build_doubles()
    double = {
        "LD_LIBRARY_PATH": str(doubles),
        "LD_PRELOAD": str(doubles / "pf_ring_module.so"),
    }
    present: list[Start] = []
    absent: list[Start] = []
    with tempfile.TemporaryDirectory() as directory:
        # Both use a directory of links, so that its cost is equal.
        all_of_them = without(Path(directory) / "all")
        none_of_them = without(Path(directory) / "none", *DPDK, *BPF)
        for _ in range(runs):
            present.append(start(all_of_them, double))
            absent.append(start(none_of_them, {}))
    for one in absent:
        if one.unavailable != {"dpdk", "pf_ring", "xdp"}:
            raise RuntimeError(
                f"hidden libraries are visible: only {set(one.unavailable)} are missing"
            )
    for one in present:
        if one.unavailable:
            return [
                unmeasured_row(TITLE, f"this machine lacks {', '.join(sorted(one.unavailable))}")
            ]
    return [
        compare_costs(
            f"{TITLE}, start",
            "ms",
            [1000 * one.seconds for one in present],
            [1000 * one.seconds for one in absent],
            "without",
            LIMIT,
        ),
        compare_costs(
            f"{TITLE}, resident",
            "MiB",
            [one.kib / 1024 for one in present],
            [one.kib / 1024 for one in absent],
            "without",
            LIMIT,
        ),
        compare_costs(
            f"{TITLE}, after `backends`",
            "MiB",
            [one.kib_after_backends / 1024 for one in present],
            [one.kib_after_backends / 1024 for one in absent],
            "without",
            LIMIT,
        ),
    ]


def main() -> None:
    keep_off_the_meter_core()
    print(render(rows(int(sys.argv[1]) if len(sys.argv) > 1 else RUNS)))


if __name__ == "__main__":
    main()
