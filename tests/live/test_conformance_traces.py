"""The shared traces, sent over a veth pair and captured live, against the oracle.

Frames go out at their full wire length (oracle.frames), over a wire whose MTU takes the largest
of them. Flows are compared without their times, which differ in a live capture.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import capturing
import oracle
from agents import Fleet
from bus import Bus, Collector
from netns import Sender
from replay import check_lives, records_of
from servers import NatsServer

TRACES = oracle.traces()


@pytest.fixture
def nats_server(tmp_path: Path) -> Iterator[NatsServer]:
    """A server whose messages fit a reply with all two thousand flows of the largest trace."""
    server = NatsServer(tmp_path / "nats", config="max_payload: 8MB").start()
    yield server
    server.kill()


@pytest.mark.parametrize("backend", ["af_packet", "pcap", "dpdk", "pf_ring"])
async def test_traces_over_the_wire_match_the_oracle(
    fleet: Fleet, bus: Bus, sender: Sender, backend: str
) -> None:
    fleet.start()
    wrong = []
    for trace in TRACES:
        await capturing.start(bus, backend)
        offered = sender.send(oracle.frames(trace))
        status = await capturing.settled(bus, offered)
        flows = (await bus.ok("flows", {"limit": 10000}))["flows"]
        if status["packets_dropped"] or oracle.digest(flows) not in trace.accepted("flows_sha256"):
            wrong.append(f"{trace.path.name}: {status}\n" + "\n".join(oracle.flow_lines(flows)[:9]))
        await bus.ok("stop")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("tunnel", ["outer", "inner"])
async def test_records_of_four_workers_match_the_oracle(
    fleet: Fleet, bus: Bus, sender: Sender, tunnel: str
) -> None:
    """Both directions of a flow are metered by the same one of four workers."""
    fleet.start(flows={"tunnel": tunnel})
    digest = "flows_sha256" if tunnel == "outer" else "inner_flows_sha256"
    collector = await Collector.listen(bus)
    wrong = []
    for trace in TRACES:
        started = await capturing.start(bus, workers=4, metering={"enable": True})
        offered = sender.send(oracle.frames(trace))
        await capturing.settled(bus, offered)
        records = await records_of(collector, started["session_id"], await bus.ok("stop"))
        check_lives(records)
        if oracle.digest(records) not in trace.accepted(digest):
            wrong.append(trace.path.name + "\n" + "\n".join(oracle.flow_lines(records)[:9]))
    assert not wrong, "\n".join(wrong)
