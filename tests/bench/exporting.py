"""NetFlow and IPFIX: the encoders alone, and a session that exports to nfcapd.

A run counts only if the session lost nothing and nfcapd counted as many flows, packets and
octets as were sent, with correct sequence numbers. A run that is too fast for nfcapd is repeated
at a slower pace, and the slower figure counts.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import msgspec
import nfcapd
import softflowd
from engine import ConservationError
from pinned import run_pinned
from table import Row, compare_rates, rate_row, show_rate, unmeasured_row
from workbench import OUT, PLUGINS, Trace

ENCODE_GOAL_PER_SEC = 10e6
REPLAY_GOAL_PER_SEC = 2e6
SUSTAINED_GOAL_PER_SEC = 3e6
VERSIONS = {5: "NetFlow 5", 9: "NetFlow 9", 10: "IPFIX"}
# Flows expire by their timers while the file is read …
TIMED = ("table=131072", "idle=1000")
# … or all together at the end of the file.
KEPT = ("table=2097152",)
LARGE_MESSAGES = ("bytes=8900",)
# From fastest to slowest, until nfcapd's socket stops overflowing. The pace that nfcapd bears
# depends on the other load of the machine.
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


def encode_rows(runs: int) -> list[Row]:
    rates: dict[str, list[float]] = {}
    for _ in range(runs):
        for line in run_pinned([OUT / "export" / "encode", "0.5"]).output.splitlines():
            one = msgspec.json.decode(line)
            title = f"encode {VERSIONS[one['version']]}, {one['profile']}, M records/s"
            rates.setdefault(title, []).append(one["records_per_cpu_sec"])
    return [rate_row(title, found, ENCODE_GOAL_PER_SEC) for title, found in rates.items()]


def replay_rows(timed: Trace, kept: Trace, runs: int, peer: str | None) -> list[Row]:
    """Exports one-packet flows to nfcapd as they time out, and records that already existed."""
    if nfcapd.find() is None:
        return [unmeasured_row("export to nfcapd", "nfcapd is not installed")]
    rows: list[Row] = []
    for version, name in VERSIONS.items():
        whole: list[dict[str, Any]] = []
        sustained: list[dict[str, Any]] = []
        reference: list[float] = []
        for _ in range(runs):
            whole.append(replay(timed, version, TIMED))
            sustained.append(replay(kept, version, KEPT))
            if peer is not None and version == 9:
                measured = softflowd.replay(peer, timed, softflowd.FITTING_TABLE)
                reference.append(timed.packets / measured.seconds)
        title = f"one-packet flows to nfcapd, {name}, M records/s"
        rows.append(nfcapd_row(title, whole, "started", REPLAY_GOAL_PER_SEC))
        if reference:
            ours = [rate(one, "started", "sent_all") for one in whole]
            rows.append(compare_rates(f"{title}, compared", ours, reference, "softflowd", None))
        title = f"existing records to nfcapd, {name}, M/s"
        rows.append(nfcapd_row(title, sustained, "read_all", SUSTAINED_GOAL_PER_SEC))
    large = [replay(timed, 10, TIMED + LARGE_MESSAGES) for _ in range(runs)]
    title = "one-packet flows to nfcapd, IPFIX, messages of 8,900 bytes, M records/s"
    return [*rows, nfcapd_row(title, large, "started", REPLAY_GOAL_PER_SEC)]


def nfcapd_row(title: str, results: list[dict[str, Any]], since: str, goal: float) -> Row:
    """Rates until the last record was sent and, compared, until nfcapd had read it."""
    row = rate_row(title, [rate(result, since, "sent_all") for result in results], goal)
    taken = show_rate([rate(result, since, "taken_all") for result in results])
    return dataclasses.replace(row, reference=f"nfcapd {taken}")


def rate(result: dict[str, Any], since: str, until: str) -> float:
    """Records per second between two of: started, read_all, sent_all, taken_all."""
    return float(result["sent"]["records"] / (result[until] - result[since]))


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
    with nfcapd.collecting() as (port, log):
        command: list[str | Path] = [OUT / "export" / "send", PLUGINS, trace.path, str(version)]
        command += ["127.0.0.1", str(port), *options]
        result: dict[str, Any] = msgspec.json.decode(run_pinned(command).output)
        result["taken_all"] = max(nfcapd.drain(port), result["sent_all"])
    return result, nfcapd.read_counts(log)


def audit(trace: Trace, version: int, result: dict[str, Any], counted: dict[str, int]) -> None:
    sent = result["sent"]
    lost = sent["refused"] + sent["no_room"] + sent["lost_error"] + result["records_dropped"]
    ours = (sent["records"], sent["packets"], sent["octets"])
    theirs = (counted["Flows"], counted["Packets"], counted["Bytes"])
    wrong = counted["Sequence Errors"] + counted["Bad Packets"]
    if lost or wrong or ours != theirs or sent["packets"] != trace.packets:
        raise ConservationError(f"{trace.name}, version {version}: {result}, nfcapd {counted}")
