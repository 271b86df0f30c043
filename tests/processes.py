"""The state of processes in /proc: sleep, stops, sockets, descriptors, waits for a processor."""

from __future__ import annotations

import contextlib
import os
import re
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from deadlines import eventually_now

CAPTURE_THREADS = ("(sonde-", "(netsonde-dpdk")


def descriptors() -> Counter[str]:
    """Returns what the descriptors of this process refer to. To find those that a test leaves open,
    subtract the earlier ones: the garbage collector may close some of these meanwhile."""
    found: Counter[str] = Counter()
    for descriptor in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # that of the listing
            found[os.readlink(descriptor)] += 1
    return found


def asleep(pid: int) -> bool:
    """Returns whether all threads of the process and of its children are asleep."""
    try:
        for task in Path(f"/proc/{pid}/task").iterdir():
            state = (task / "stat").read_text().rpartition(")")[2].split()[0]
            children = map(int, (task / "children").read_text().split())
            if state != "S" or not all(map(asleep, children)):
                return False
    except (FileNotFoundError, ProcessLookupError):
        return False  # a thread or a child has just ended
    return True


def freeze(pid: int) -> None:
    """Sends SIGSTOP and returns when every thread has stopped; on a busy machine some run for a
    while."""
    os.kill(pid, signal.SIGSTOP)
    eventually_now(lambda: stopped(pid), f"process {pid} to stop")


def stopped(pid: int) -> bool:
    """Returns whether a signal has stopped all threads of the process."""
    try:
        states = [path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/stat")]
    except (FileNotFoundError, ProcessLookupError):
        return False  # a thread has just ended
    return all(state.rpartition(")")[2].split()[0] == "T" for state in states)


def capture_threads(pid: int | None = None) -> Iterator[tuple[str, bool]]:
    """Yields the id of each capture thread of the agents that this process has started, and whether
    the thread is asleep. A thread that has packets to read runs or waits for a processor."""
    for task in Path(f"/proc/{pid or os.getpid()}/task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has just ended
            name, _, fields = (task / "stat").read_text().rpartition(")")
            if name.partition(" ")[2].startswith(CAPTURE_THREADS):
                yield task.name, fields.split()[0] == "S"
            for child in map(int, (task / "children").read_text().split()):
                yield from capture_threads(child)


def run_delay_sec(*pids: int) -> float:
    """Returns how long all threads of the processes were ready to run and had no processor."""
    total_ns = 0
    for pid in pids:
        for task in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has just ended
                total_ns += int((task / "schedstat").read_text().split()[1])
    return total_ns / 1e9


def has_read_all(pid: int) -> bool:
    """Returns whether the process waits and has handled all that its TCP sockets received. Data
    passes the socket first, so the socket is checked first."""
    links = [os.readlink(one) for one in Path(f"/proc/{pid}/fd").iterdir()]
    own = {found[1] for link in links if (found := re.fullmatch(r"socket:\[(\d+)\]", link))}
    rows = [line.split() for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]]
    unread = [row for row in rows if row[9] in own and not row[4].endswith(":00000000")]
    return not unread and asleep(pid)
