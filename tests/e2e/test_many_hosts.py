"""Client commands on 1,000 simulated hosts: every outcome is complete, and memory is bounded.

Nothing here measures time: tests/bench/fleet.py does.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from agents import COMMAND, client_flags
from processes import freeze
from servers import NatsServer
from simulated_fleet import FLOWS_MAX, Group, simulated

HOSTS = 1000
MEMORY_MAX_KB = 200 << 10
POLICY = """[[policy]]
name = "web"
select = "role = web and fact.kernel >= 6"
capture = { interface = "eth1", backend = "af_packet" }
rollout = { max_silent = "10%" }
"""


@dataclass(frozen=True)
class Done:
    """rows: the objects of `--json`. lines: of a table."""

    code: int
    rows: list[dict[str, object]]
    summary: str
    peak_kb: int
    lines: int


def high_water_kb(pid: int) -> int:
    """The peak memory of a program. wait4 has also that of its parent before the exec."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in status.splitlines() if "VmHWM" in line), 0)


class Site:
    def __init__(self, server: NatsServer, groups: list[Group], directory: Path) -> None:
        self.server = server
        self.groups = groups
        self.directory = directory

    def run(self, *words: str, form: tuple[str, ...] = ("--json",)) -> Done:
        out, err = self.directory / "out", self.directory / "err"
        with out.open("wb") as stdout, err.open("wb") as stderr:
            process = subprocess.Popen(
                [str(COMMAND), *words, *form, *client_flags(self.server.url)],
                stdout=stdout,
                stderr=stderr,
                env={**os.environ, "XDG_STATE_HOME": str(self.directory)},
            )
            peak_kb = 0
            while process.poll() is None:
                peak_kb = max(peak_kb, high_water_kb(process.pid))
                time.sleep(0.02)
        lines = out.read_text().splitlines()
        rows = [json.loads(line) for line in lines if line.startswith("{")]
        summary = err.read_text().splitlines()[-1]
        return Done(process.returncode, rows, summary, peak_kb, len(lines))

    def slow_consumers(self) -> int:
        return (self.server.directory / "nats-server.log").read_text().count("Slow Consumer")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    directory = tmp_path_factory.mktemp("site")
    server = NatsServer(directory / "nats", config=f'jetstream {{ store_dir: "{directory}" }}')
    server.start()
    try:
        with simulated(server.url, HOSTS, directory, processes=2) as groups:
            yield Site(server, groups, directory)
    finally:
        server.kill()


@pytest.mark.parametrize("words", [("ps",), ("status",), ("flows",)], ids=lambda words: words[0])
def test_every_host_is_in_the_outcome(site: Site, words: tuple[str, ...]) -> None:
    done = site.run(*words, "--timeout", "30")
    assert done.summary.startswith(f"{HOSTS} asked: {HOSTS} ok"), done.summary
    assert done.code == 0
    assert [row["host"] for row in done.rows] == sorted(
        name for group in site.groups for name in group.hosts
    )
    assert done.peak_kb <= MEMORY_MAX_KB
    assert site.slow_consumers() == 0


def test_table_of_every_flow_needs_little_memory(site: Site) -> None:
    """90 MB of replies are a table of 100,000 rows."""
    done = site.run("flows", "--timeout", "30", form=())
    assert done.summary.startswith(f"{HOSTS} asked: {HOSTS} ok"), done.summary
    assert done.lines == HOSTS * FLOWS_MAX + 1
    assert done.peak_kb <= MEMORY_MAX_KB


def test_selector_chooses_by_label_and_fact(site: Site) -> None:
    selector = "site = s03 and role = db and fact.cpus >= 8"
    done = site.run("status", "--timeout", "30", "--select", selector)
    assert {str(row["host"]) for row in done.rows} == {
        f"h{number:05}" for number in range(HOSTS) if number % 20 == 3 and number % 4 == 3
    }


def test_silent_hosts_are_named_exactly(site: Site) -> None:
    silent = site.groups[1]
    freeze(silent.process.pid)
    try:
        done = site.run("status", "--timeout", "12")
    finally:
        os.kill(silent.process.pid, signal.SIGCONT)
    assert done.code == 1
    absent = {row["host"]: row["absent"] for row in done.rows if "absent" in row}
    assert absent == dict.fromkeys(silent.hosts, "no answer")
    assert len(done.rows) == HOSTS


def test_policy_reaches_every_host(site: Site) -> None:
    policy = site.directory / "fleet.toml"
    policy.write_text(POLICY)
    done = site.run("apply", str(policy))
    assert done.summary == f"revision 1, {HOSTS} hosts: {HOSTS} applied"
    assert done.code == 0
    assert Counter(row["policy"] for row in done.rows) == {"web": 750, "": 250}
    assert done.peak_kb <= MEMORY_MAX_KB
    assert site.run("drift").summary == f"{HOSTS} hosts, revision 1: 0 with drift"
