"""SIGTERM ends an agent by its deadline, also one with a blocked thread, and no loss is silent."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import stuck_agent

from agents import Fleet
from bus import Bus
from packets import SECOND_NS, UDP, Packet, at, ethernet, ipv4, udp
from replay import finished

FLOWS = 50
START_NS = 1_767_225_600 * SECOND_NS
STUCK = (sys.executable, stuck_agent.__file__)


@pytest.fixture
def trace(capture_file: Callable[[list[Packet]], Path]) -> Path:
    """One packet of each flow, then silence for longer than half the flows' timeout."""
    frames = [
        ethernet(ipv4(udp(b"", 1000 + n, 53), UDP, "10.0.0.1", "10.0.0.2")) for n in range(FLOWS)
    ]
    last = at(START_NS + 20 * SECOND_NS, frames[0])
    return capture_file([*(at(START_NS, frame) for frame in frames), last])


async def read_to_the_end(bus: Bus, trace: Path) -> dict[str, Any]:
    metering = {"enable": True, "flow_timeout_sec": 10, "active_timeout_sec": 60}
    await bus.ok("start", {"interface": str(trace), "backend": "file", "metering": metering})
    return await finished(bus)


def warning(log: str) -> dict[str, Any]:
    lines = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
    (found,) = (line for line in lines if line["event"] == "the session did not end in time")
    return dict(found)


async def test_blocked_stop_ends_by_the_deadline_and_counts_the_loss(
    fleet: Fleet, bus: Bus, trace: Path
) -> None:
    agent = fleet.agent()
    agent.prefix = STUCK
    agent.start()
    status = await read_to_the_end(bus, trace)
    events = await bus.client.subscribe("capture.stream.events.alpha.alarm")
    await bus.client.flush()
    assert agent.terminate() == 0
    lost = warning(agent.log)
    # Sent records, lost records and packets without a flow are all packets.
    records_sent = status["records"] - lost["records_lost"]
    assert lost["packets_lost"] + records_sent == status["packets_captured"] == FLOWS + 1
    alarm = json.loads((await events.next_msg(5)).data)
    assert alarm["event"] == "unclean_end"
    assert alarm["data"] == {name: lost[name] for name in ("records_lost", "packets_lost")}


async def test_next_run_counts_what_a_blocked_stop_left_out_of_the_spool(
    fleet: Fleet, bus: Bus, trace: Path, tmp_path: Path
) -> None:
    agent = fleet.agent(flows={"jetstream": True, "spool_dir": tmp_path / "spool"})
    agent.prefix = STUCK
    agent.start()
    status = await read_to_the_end(bus, trace)
    assert agent.terminate() == 0
    lost = warning(agent.log)
    agent.prefix = ()
    agent.start()
    spool = (await bus.request("status")).body["spool"]
    assert spool["packets_lost"] == lost["packets_lost"]
    assert spool["records_lost"] == lost["records_lost"]
    # Each record in the spool has one packet.
    assert spool["records_waiting"] + spool["packets_lost"] == status["packets_captured"]
