"""The cost of the capture buffer, its sealing rate, and the time of a query.

    python tests/bench/recorder.py [RUNS]

Recording is compared with metering of the same 512-byte packets, captured whole. Live, over a
veth pair, a packet costs the time of the kernel's receiving thread and of the capture thread. In
a replay a packet costs next to nothing. The one-time cost of the buffer's first pages is
excluded. Sealing is compared with openssl's own loop on the same core, a query for one host with
a plain scan of the same full buffer.
"""

from __future__ import annotations

import os
import shutil
import statistics
import sys
from pathlib import Path
from typing import Any

import msgspec
import workbench
from engine import ConservationError
from pinned import METER_CORE, PREFIX, keep_off_the_meter_core, run_pinned
from table import KEPT, MISSED, Row, compare_costs, compare_rates, render, unmeasured_row
from workbench import OUT, PLUGINS

sys.path.insert(0, str(Path(__file__).resolve().parent / "xdp"))

import live

RECORDING_LIMIT = 1.15
SEAL_RATIO = 0.85
QUERY_LIMIT_SEC = 0.5
BUFFER_MIB = 64
FULL_BUFFER_MIB = 1024
SEAL_BYTES = 1 << 20  # the same as in store.c
LIVE_SEC = 1.5
LIVE_FLOWS = 16384
RATE_PER_SEC = 100_000
TITLE = "recording 512-byte packets"


def ask_store(*words: object) -> dict[str, Any]:
    output = run_pinned([OUT / "store", PLUGINS, *map(str, words)]).output
    result: dict[str, Any] = msgspec.json.decode(output)
    return result


def replay_row() -> Row:
    """Only a goal: the bytes of a packet go to memory, which takes longer than metering."""
    result = ask_store("record", BUFFER_MIB)
    if not result["packets"] == result["captured"] == result["recorded"]:
        raise ConservationError(f"recording: {result}")
    costs = result["recording_ns"], result["alone_ns"]
    return compare_costs(
        f"{TITLE}, replay", "ns", *costs, "metering alone", RECORDING_LIMIT, goal=True
    )


def live_rows(runs: int) -> list[Row]:
    whole: dict[str, list[float]] = {name: [] for name in live.WHOLE}
    threads: dict[str, list[float]] = {name: [] for name in live.WHOLE}
    with live.short_turns(), live.wire():
        for _ in range(runs):
            for name in live.WHOLE:
                with live.Reader(name) as reader:
                    run = reader.offer(RATE_PER_SEC, LIVE_SEC, "512", LIVE_FLOWS)
                if run.taken < run.offered / 2:
                    raise ConservationError(f"{name}: {run.taken} packets of {run.offered}")
                whole[name].append(run.kernel_ns + run.capture_ns)
                threads[name].append(run.capture_ns)
    return [
        compare_costs(
            f"{TITLE}, {part}",
            "ns",
            of["recording"],
            of["metering"],
            "metering alone",
            RECORDING_LIMIT,
            goal=goal,
        )
        for part, of, goal in (("live", whole, False), ("live, without the kernel", threads, True))
    ]


def openssl_rate() -> float:
    """Bytes per second of openssl's own loop, with blocks of an extent's size."""
    command = ("openssl", "speed", "-seconds", "1", "-bytes", str(SEAL_BYTES), "-evp",
               "aes-256-gcm")  # fmt: skip
    last = workbench.run(*PREFIX, *command).splitlines()[-1]
    return float(last.split()[-1].removesuffix("k")) * 1000


def seal_row(runs: int) -> Row:
    ours, theirs = [], []
    for _ in range(runs):
        ours.append(ask_store("seal")["mb_per_s"] * 1e6)
        theirs.append(openssl_rate())
    return compare_rates(
        "sealing extents of 1 MiB, MB/s", ours, theirs, "openssl speed", SEAL_RATIO
    )


def query_row(runs: int) -> Row:
    """Finds the same packets by index, and by an expression that the index does not support."""
    answers = [ask_store("query", FULL_BUFFER_MIB) for _ in range(runs)]
    for answer in answers:
        if not 0 < answer["indexed"]["packets"] == answer["scanned"]["packets"]:
            raise ConservationError(f"one host: {answer}")
    indexed, scanned = (
        statistics.median(answer[way]["seconds"] for answer in answers)
        for way in ("indexed", "scanned")
    )
    return Row(
        "one host in a full buffer of 1 GiB",
        f"{indexed * 1000:.1f} ms",
        f"plain scan {scanned * 1000:.0f} ms",
        f"{scanned / indexed:.0f}×",
        f"≤ {QUERY_LIMIT_SEC * 1000:g} ms",
        KEPT if indexed <= QUERY_LIMIT_SEC else MISSED,
    )


def rows(runs: int) -> list[Row]:
    workbench.build_driver("store")
    made = [replay_row()]
    missing = [tool for tool in ("clang", "ethtool") if shutil.which(tool) is None]
    if os.geteuid() != 0:
        made.append(unmeasured_row(f"{TITLE}, live", "needs root"))
    elif missing:
        made.append(unmeasured_row(f"{TITLE}, live", f"{missing[0]} is not installed"))
    else:
        live.build()
        made += live_rows(runs)
    return [*made, seal_row(runs), query_row(min(runs, 3))]


def main() -> None:
    keep_off_the_meter_core()
    workbench.build_core()
    print(f"meter on core {METER_CORE}")
    print(render(rows(int(sys.argv[1]) if len(sys.argv) > 1 else 5)))


if __name__ == "__main__":
    main()
