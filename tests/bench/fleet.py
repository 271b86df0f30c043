"""Measures the client commands on simulated hosts: `fleet.py [HOSTS …] [--runs N]` (1000 5000).

Per number of hosts: one nats-server with JetStream, simulated agents (tests/simulated_fleet.py),
and each command as a process. The exit code is 1 if a host is missing in an outcome, the server
cut a slow consumer, or a limit was missed. The limits hold for 1,000 hosts; run it on an idle
machine.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from table import KEPT, MISSED, Row, render

from agents import COMMAND, client_flags
from servers import NatsServer
from simulated_fleet import simulated

MEMORY_MAX_MB = 200.0
WAIT = ("--timeout", "10")  # the simulated hosts of one process share a core
HOSTS_PER_PROCESS = 2500
POLICY = """[[policy]]
name = "web"
select = "role = web and fact.kernel >= 6"
capture = {{ interface = "eth{0}", backend = "af_packet" }}
"""


@dataclass(frozen=True)
class Measured:
    """One command. limit_sec: for 1,000 hosts."""

    words: Sequence[str]
    limit_sec: float | None = None


COMMANDS = (
    Measured(("ps", *WAIT), 1.0),
    Measured(("status", *WAIT), 2.0),
    Measured(("top", "-n", "1", *WAIT)),
    Measured(("flows", "-n", "20", *WAIT)),
    Measured(("flows", *WAIT)),
    Measured(("drift",)),
)


@dataclass
class Result:
    seconds: list[float] = field(default_factory=list)
    cpu_sec: list[float] = field(default_factory=list)
    memory_mb: float = 0.0
    problems: list[str] = field(default_factory=list)

    def run(self, words: Sequence[str], url: str, expected: str, directory: Path) -> None:
        """Runs a command. expected: the start of the last line on standard error."""
        out, err = directory / "out", directory / "err"
        began = time.monotonic()
        with out.open("wb") as stdout, err.open("wb") as stderr:
            process = subprocess.Popen(
                [str(COMMAND), *words, *client_flags(url)],
                stdout=stdout,
                stderr=stderr,
                env={**os.environ, "XDG_STATE_HOME": str(directory)},
            )
            _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        self.seconds.append(time.monotonic() - began)
        self.cpu_sec.append(usage.ru_utime + usage.ru_stime)
        self.memory_mb = max(self.memory_mb, usage.ru_maxrss / 1024)
        last = (err.read_text().splitlines() or [""])[-1]
        if process.returncode != 0 or not last.startswith(expected):
            self.problems.append(f"exit {process.returncode}: {last}")


def row(name: str, hosts: int, result: Result, limit_sec: float | None) -> Row:
    """The limits hold for 1,000 hosts and fewer."""
    limits, missed = [], list(result.problems)
    middle = statistics.median(result.seconds)
    if limit_sec is not None and hosts <= 1000:
        limits.append(f"≤ {limit_sec:g} s")
        if middle > limit_sec:
            missed.append("too slow")
    if hosts <= 1000:
        limits.append(f"≤ {MEMORY_MAX_MB:g} MiB")
        if result.memory_mb > MEMORY_MAX_MB:
            missed.append("too much memory")
    span = f"{middle:.2f} ({min(result.seconds):.2f}–{max(result.seconds):.2f}) s"
    cost = f"{statistics.median(result.cpu_sec):.2f} s of CPU, {result.memory_mb:.0f} MiB"
    verdict = f"{MISSED}: {missed[0]}" if missed else KEPT
    return Row(f"{name}, {hosts} hosts", span, cost, limit=", ".join(limits), verdict=verdict)


def measure(hosts: int, runs: int, directory: Path) -> list[Row]:
    server = NatsServer(directory / "nats", config=f'jetstream {{ store_dir: "{directory}/js" }}')
    server.start()
    rows = []
    try:
        with simulated(server.url, hosts, directory, -(-hosts // HOSTS_PER_PROCESS)):
            for one in COMMANDS:
                result = Result()
                asked = f"{hosts} asked: {hosts} ok"
                expected = f"{hosts} hosts" if one.words == ("drift",) else asked
                for _ in range(runs):
                    result.run(one.words, server.url, expected, directory)
                name = " ".join(one.words[: -len(WAIT)] if WAIT[0] in one.words else one.words)
                rows.append(row(name, hosts, result, one.limit_sec))
            applied = Result()
            for number in range(1, runs + 1):
                policy = directory / "fleet.toml"
                policy.write_text(POLICY.format(number))
                expected = f"revision {number}, {hosts} hosts: {hosts} applied"
                applied.run(("apply", str(policy)), server.url, expected, directory)
            rows.append(row("apply", hosts, applied, 60.0))
    finally:
        server.kill()
    log = (server.directory / "nats-server.log").read_text()
    cuts = log.count("Slow Consumer")
    verdict = KEPT if not cuts else MISSED
    rows.append(Row(f"slow consumers cut, {hosts} hosts", str(cuts), limit="0", verdict=verdict))
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("hosts", type=int, nargs="*", default=[1000, 5000])
    parser.add_argument("--runs", type=int, default=5)
    args = parser.parse_args()
    rows = []
    for hosts in args.hosts:
        with tempfile.TemporaryDirectory(prefix="netsonde-fleet-") as name:
            rows += measure(hosts, args.runs, Path(name))
    print(render(rows))
    return 1 if any(one.verdict.startswith(MISSED) for one in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
