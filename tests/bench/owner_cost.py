"""Measures what finding owners costs the programs of the host, and a replay.

    .venv/bin/python tests/bench/owner_cost.py [--rounds N] [--other CHECKOUT]

Each round measures the same operations twice, with a capture whose `[flows] owners` is `auto` and
with one where it is `off`, in alternating order. The capture is on an interface without traffic, so
the difference is that of the programs in the kernel. A round in which another agent's programs are
attached is repeated. The result is the median of the rounds' ratios.

The limit of one end is for a whole connection, of which only one end has an owner: the time that
one end adds, as a part of the time of both ends. The other end of that operation is no socket, so
its time is only about half of a connection. Its ratio is printed, without a limit.

CHECKOUT is one from before owners existed. Both cores replay the same file, alternately on the same
core. Exits with 1 if a limit is missed or could not be measured. Needs root.
"""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import os
import statistics
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import workbench
from pinned import METER_CORE, run_pinned

import netns
from agents import Fleet
from bus import Bus
from servers import NatsServer

LIMITS = {"both": 1.15, "udp": 1.10}
ONE_END_LIMIT = 1.08
TITLES = {
    "both": "TCP connect, accept, close, both ends on loopback",
    "one": "TCP connect, close, the peer is no socket",
    "udp": "UDP sendto and recv, loopback",
    "unix": "Unix socket, send and recv",
}
COUNTS = {"both": 100, "one": 100, "udp": 1000, "unix": 1000}  # operations of one block
BLOCKS = 5
REPLAY_LIMIT = 0.02
REPLAY_PACKETS, REPLAY_FLOWS = 2_000_000, 200_000
TUN, IDLE = "tun0", netns.HOST_DEVICE
TUN_ADDRESS = "10.99.0.1/30"
SOCK_OPS, PROG_QUERY, SYS_BPF = 3, 16, 321
REPEATS_MAX = 200

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(slots=True)
class Sides:
    """Nanoseconds of one operation, per round."""

    auto: list[float] = field(default_factory=list)
    off: list[float] = field(default_factory=list)

    def ratio(self) -> float:
        return statistics.median(a / b for a, b in zip(self.auto, self.off, strict=True))


# ---- the programs in the kernel -------------------------------------------------------------


def open_root_group() -> int:
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        words = line.split()
        if "cgroup2" in words[words.index("-") :]:
            return os.open(words[4], os.O_RDONLY | os.O_DIRECTORY)
    raise SystemExit("no control groups of version 2 are mounted")


def programs_attached(group: int) -> int:
    """Returns the number of sockops programs at the root, of all agents of this machine."""
    query = ctypes.create_string_buffer(struct.pack("=IIIIQI4x", group, SOCK_OPS, 0, 0, 0, 0), 64)
    if _libc.syscall(SYS_BPF, PROG_QUERY, query, len(query)) != 0:
        raise SystemExit("the kernel does not list the programs of a control group")
    return int(struct.unpack_from("=I", query, 24)[0])


# ---- the load ---------------------------------------------------------------------------------


class Load:
    """The program of owner_load.c, in the current network namespace."""

    def __init__(self, binary: Path) -> None:
        self._process = subprocess.Popen(
            ["taskset", "-c", str(METER_CORE), str(binary), TUN],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._read() == "ready"

    def _read(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit("owner_load ended")
        return line.strip()

    def measure(self, what: str) -> float:
        """Returns the median of some blocks, in nanoseconds."""
        assert self._process.stdin is not None
        times = []
        for _ in range(BLOCKS):
            self._process.stdin.write(f"{what} {COUNTS[what]}\n")
            self._process.stdin.flush()
            times.append(int(self._read()))
        return statistics.median(times)

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def build_load() -> Path:
    workbench.OUT.mkdir(exist_ok=True)
    binary = workbench.OUT / "owner_load"
    workbench.run(*workbench.COMPILER, workbench.HERE / "owner_load.c", "-o", binary)
    return binary


@contextmanager
def idle_network(wire: netns.Wire) -> Iterator[None]:
    wire.host_ip("tuntap", "add", TUN, "mode", "tun")
    wire.host_ip("addr", "add", TUN_ADDRESS, "dev", TUN)
    wire.host_ip("link", "set", TUN, "up")
    with netns.entered(wire.host):
        yield


# ---- rounds -----------------------------------------------------------------------------------


async def measure_side(bus: Bus, load: Load, host: str, group: int) -> dict[str, float] | None:
    """Returns the times while the host captures, or None if another agent's programs ran."""
    await bus.ok("start", {"interface": IDLE, "backend": "af_packet", "record": False}, host=host)
    wanted = 1 if host == "auto" else 0
    try:
        status = await bus.ok("status", host=host)
        if status["owners"]["found"] != (host == "auto"):
            raise SystemExit(f"owners are {status['owners']} with {host}")
        before = programs_attached(group)
        times = {what: await asyncio.to_thread(load.measure, what) for what in COUNTS}
        return times if before == programs_attached(group) == wanted else None
    finally:
        await bus.ok("stop", host=host)


async def measure_rounds(bus: Bus, load: Load, rounds: int) -> dict[str, Sides]:
    group, repeats = open_root_group(), 0
    sides = {what: Sides() for what in COUNTS}
    done = 0
    while done < rounds:
        order = ("auto", "off") if done % 2 else ("off", "auto")
        found: dict[str, Any] = {host: await measure_side(bus, load, host, group) for host in order}
        if None in found.values():
            repeats += 1
            if repeats > REPEATS_MAX:
                raise SystemExit("other agents' programs are attached all the time")
            await asyncio.sleep(0.2)
            continue
        for what, one in sides.items():
            one.auto.append(found["auto"][what])
            one.off.append(found["off"][what])
        done += 1
    os.close(group)
    print(f"{rounds} rounds; {repeats} repeated because of other agents")
    return sides


async def measure_costs(url: str, load: Load, rounds: int) -> bool:
    bus = await Bus.connect(url)
    sides = await measure_rounds(bus, load, rounds)
    await bus.close()
    good = True
    print(f"{'processor time of one operation':50}  {'off':>7}  {'auto':>7}  ratio  limit")
    for what, one in sides.items():
        limit = LIMITS.get(what)
        good &= limit is None or one.ratio() <= limit
        off, auto = statistics.median(one.off), statistics.median(one.auto)
        print(
            f"{TITLES[what]:50}  {off / 1000:4.2f} µs  {auto / 1000:4.2f} µs  {one.ratio():.3f}  "
            f"{limit or '-'}"
        )
    added = zip(sides["one"].auto, sides["one"].off, sides["both"].off, strict=True)
    part = statistics.median(1 + (auto - off) / whole for auto, off, whole in added)
    title = "TCP connect, accept, close, one of its ends"
    print(f"{title:68}  {part:.3f}  {ONE_END_LIMIT}")
    return good and part <= ONE_END_LIMIT


def measure_operations(rounds: int) -> bool:
    binary, wire = build_load(), netns.Wire()
    with tempfile.TemporaryDirectory() as name:
        try:
            wire.create()
            with idle_network(wire):
                server = NatsServer(Path(name) / "nats").start()
                fleet = Fleet(server, Path(name))
                fleet.prefix = wire.prefix
                for host in ("auto", "off"):
                    fleet.start(host, flows={"owners": host}, log={"level": "warning"})
                load = Load(binary)
                good = asyncio.run(measure_costs(server.url, load, rounds))
                load.close()
                fleet.dismiss()
                server.kill()
        finally:
            wire.delete()
    return good


# ---- replay -----------------------------------------------------------------------------------

BUILD = "import workbench as w; w.build_core(); w.build_driver('replay'); print(w.OUT, w.PLUGINS)"


def build_replay(checkout: Path) -> tuple[Path, Path]:
    """Returns the driver and the directory of the plug-ins of a checkout."""
    made = subprocess.run(
        [sys.executable, "-c", BUILD],
        cwd=checkout / "tests" / "bench",
        check=True,
        capture_output=True,
        text=True,
    )
    out, plugins = made.stdout.split()
    return Path(out) / "replay", Path(plugins)


def replay_cpu(built: Sequence[Path], trace: workbench.Trace) -> float:
    driver, plugins = built
    return run_pinned([driver, plugins, trace.path, "json", "262144", "65536"]).cpu_seconds


def measure_replay(other: Path, rounds: int) -> bool:
    workbench.build_generator()
    trace = workbench.make_synthetic("owners", REPLAY_PACKETS, REPLAY_FLOWS)
    here, there = build_replay(workbench.REPOSITORY), build_replay(other)
    sides = Sides()
    for number in range(rounds):
        pair = [(sides.auto, here), (sides.off, there)]
        for times, built in pair if number % 2 else reversed(pair):
            times.append(replay_cpu(built, trace))
    # The least time is the one that the rest of the machine disturbed least.
    change = min(sides.auto) / min(sides.off) - 1
    print(
        f"replay, {REPLAY_FLOWS // 1000} k flows, least of {rounds}: {min(sides.auto):.3f} s here, "
        f"{min(sides.off):.3f} s there, {change:+.1%}, limit ±{REPLAY_LIMIT:.0%}; "
        f"median of ratios {sides.ratio() - 1:+.1%}"
    )
    return abs(change) <= REPLAY_LIMIT


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--other", type=Path, help="a checkout from before owners existed")
    args = parser.parse_args()
    good = measure_operations(args.rounds)
    if args.other:
        good &= measure_replay(args.other.resolve(), args.rounds)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
