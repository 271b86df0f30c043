"""A shared capture of flows costs the host's TCP little: the processor time of its programs.

On a virtual machine the throughput itself varies more from second to second than the limit
allows (tests/bench/xdp/harm.py still compares it). The capture reduces it only by using processor
time, which the kernel counts for each program. A stream that needs a whole core slows down by
that share. Both figures come from the same run, so a slow machine affects both. Copying whole
super-packets, for a recording or a filter in user space, exceeds the limit like any such copy.
"""

from __future__ import annotations

import os

import bpf_objects
import iperf
import pytest
from xdp_modes import MODES

import capturing
import netns
from agents import Fleet
from bus import Bus
from netns import HOST_DEVICE, PEER_DEVICE, Wire

MEGABYTES = 2000
LIMIT = 0.95


def processor_sec(wire: Wire, *, back: bool) -> float:
    """Processor time of both ends of a connection on one core, including the kernel's work."""
    core = str(min(os.sched_getaffinity(0)))
    end = iperf.transfer(wire, MEGABYTES, back=back, prefix=["taskset", "-c", core])["end"]
    used = end["cpu_utilization_percent"]
    share = (used["host_total"] + used["remote_total"]) / 100
    return float(share * end["sum_sent"]["seconds"])


@pytest.mark.parametrize("back", [False, True], ids=["sending", "receiving"])
async def test_tcp_keeps_its_throughput(fleet: Fleet, bus: Bus, wire: Wire, back: bool) -> None:
    for namespace, device in ((wire.host, HOST_DEVICE), (wire.peer, PEER_DEVICE)):
        netns.ip("-n", namespace, "link", "set", device, "mtu", "1500")
    wire.address()
    agent = fleet.start()
    await capturing.start(bus, "xdp", **MODES["added_up"])
    with bpf_objects.programs_timed():
        used_sec = processor_sec(wire, back=back)
    runs, spent_ns = bpf_objects.runs_of(agent.pid)
    assert runs > MEGABYTES * 1_000_000 / 65536, "the stream bypassed the programs"
    assert 1 - spent_ns / 1e9 / used_sec >= LIMIT
