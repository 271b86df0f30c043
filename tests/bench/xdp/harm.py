"""Does a shared capture slow the host's TCP down? iperf3 with and without it, in turns.

    harm.py [--pairs N] [--seconds S]     (root; two cores; iperf3)

One stream over a veth pair, GSO and GRO as the kernel has them. Both its ends share one core,
which sets the pace, so that every nanosecond a packet shows and no other core's wake-ups do;
the capture's reader has the other. Turns go without, with, with, without, … so that a drift
meets both alike. The figure is the median, over all pairs of neighbours, of with over without;
the number of pairs is fixed before the first. Exits with 1 below the limit.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys

import live
from live import IN_DEVICE, OUT_DEVICE, READER_CORE, RECEIVER, SENDER, SOURCE_CORE

LIMIT = 0.95
SERVER_ADDRESS, CLIENT_ADDRESS = "10.3.0.1", "10.3.0.2"
MODES = ("xdp, added up", "xdp, packets")
PORT = "5201"


def bits_per_sec(seconds: float) -> float:
    """Of one turn, as the receiver counts them."""
    serve = live.inside(RECEIVER, READER_CORE, "iperf3", "-s", "-1", "-p", PORT, "--forceflush")
    server = subprocess.Popen(serve, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        while "listening" not in server.stdout.readline():
            if server.poll() is not None:
                raise RuntimeError("iperf3 does not listen")
        client = live.inside(SENDER, READER_CORE, "iperf3", "-c", SERVER_ADDRESS, "-p", PORT,
                             "-t", str(seconds), "-J")  # fmt: skip
        said = json.loads(live.run(*client))
        server.communicate(timeout=10)
    finally:
        server.kill()
    return float(said["end"]["sum_received"]["bits_per_second"])


def turn(mode: str | None, seconds: float) -> float:
    if mode is None:
        return bits_per_sec(seconds)
    command = live.inside(RECEIVER, SOURCE_CORE, *live.READERS[mode])
    capture = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert capture.stdout is not None
    if "ready" not in capture.stdout.readline():
        raise RuntimeError(f"{mode} did not start")
    try:
        return bits_per_sec(seconds)
    finally:
        capture.communicate()


def ratios(mode: str, pairs: int, seconds: float) -> list[float]:
    found = []
    for number in range(pairs):
        order = (None, mode) if number % 2 == 0 else (mode, None)
        done = {one: turn(one, seconds) for one in order}
        found.append(done[mode] / done[None])
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--pairs", type=int, default=11)
    parser.add_argument("--seconds", type=int, default=1)
    wanted = parser.parse_args()
    if reason := live.missing():
        print(f"TCP beside a capture: NOT MEASURED, {reason}")
        return 1
    live.build()
    worst = 1.0
    with live.short_turns(), live.wire(threaded=False):
        live.run("ip", "-n", RECEIVER, "addr", "add", f"{SERVER_ADDRESS}/24", "dev", IN_DEVICE)
        live.run("ip", "-n", SENDER, "addr", "add", f"{CLIENT_ADDRESS}/24", "dev", OUT_DEVICE)
        turn(None, wanted.seconds)  # the first is always another
        for mode in MODES:
            found = sorted(ratios(mode, wanted.pairs, wanted.seconds))
            worst = min(worst, median := statistics.median(found))
            print(
                f"TCP with {mode}: {median:.1%} of without ({found[0]:.1%}–{found[-1]:.1%}, "
                f"{wanted.pairs} pairs); limit {LIMIT:.0%}",
                flush=True,
            )
    return 0 if worst >= LIMIT else 1


if __name__ == "__main__":
    sys.exit(main())
