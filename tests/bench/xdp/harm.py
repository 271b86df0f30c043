"""The effect of a shared capture on the host's TCP: one iperf3 stream with and without a capture.

    harm.py [--pairs N] [--seconds S]     (root; two cores; iperf3)

The stream runs over a veth pair with the kernel's default GSO and GRO. One connection is used
throughout, because connections differ in throughput. Both its ends share one core, which sets the
pace, so each nanosecond per packet shows and wake-ups on other cores do not. The capture's reader
uses the other core. Turns run without, with, with, without, … so a drift affects both equally.
The figure is the median ratio of with to without over all adjacent pairs. The number of pairs is
fixed in advance. The mode "nothing" shows the effect of chance: both turns are without a capture.
Exits with 1 below the limit.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import live
from live import IN_DEVICE, OUT_DEVICE, READER_CORE, RECEIVER, SENDER, SOURCE_CORE

LIMIT = 0.95
SERVER_ADDRESS, CLIENT_ADDRESS = "10.3.0.1", "10.3.0.2"
MODES = ("nothing", "xdp, added up", "xdp, packets")
PORT = "5201"
SETTLE_SEC = 0.15  # after a capture starts or ends
LONG_SEC = "3600"  # longer than any run; the client is killed first


@contextmanager
def stream() -> Iterator[None]:
    serve = live.inside(RECEIVER, READER_CORE, "iperf3", "-s", "-1", "-p", PORT, "--forceflush")
    send = live.inside(SENDER, READER_CORE, "iperf3", "-c", SERVER_ADDRESS, "-p", PORT,
                       "-t", LONG_SEC)  # fmt: skip
    # At the end iperf3 reports on stderr that the client is gone. That is expected.
    server = subprocess.Popen(serve, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert server.stdout is not None
        while "listening" not in server.stdout.readline():
            if server.poll() is not None:
                raise RuntimeError("iperf3 does not listen")
        client = subprocess.Popen(send, stdout=subprocess.DEVNULL)
        try:
            time.sleep(1)  # until TCP reaches its rate
            yield
        finally:
            client.kill()
            client.wait()
    finally:
        server.kill()
        server.wait()


def received_bytes() -> int:
    shown = live.run("ip", "-n", RECEIVER, "-j", "-s", "link", "show", "dev", IN_DEVICE)
    return int(json.loads(shown)[0]["stats64"]["rx"]["bytes"])


def bytes_per_sec(seconds: float) -> float:
    time.sleep(SETTLE_SEC)
    before, begin = received_bytes(), time.perf_counter()
    time.sleep(seconds)
    rate = (received_bytes() - before) / (time.perf_counter() - begin)
    if rate == 0:
        raise RuntimeError("the stream has ended")
    return rate


def turn(mode: str | None, seconds: float) -> float:
    if mode in (None, "nothing"):
        return bytes_per_sec(seconds)
    command = live.inside(RECEIVER, SOURCE_CORE, *live.READERS[mode])
    capture = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert capture.stdout is not None
    if "ready" not in capture.stdout.readline():
        raise RuntimeError(f"{mode} did not start")
    try:
        return bytes_per_sec(seconds)
    finally:
        capture.communicate()


def ratios(mode: str, pairs: int, seconds: float) -> list[float]:
    found = []
    with stream():
        for number in range(pairs):
            order = (None, mode) if number % 2 == 0 else (mode, None)
            done = {one: turn(one, seconds) for one in order}
            found.append(done[mode] / done[None])
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--pairs", type=int, default=21)
    parser.add_argument("--seconds", type=float, default=0.5, help="per turn")
    wanted = parser.parse_args()
    if reason := live.missing():
        print(f"TCP during a capture: NOT MEASURED, {reason}")
        return 1
    live.build()
    worst = 1.0
    with live.short_turns(), live.wire(threaded=False):
        live.run("ip", "-n", RECEIVER, "addr", "add", f"{SERVER_ADDRESS}/24", "dev", IN_DEVICE)
        live.run("ip", "-n", SENDER, "addr", "add", f"{CLIENT_ADDRESS}/24", "dev", OUT_DEVICE)
        for mode in MODES:
            found = sorted(ratios(mode, wanted.pairs, wanted.seconds))
            low, median, high = statistics.quantiles(found, n=4)
            if mode != "nothing":
                worst = min(worst, median)
            print(
                f"TCP with {mode}: {median:.1%} of without (half of {wanted.pairs} pairs "
                f"{low:.1%}–{high:.1%}, all {found[0]:.1%}–{found[-1]:.1%}); limit {LIMIT:.0%}",
                flush=True,
            )
    return 0 if worst >= LIMIT else 1


if __name__ == "__main__":
    sys.exit(main())
