"""Packets per second that the session loop reads from the DPDK process.

    python tests/bench/dpdk.py [FLOWS [SECONDS]]

net_null returns empty frames without limit. The DPDK process writes a UDP packet of one of FLOWS
flows into each. Only this program can select that mode (`;flows=N` after the device), no request
can. One worker meters on the meter's core, the process polls on the others. Packets that find the
ring full are dropped and counted. The source is faster than any reader, so the captured rate is
the reader's limit. On a busy machine use the figure per second of the worker's processor time.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from engine import ConservationError
from pinned import METER_CORE, keep_off_the_meter_core
from table import Row, rate_row, unmeasured_row

from netsonde.core.backends import backends
from netsonde.core.capture import Capture
from netsonde.core.values import CaptureSettings, Stats

GOAL_PER_SEC = 10e6
WARM_UP_SEC = 1.0
SECONDS = 3.0
FLOWS = 1000
FRAME_BYTES = 64
TITLE = "dpdk net_null, 1 k flows, metering"


@dataclass(frozen=True)
class Throughput:
    """Packets per second by clock, per second of the worker's processor time, and offered."""

    rate: float
    worker_rate: float
    offered: float


def settings(flows: int) -> CaptureSettings:
    return CaptureSettings(
        backend="dpdk",
        interface=f"net_null0,size={FRAME_BYTES},copy=0;flows={flows}",
        filter="",
        file_fd=-1,
        workers=1,
        snaplen=262144,
        ring_bytes=2 << 20,
        flow_table_size=1 << 20,
        record_ring_size=1 << 16,
        promiscuous=False,
        dedicated=False,
        tunnel_inner=False,
        replay_speed=0.0,
        metering=True,
        idle_timeout_sec=300,
        active_timeout_sec=60,
        buffer_bytes=0,
        buffer_dir="",
        buffer_disk_bytes=0,
    )


def worker() -> Path:
    """Returns the capture thread's directory in /proc."""
    for task in Path("/proc/self/task").iterdir():
        if (task / "comm").read_text().startswith("sonde-cap-0"):
            return task
    raise RuntimeError("there is no capture thread")


def worker_sec() -> float:
    """Returns the processor time of the capture thread so far."""
    _, _, rest = (worker() / "stat").read_text().partition(") ")
    return sum(map(int, rest.split()[11:13])) / os.sysconf("SC_CLK_TCK")  # utime, stime


def audit(stats: Stats, flows: int) -> None:
    parts = (stats.packets_recorded, stats.packets_active, stats.packets_non_flow)
    if sum(parts) + stats.packets_unmetered != stats.packets_captured:
        raise ConservationError(f"net_null: {stats}")
    if stats.flows_created != flows or stats.packets_non_flow or stats.records_dropped:
        raise ConservationError(f"net_null with {flows} flows: {stats}")


async def measure(flows: int, seconds: float) -> Throughput:
    capture = await Capture.open(settings(flows))
    os.sched_setaffinity(int(worker().name), {METER_CORE})
    await asyncio.sleep(WARM_UP_SEC)
    before, begin, worked = capture.stats(), time.monotonic(), worker_sec()
    await asyncio.sleep(seconds)
    after, elapsed, worked = capture.stats(), time.monotonic() - begin, worker_sec() - worked
    await capture.stop()
    audit(capture.stats(), flows)
    await capture.close()
    captured = after.packets_captured - before.packets_captured
    dropped = after.packets_dropped - before.packets_dropped
    return Throughput(captured / elapsed, captured / worked, (captured + dropped) / elapsed)


async def missing() -> str | None:
    """Returns why the backend cannot be used on this machine, or None."""
    (report,) = (one for one in await backends() if one.name == "dpdk")
    return None if report.usable else report.reason


def rows(runs: int) -> list[Row]:
    reason = asyncio.run(missing())
    if reason is not None:
        return [unmeasured_row(TITLE, reason)]
    done = [asyncio.run(measure(FLOWS, SECONDS)) for _ in range(runs)]
    return [
        rate_row(f"{TITLE}, M packets/s", [one.rate for one in done], GOAL_PER_SEC),
        rate_row(f"{TITLE}, M packets a processor second", [one.worker_rate for one in done]),
        rate_row("dpdk net_null, offered, M packets/s", [one.offered for one in done]),
    ]


def main() -> None:
    flows = int(sys.argv[1]) if len(sys.argv) > 1 else FLOWS
    seconds = float(sys.argv[2]) if len(sys.argv) > 2 else SECONDS
    keep_off_the_meter_core()
    taken = asyncio.run(measure(flows, seconds))
    print(
        f"dpdk net_null, {FRAME_BYTES}-byte frames, {flows} flows, metering: "
        f"{taken.rate / 1e6:.2f} M packets/s captured, "
        f"{taken.offered / 1e6:.2f} M packets/s offered, "
        f"{taken.worker_rate / 1e6:.2f} M packets per second of the worker's processor time"
    )


if __name__ == "__main__":
    main()
