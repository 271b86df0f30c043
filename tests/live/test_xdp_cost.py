"""A shared capture of flows leaves the host's TCP its throughput: what the programs take of it.

Throughput itself, with a capture and without, differs more from one second to the next on a
virtual machine than the limit allows (tests/bench/xdp/harm.py compares it all the same). What
reduces it is time on the processor, and the kernel tells how much of it the programs took: a
stream that wants a whole core goes that much slower. Both are of the same run, so whatever
slows the machine down slows both. Copying whole super-packets up, for a recording or a filter
in user space, takes more than the limit, as any such copy does.
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
    """What both ends of one connection, on one core, took of it, with all that the kernel did
    meanwhile."""
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
    assert runs > MEGABYTES * 1_000_000 / 65536, "the stream went past the programs"
    assert 1 - spent_ns / 1e9 / used_sec >= LIMIT
