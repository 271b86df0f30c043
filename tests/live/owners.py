"""Control groups, known processes in them, and a score of the owners that records have.

    ┌ host ──────────────────────────┐ veth ┌ peer ──────────────────────────────────┐
    │ agent, servers in one group    ├──────┤ clients in another, or in a container: │
    │                                │      │ also its own namespace of processes    │
    └────────────────────────────────┘      └────────────────────────────────────────┘

A container is a process in its own network, process and cgroup namespace, in a control group with
the name that Docker gives it. No container engine is needed.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from deadlines import eventually_now

TRAFFIC = Path(__file__).with_name("owner_traffic.py")
ENDS = 384  # two for each flow of owner_traffic.py
SERVERS, LONG = 4, 4
CONTAINER = ("unshare", "--pid", "--fork", "--kill-child", "--cgroup")
CONTAINER_ID = "0123456789abcdef" * 4
POD = "01234567-89ab-cdef-0123-456789abcdef"

End = dict[str, Any]
_numbers = itertools.count(1)


class Groups:
    """Control groups of version 2 below one of the test."""

    def __init__(self) -> None:
        mount = next(
            words[4]
            for words in map(str.split, Path("/proc/self/mountinfo").read_text().splitlines())
            if "cgroup2" in words[words.index("-") :]
        )
        self._root = Path(mount)
        self._top = f"nst{os.getpid()}g{next(_numbers)}.slice"
        self._made: list[Path] = []

    def add(self, name: str) -> str:
        """Creates a group. Returns its path as records have it."""
        for part in (self._top, f"{self._top}/{name}"):
            path = self._root / part
            if path not in self._made:
                path.mkdir()
                self._made.append(path)
        return f"/{self._top}/{name}"

    def enter(self, group: str) -> None:
        """Moves this process, before it becomes another program."""
        Path(f"{self._root}{group}/cgroup.procs").write_text("0")

    def delete(self) -> None:
        """Waits until the last process has left: one that was killed may still be ending."""
        for path in reversed(self._made):
            eventually_now(partial(is_empty, path), f"{path} to be empty")
            path.rmdir()


def is_empty(group: Path) -> bool:
    return "populated 0" in (group / "cgroup.events").read_text()


@dataclass(slots=True)
class Traffic:
    """The processes of one end: servers or clients."""

    group: str
    process: subprocess.Popen[str]
    ends: list[End] = field(default_factory=list)

    def read(self) -> End:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, "the traffic program ended"
        end: End = json.loads(line)
        return end

    def stop(self) -> None:
        """Ends the processes, and reads the rest of their lines."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.ends += map(json.loads, self.process.stdout)
        self.process.wait()


@dataclass(slots=True)
class Stage:
    """Where the processes of a test run."""

    peer: Path  # the program of owner_peer.c
    groups: Groups
    running: list[Traffic] = field(default_factory=list)

    def start(self, group: str, prefix: Sequence[str], *words: str) -> Traffic:
        process = subprocess.Popen(
            [*prefix, sys.executable, str(TRAFFIC), str(self.peer), *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            preexec_fn=lambda: self.groups.enter(group),
        )
        self.running.append(Traffic(group, process))
        return self.running[-1]

    def servers(self, group: str, prefix: Sequence[str], address: str) -> tuple[Traffic, str]:
        """Returns when all listen."""
        traffic = self.start(group, prefix, "servers", address)
        started = [traffic.read() for _ in range(SERVERS)]
        return traffic, json.dumps({one["server"]: one["port"] for one in started})

    def clients(self, group: str, prefix: Sequence[str], address: str, ports: str) -> Traffic:
        """Returns when all but those that keep their connection have ended."""
        traffic = self.start(group, prefix, "clients", address, ports)
        kept = 0
        while kept < LONG:
            line = traffic.read()
            kept += "kept" in line
            traffic.ends += [line] if "case" in line else []
        return traffic

    def stop(self) -> None:
        for traffic in self.running:
            if traffic.process.poll() is None:
                traffic.stop()


@contextlib.contextmanager
def staged(directory: Path) -> Iterator[Stage]:
    peer = directory / "owner_peer"
    source = TRAFFIC.with_name("owner_peer.c")
    subprocess.run(["cc", "-O1", "-Wall", "-o", peer, source], check=True)
    stage = Stage(peer, Groups())
    try:
        yield stage
    finally:
        stage.stop()
        stage.groups.delete()


# ---- score ---------------------------------------------------------------------------------------


@dataclass(slots=True)
class Score:
    """Compares records with ends whose process and control group are known."""

    title: str
    rows: dict[str, Counter[str]] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)  # wrong without a hint

    def of(self, *cases: str) -> Counter[str]:
        return sum((self.rows.get(case, Counter()) for case in cases), Counter())

    @property
    def all(self) -> Counter[str]:
        return self.of(*self.rows)

    def add(self, row: str, end: End, group: str, owner: dict[str, Any] | None) -> None:
        counts = self.rows.setdefault(row, Counter())
        counts["ends"] += 1
        if owner is None or owner["pid"] is None:
            counts["unknown"] += 1
            return
        counts["cgroup"] += owner["cgroup"] == group
        counts["shared"] += owner["shared"]
        right = owner["pid"] == end["pid"]
        counts["right" if right else "wrong"] += 1
        hinted = owner["shared"] or owner["how"] in ("listener", "found")
        if owner["cgroup"] != group or not (right or hinted):
            self.wrong.append(f"{row}: {end} has {owner}")


def score(title: str, records: list[dict[str, Any]], clients: Traffic, servers: Traffic) -> Score:
    """Rows are the cases of both ends: `short` and `server short`."""
    result = Score(title)
    by_ports = {
        (one["protocol"], one["source_port"], one["dest_port"]): one
        for one in records
        if one["final"] and one["packets"]
    }
    case_of = {}
    for end in clients.ends:
        ports = (end["protocol"], end["port"], end["peer_port"])
        case_of[ports] = end["case"]
        result.add(end["case"], end, clients.group, owner_at("source", by_ports[ports]))
    for end in servers.ends:
        ports = (end["protocol"], end["peer_port"], end["port"])
        row = f"server {case_of[ports]}"
        result.add(row, end, servers.group, owner_at("dest", by_ports[ports]))
    return result


def owner_at(side: str, record: dict[str, Any]) -> dict[str, Any] | None:
    both = (record["process"], record["peer_process"])
    return next((one for one in both if one and one["side"] == side), None)


COLUMNS = (
    ("all", ()),
    ("short", ("short",)),
    ("prefork, inetd server", ("server prefork", "server inetd", "server long")),
    ("inherited", ("inherited",)),
)


def table(scores: Sequence[Score]) -> str:
    """right/wrong/unknown process, and right control group, as in the measured table."""
    head = ["place", *(name for name, _ in COLUMNS), "cgroup right"]
    rows = [head]
    for one in scores:
        counts = [one.of(*cases) if cases else one.all for _, cases in COLUMNS]
        cells = [f"{c['right']}/{c['wrong']}/{c['unknown']}" for c in counts]
        rows.append([one.title, *cells, str(one.all["cgroup"])])
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )
