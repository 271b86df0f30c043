"""NetFlow and IPFIX: the encoders by themselves, and a session that exports to nfcapd.

A run is void unless nothing was lost on our side and nfcapd counts as many flows, packets
and octets as were sent, without one wrong sequence number. A run that is too fast for
nfcapd is repeated more slowly, and the slower figure is the one that counts.
"""

from __future__ import annotations

import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import softflowd
from engine import ConservationError
from pinned import run_pinned
from table import Row, compare, lack, reach
from workbench import OUT, PLUGINS, Trace

ENCODE_GOAL_PER_SEC = 10e6
REPLAY_GOAL_PER_SEC = 2e6
SUSTAINED_GOAL_PER_SEC = 3e6
VERSIONS = {5: "NetFlow 5", 9: "NetFlow 9", 10: "IPFIX"}
# Flows leave by their timers while the file is read …
TIMED = ("table=131072", "idle=1000")
# … or all together when it has been read.
KEPT = ("table=2097152",)
LARGE_MESSAGES = ("bytes=8900",)
# From the fastest on, until nfcapd's socket overflows no more: what nfcapd can take depends
# on who else uses the machine.
PACES_BYTES_PER_SEC = (
    260_000_000,
    200_000_000,
    150_000_000,
    140_000_000,
    130_000_000,
    120_000_000,
    110_000_000,
    80_000_000,
)
RECEIVE_BUFFER_BYTES = 128 << 20
COLLECTOR_READY_SEC = 10.0


def find_collector() -> str | None:
    return shutil.which("nfcapd")


def encode_rows(runs: int) -> list[Row]:
    rates: dict[str, list[float]] = {}
    for _ in range(runs):
        for line in run_pinned([OUT / "export" / "encode", "0.5"]).output.splitlines():
            one = msgspec.json.decode(line)
            title = f"encode {VERSIONS[one['version']]}, {one['profile']}, M records/s"
            rates.setdefault(title, []).append(one["records_per_cpu_sec"])
    return [reach(title, found, ENCODE_GOAL_PER_SEC) for title, found in rates.items()]


def replay_rows(timed: Trace, kept: Trace, runs: int, peer: str | None) -> list[Row]:
    """One-packet flows to nfcapd as they time out, and records that existed when it began."""
    if find_collector() is None:
        return [lack("export to nfcapd", "nfcapd is not installed")]
    rows: list[Row] = []
    for version, name in VERSIONS.items():
        whole: list[float] = []
        sustained: list[float] = []
        beside: list[float] = []
        for _ in range(runs):
            whole.append(rate(replay(timed, version, TIMED)))
            sustained.append(rate_after_reading(replay(kept, version, KEPT)))
            if peer is not None and version == 9:
                measured = softflowd.replay(peer, timed, softflowd.FITTING_TABLE)
                beside.append(timed.packets / measured.seconds)
        title = f"one-packet flows to nfcapd, {name}, M records/s"
        rows.append(reach(title, whole, REPLAY_GOAL_PER_SEC))
        if beside:
            rows.append(compare(f"{title}, beside", whole, beside, "softflowd", None))
        rows.append(
            reach(f"existing records to nfcapd, {name}, M/s", sustained, SUSTAINED_GOAL_PER_SEC)
        )
    large = [rate(replay(timed, 10, TIMED + LARGE_MESSAGES)) for _ in range(runs)]
    title = "one-packet flows to nfcapd, IPFIX, messages of 8,900 bytes, M records/s"
    return [*rows, reach(title, large, REPLAY_GOAL_PER_SEC)]


def rate(result: dict[str, Any]) -> float:
    return float(result["sent"]["records"] / result["seconds"])


def rate_after_reading(result: dict[str, Any]) -> float:
    return float(result["sent"]["records"] / (result["seconds"] - result["read_sec"]))


def replay(trace: Trace, version: int, options: tuple[str, ...]) -> dict[str, Any]:
    for pace in PACES_BYTES_PER_SEC:
        result, counted = replay_at(trace, version, (*options, f"pace={pace}"))
        if counted["Flows"] == result["sent"]["records"]:
            break
    audit(trace, version, result, counted)
    return result


def replay_at(
    trace: Trace, version: int, options: tuple[str, ...]
) -> tuple[dict[str, Any], dict[str, int]]:
    with collecting(OUT / "nfcapd") as (port, collector):
        command: list[str | Path] = [OUT / "export" / "send", PLUGINS, trace.path, str(version)]
        command += ["127.0.0.1", str(port), *options]
        result: dict[str, Any] = msgspec.json.decode(run_pinned(command).output)
        drain(port)
    return result, read_counts(collector)


def audit(trace: Trace, version: int, result: dict[str, Any], counted: dict[str, int]) -> None:
    sent = result["sent"]
    lost = sent["refused"] + sent["no_room"] + sent["lost_error"] + result["records_dropped"]
    ours = (sent["records"], sent["packets"], sent["octets"])
    theirs = (counted["Flows"], counted["Packets"], counted["Bytes"])
    wrong = counted["Sequence Errors"] + counted["Bad Packets"]
    if lost or wrong or ours != theirs or sent["packets"] != trace.packets:
        raise ConservationError(f"{trace.name}, version {version}: {result}, nfcapd {counted}")


# ---- nfcapd -----------------------------------------------------------------------------------


@contextmanager
def collecting(directory: Path) -> Iterator[tuple[int, Path]]:
    """(port, log); it has ended when the block has."""
    shutil.rmtree(directory, ignore_errors=True)
    (directory / "flows").mkdir(parents=True)
    log = directory / "log"
    port = free_port()
    command = ["nfcapd", "-4", "-b", "127.0.0.1", "-p", str(port), "-t", "86400"]
    command += ["-w", str(directory / "flows"), "-B", str(RECEIVE_BUFFER_BYTES)]
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT)
    try:
        deadline = time.monotonic() + COLLECTOR_READY_SEC
        while "Startup nfcapd" not in log.read_text():
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"nfcapd does not start:\n{log.read_text()}")
            time.sleep(0.01)
        yield port, log
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()
        shutil.rmtree(directory / "flows")


def drain(port: int) -> None:
    """Until nfcapd has read all that its socket holds."""
    while True:
        table = Path("/proc/net/udp").read_text()
        found = re.search(rf":{port:04X} \S+ \S+ [0-9A-F]+:([0-9A-F]+)", table)
        if found is None or int(found[1], 16) == 0:
            return
        time.sleep(0.01)


def read_counts(log: Path) -> dict[str, int]:
    counts: dict[str, int] = {}
    for line in re.findall(r"^Ident: 'none' (.*)$", log.read_text(), re.MULTILINE):
        for name, count in re.findall(r"([A-Z][A-Za-z ]*): (\d+)", line):
            counts[name] = counts.get(name, 0) + int(count)
    return counts


def free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
