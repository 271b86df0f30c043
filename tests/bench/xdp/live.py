"""Live metering: the cost of a packet, and the packets per second captured without loss.

    live.py [--runs N] [--sizes 64 512 imix] [--flows N] [--cost-rate N] [--readers NAME…]

A generator on the first core sends over a veth pair. The kernel's receiving thread and the reader
share the last core, as they do under load. Cost: processor time per packet of the kernel's
receiving thread and of the reader (with its DPDK process), less that of the kernel alone, at a
rate that every reader bears. Lossless: the highest offered rate with at most 0.5 % loss.
Saturated: the captured rate when more is offered than possible. Runs of all readers alternate.
Figures are medians. Read them as ratios.

The three processes run with priority over all others (SCHED_RR, 3 ms slices). For cost and
lossless the receiving thread also has priority over the reader, like an interrupt: a veth ring
holds 256 frames, a quarter of a millisecond. Saturated, it would never yield to the reader, so
both have equal priority. For each offered rate the best of eight short tries counts, because a
virtual machine often loses a core for a millisecond without a sign. If the loss shows (steal in
/proc/stat), the try is repeated.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import workbench  # noqa: E402

run = workbench.run

CORES = sorted(os.sched_getaffinity(0))
SOURCE_CORE, READER_CORE = CORES[0], CORES[-1]
SENDER, RECEIVER = f"sondeb{os.getpid()}s", f"sondeb{os.getpid()}r"
OUT_DEVICE, IN_DEVICE = "out0", "in0"
BUILT = workbench.OUT / "xdp"
SIZES = ("64", "512", "imix")
COST_RATE, COST_SEC, COSTS = 300_000, 1.0, 2
RATES = [100_000 * 1.1**step for step in range(42)]
WARM_RATE, WARM_SEC = 400_000, 0.3
TRIES, TRY_SEC = 8, 0.2
FULLS = 5
LOSS_MOST = 0.005
STEAL_TICKS_MOST, REPEATS = 1, 4  # ticks of 10 ms, of both cores together
ABOVE_READER, EQUAL_TO_READER = 2, 1  # SCHED_RR priorities of the receiving thread
SETTLE_SEC = 0.3
DRAIN_SEC = 0.1  # until frames in flight arrive
TURN_PATH = Path("/proc/sys/kernel/sched_rr_timeslice_ms")
TURN_MS = 3

METER = [BUILT / "meter", workbench.PLUGINS]
MINIMAL = BUILT / "minimal"
READERS: dict[str, list[str | Path]] = {
    "kernel alone": [],
    "minimal TPACKET_V3": [MINIMAL, "af_packet", IN_DEVICE],
    "pcap": [*METER, "pcap", IN_DEVICE],
    "dpdk": [*METER, "dpdk", IN_DEVICE],
    "xdp, packets": [*METER, "xdp", IN_DEVICE, "ether[0] >= 0"],
    "af_packet": [*METER, "af_packet", IN_DEVICE],
    "xdp, added up": [*METER, "xdp", IN_DEVICE],
    "minimal AF_XDP": [MINIMAL, "af_xdp", IN_DEVICE, BUILT / "redirect.o"],
    "xdp, dedicated": [*METER, "xdp", IN_DEVICE, "dedicated"],
}

# These readers capture whole packets, as a recording needs them. See recorder.py.
WHOLE: dict[str, list[str | Path]] = {
    "metering": [*METER, "af_packet", IN_DEVICE, "", "0"],
    "recording": [*METER, "af_packet", IN_DEVICE, "", "16"],
}


def missing() -> str | None:
    """Returns why measuring is impossible on this machine, or None."""
    if os.geteuid() != 0:
        return "needs root: network namespaces and eBPF"
    return "needs two cores" if len(CORES) < 2 else None


def build() -> None:
    workbench.build_core()
    for target in ("backend_af_packet", "backend_pcap", "backend_dpdk", "backend_xdp"):
        workbench.run("cmake", "--build", workbench.CORE, "--parallel", "2", "--target", target)
    BUILT.mkdir(exist_ok=True)
    workbench.build_driver("xdp/meter")
    for program in ("generator", "minimal"):
        source = HERE / f"{program}.c"
        workbench.run(*workbench.COMPILER, source, "-o", BUILT / program, "-lbpf")
    redirect = workbench.REPOSITORY / "native" / "backend" / "xdp" / "dedicated.bpf.c"
    headers = f"-I/usr/include/{os.uname().machine}-linux-gnu"
    for source, built in ((HERE / "generator.bpf.c", "generator.o"), (redirect, "redirect.o")):
        workbench.run("clang", "-O2", "-g", "-target", "bpf", "-mcpu=v3", headers, "-c",
                      source, "-o", BUILT / built)  # fmt: skip


def inside(namespace: str, core: int, *command: str | Path) -> list[str]:
    first = ["chrt", "-r", "1", "taskset", "-c", str(core)]
    return ["ip", "netns", "exec", namespace, *first, *map(str, command)]


@contextmanager
def short_turns() -> Iterator[None]:
    before = TURN_PATH.read_text()
    TURN_PATH.write_text(str(TURN_MS))
    try:
        yield
    finally:
        TURN_PATH.write_text(before)


@contextmanager
def wire(*, threaded: bool = True) -> Iterator[None]:
    """The veth pair. Threaded: a kernel thread, pinned to the reader's core, polls the receiving
    end. Otherwise the sender's own time is used."""
    try:
        for namespace in (SENDER, RECEIVER):
            run("ip", "netns", "add", namespace)
            run("ip", "netns", "exec", namespace, "sysctl", "-qw",
                "net.ipv6.conf.default.disable_ipv6=1")  # fmt: skip
        run("ip", "link", "add", OUT_DEVICE, "netns", SENDER, "type", "veth",
            "peer", "name", IN_DEVICE, "netns", RECEIVER)  # fmt: skip
        run("ip", "-n", SENDER, "link", "set", OUT_DEVICE, "up")
        run("ip", "-n", RECEIVER, "link", "set", IN_DEVICE, "up")
        run(*inside(RECEIVER, READER_CORE, "ethtool", "-K", IN_DEVICE, "gro", "on"))
        polled = f"echo {int(threaded)} > /sys/class/net/{IN_DEVICE}/threaded"
        run(*inside(RECEIVER, READER_CORE, "sh", "-c", polled))
        yield
    finally:
        for namespace in (SENDER, RECEIVER):
            subprocess.run(["ip", "netns", "del", namespace], check=False, capture_output=True)


def receiving_thread() -> Path:
    """Returns its /proc directory. A new thread starts when a program is attached to the device."""
    found = subprocess.check_output(["pgrep", f"napi/{IN_DEVICE}-"], text=True).split()
    (pid,) = found
    workbench.run("taskset", "-pc", str(READER_CORE), pid)
    thread = Path("/proc") / pid
    prioritize(thread, EQUAL_TO_READER)
    return thread


def prioritize(thread: Path, priority: int) -> None:
    workbench.run("chrt", "-r", "-p", str(priority), thread.name)


def stolen_ticks() -> int:
    """Processor time, over all cores, that the machine's host gave to others."""
    return int(Path("/proc/stat").read_text().split("\n", 1)[0].split()[8])


def on_processor_ns(thread: Path) -> int:
    return int((thread / "schedstat").read_text().split()[0])


def children_ns(process: subprocess.Popen[str]) -> int:
    """Processor time of the reader's child processes: the `dpdk` one receives the packets."""
    listed = Path(f"/proc/{process.pid}/task").glob("*/children")
    children = [Path("/proc") / pid for one in listed for pid in one.read_text().split()]
    return sum(on_processor_ns(task) for child in children for task in child.glob("task/*"))


def capturing_ns(process: subprocess.Popen[str] | None) -> int:
    """Processor time of the capture thread alone."""
    tasks = Path(f"/proc/{process.pid}/task").iterdir() if process else ()
    return sum(on_processor_ns(task) for task in tasks
               if (task / "comm").read_text().startswith("sonde-cap"))  # fmt: skip


def received() -> int:
    shown = workbench.run("ip", "-n", RECEIVER, "-j", "-s", "link", "show", "dev", IN_DEVICE)
    return int(json.loads(shown)[0]["stats64"]["rx"]["packets"])


def send(size: str, rate: float, seconds: float, flows: int) -> tuple[int, float]:
    """Returns the number of frames sent and the seconds this took."""
    generator = BUILT / "generator"
    command = inside(SENDER, SOURCE_CORE, generator, f"{generator}.o", OUT_DEVICE, size,
                     str(round(rate)), str(seconds), str(flows))  # fmt: skip
    said = json.loads(workbench.run(*command))
    return int(said["frames"]), float(said["seconds"])


@dataclass(frozen=True)
class Trial:
    """The result of offering frames at one rate for a while."""

    offered: int
    seconds: float
    taken: int
    stolen: int  # ticks
    kernel_ns: float  # receiving thread, per captured packet
    capture_ns: float  # capture thread, per captured packet
    cost_ns: float  # kernel and reader, per captured packet

    @property
    def lossless(self) -> bool:
        return self.taken >= self.offered * (1 - LOSS_MOST)

    @property
    def disturbed(self) -> bool:
        return self.stolen > STEAL_TICKS_MOST

    @property
    def rate(self) -> float:
        return self.offered / self.seconds

    @property
    def taken_rate(self) -> float:
        return self.taken / self.seconds


class Reader:
    """A running reader. "kernel alone" runs no process."""

    def __init__(self, name: str) -> None:
        self.process: subprocess.Popen[str] | None = None
        self.discarded = 0
        if command := (READERS | WHOLE)[name]:
            self.process = subprocess.Popen(
                inside(RECEIVER, READER_CORE, *command),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                bufsize=1,
            )
            self.answer("ready")
        time.sleep(SETTLE_SEC)
        self.thread, self.begun = receiving_thread(), received()

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process is not None:
            self.process.communicate()

    def answer(self, key: str) -> dict[str, Any]:
        assert self.process is not None
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if key not in line:
            raise RuntimeError(f"{self.process.args!r} printed {line!r}")
        said: dict[str, Any] = json.loads(line)
        return said

    def count(self) -> tuple[int, float]:
        """Packets captured, and processor time in nanoseconds, since the reader began."""
        frames = received() - self.begun
        kernel_ns = on_processor_ns(self.thread)
        if self.process is None:
            return frames, kernel_ns
        kernel_ns += children_ns(self.process)
        assert self.process.stdin is not None
        self.process.stdin.write(f"{frames}\n")
        said = self.answer("captured")
        return int(said["captured"]), kernel_ns + said["cpu_sec"] * 1e9

    def offer(self, rate: float, seconds: float, size: str, flows: int) -> Trial:
        before, before_ns = self.count()
        kernel_ns, capture_ns = on_processor_ns(self.thread), capturing_ns(self.process)
        stolen = stolen_ticks()
        offered, seconds = send(size, rate, seconds, flows)
        time.sleep(DRAIN_SEC)
        stolen = stolen_ticks() - stolen
        kernel_ns = on_processor_ns(self.thread) - kernel_ns
        capture_ns = capturing_ns(self.process) - capture_ns
        after, after_ns = self.count()
        taken = after - before
        spent = (one / max(taken, 1) for one in (kernel_ns, capture_ns, after_ns - before_ns))
        return Trial(offered, seconds, taken, stolen, *spent)

    def warm(self, size: str, flows: int) -> None:
        """Creates every flow and touches every page before the measurement."""
        self.offer(WARM_RATE, max(WARM_SEC, 4 * flows / WARM_RATE), size, flows)

    def offer_undisturbed(self, rate: float, seconds: float, size: str, flows: int) -> Trial:
        """Repeats a try that the host disturbed, a few times. A try without loss always counts."""
        turn = self.offer(rate, seconds, size, flows)
        for _ in range(REPEATS):
            if not turn.disturbed or (rate and turn.lossless):
                break
            self.discarded += 1
            turn = self.offer(rate, seconds, size, flows)
        return turn

    def highest_lossless(self, size: str, flows: int) -> float:
        """Returns a rate of RATES that is lossless while the next is not."""
        borne, low, lost = 0.0, 0, len(RATES)
        while low < lost:
            middle = (low + lost) // 2
            for _ in range(TRIES):
                turn = self.offer_undisturbed(RATES[middle], TRY_SEC, size, flows)
                if turn.lossless:
                    break
            if turn.lossless:
                borne, low = turn.rate, middle + 1
            else:
                lost = middle
        return borne


Figures = dict[str, dict[str, list[float]]]


def share(figures: Figures, what: str, name: str, of: str) -> float:
    """The median of the ratios over the runs, because the machine changes between runs."""
    pairs = zip(figures[name][what], figures[of][what], strict=True)
    return statistics.median(one / max(other, 1) for one, other in pairs)


def goals(figures: Figures) -> Iterator[tuple[str, bool]]:
    if {"af_packet", "xdp, added up"} <= figures.keys():
        part = share(figures, "added", "xdp, added up", "af_packet")
        yield f"added up costs {part:.0%} of af_packet, goal 50 %", part <= 0.5
        part = share(figures, "lossless", "xdp, added up", "af_packet")
        yield f"added up takes {part:.0%} of af_packet's lossless rate, goal 100 %", part >= 1
    if {"minimal AF_XDP", "xdp, dedicated"} <= figures.keys():
        for what in ("lossless", "saturated"):
            part = share(figures, what, "xdp, dedicated", "minimal AF_XDP")
            yield (
                f"dedicated takes {part:.0%} of the minimal reader's {what} rate, goal 90 %",
                (part >= 0.9),
            )


def measure_once(
    name: str, size: str, flows: int, cost_rate: float
) -> tuple[dict[str, float], int]:
    """Returns the figures and how many tries were repeated because the host disturbed them."""
    with Reader(name) as reader:
        prioritize(reader.thread, ABOVE_READER)
        reader.warm(size, flows)
        turns = [reader.offer_undisturbed(cost_rate, COST_SEC, size, flows) for _ in range(COSTS)]
        lossless = reader.highest_lossless(size, flows)
        prioritize(reader.thread, EQUAL_TO_READER)
        full = [reader.offer_undisturbed(0, TRY_SEC, size, flows) for _ in range(FULLS)]
        return {
            "cost": statistics.median(turn.cost_ns for turn in turns),
            "lossless": lossless,
            "saturated": statistics.median(turn.taken_rate for turn in full),
        }, reader.discarded


def measure(size: str, readers: list[str], runs: int, flows: int, cost_rate: float) -> None:
    figures: Figures = defaultdict(lambda: defaultdict(list))
    discarded = 0
    for _ in range(runs):
        for name in readers:
            found, repeated = measure_once(name, size, flows, cost_rate)
            discarded += repeated
            for what, value in found.items():
                figures[name][what].append(value)
            alone = figures["kernel alone"]["cost"][-1]  # the first of each run
            figures[name]["added"].append(found["cost"] - alone)
    floor = statistics.median(figures["kernel alone"]["cost"])
    print(f"\n{size}, {flows} flows    ns per packet above {floor:.0f}   M/s lossless   saturated")
    for name in readers:
        middle = {what: statistics.median(values) for what, values in figures[name].items()}
        print(f"  {name:18} {middle['added']:20.0f} {middle['lossless'] / 1e6:16.2f}"
              f" {middle['saturated'] / 1e6:11.2f}")  # fmt: skip
    print(f"  {discarded} tries discarded and repeated because the host withdrew a processor")
    for goal, reached in goals(figures):
        print(f"  {'reached' if reached else 'missed'}: {goal}")
    sys.stdout.flush()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--flows", type=int, default=65536, help="a power of two")
    parser.add_argument("--sizes", nargs="+", default=SIZES, choices=SIZES)
    parser.add_argument("--readers", nargs="+", default=list(READERS), choices=READERS)
    parser.add_argument("--cost-rate", type=float, default=COST_RATE, help="frames per second")
    wanted = parser.parse_args()
    if reason := missing():
        print(f"live metering: NOT MEASURED, {reason}")
        return 1
    build()
    readers = list(dict.fromkeys(["kernel alone", *wanted.readers]))
    with short_turns(), wire():
        for size in wanted.sizes:
            measure(size, readers, wanted.runs, wanted.flows, wanted.cost_rate)
    return 0


if __name__ == "__main__":
    sys.exit(main())
