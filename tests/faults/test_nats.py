"""NATS is unavailable at the start, dies, restarts, freezes: capture continues without loss.

A paced replay stands in for live traffic: its clock runs whether NATS works or not. Core NATS
stores nothing, so the tests freeze the agent until the collector has reconnected.
"""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest

from agents import Agent, Fleet, answers
from bus import Bus, Collector
from deadlines import eventually, eventually_now
from netsonde.bus.connection import order_servers
from packets import SECOND_NS, UDP, Packet, at, ethernet, ipv4, udp, write_pcap
from replay import check_conservation, check_lives, finished, records_of
from servers import NatsServer, free_port

START_NS = 1_767_225_600 * SECOND_NS
METERING = {"enable": True, "flow_timeout_sec": 1, "active_timeout_sec": 1}


@pytest.fixture
def capture(tmp_path: Path) -> Path:
    """Writes four seconds of traffic: 100 packets a second, a new flow every tenth of a second."""

    def packet(number: int) -> Packet:
        ip = ipv4(udp(bytes(60), 1000 + number // 10, 53), UDP, "10.0.0.1", "10.1.0.1")
        return at(START_NS + number * SECOND_NS // 100, ethernet(ip))

    return write_pcap(tmp_path / "four-seconds.pcap", [packet(n) for n in range(400)])


def paced(capture: Path) -> dict[str, Any]:
    return {
        "interface": str(capture),
        "backend": "file",
        "replay_speed": 1.0,
        "metering": METERING,
    }


async def back_together(server: NatsServer, agent: Agent, bus: Bus) -> None:
    """Restarts the server. The agent, frozen meanwhile, finds it after the collector has
    reconnected."""
    agent.signal(signal.SIGSTOP)
    server.start()
    await bus.returned()
    agent.signal(signal.SIGCONT)
    await answering(bus, agent)


async def answering(bus: Bus, agent: Agent) -> None:
    def ask() -> bool:
        server = bus.client.connected_url
        assert server is not None
        return answers(server.geturl(), f"$SRV.PING.netsonde.{agent.host}")

    eventually_now(ask, "the agent to reply again")


async def test_agent_starts_before_the_server(fleet: Fleet, tmp_path: Path, capture: Path) -> None:
    late = NatsServer(tmp_path / "late")
    late.port = free_port()
    agent = fleet.agent(nats={"servers": [late.url]}).spawn()
    eventually_now(lambda: "refused" in agent.log, "the agent to have tried")
    assert agent.alive
    try:
        late.start()
        eventually_now(
            lambda: answers(late.url, "capture.host.alpha.status"), "the agent to answer"
        )
        bus = await Bus.connect(late.url)
        await bus.ok("start", {"interface": str(capture), "backend": "file"})
        assert (await finished(bus))["packets_captured"] == 400
        await bus.close()
    finally:
        late.kill()


async def test_killed_server_comes_back_without_loss(
    fleet: Fleet, nats_server: NatsServer, bus: Bus, capture: Path
) -> None:
    agent = fleet.start()
    collector = await Collector.listen(bus)
    started = await bus.ok("start", paced(capture))
    await eventually(lambda: len(collector.batches) >= 1, "the first records")
    nats_server.kill()
    # Capture continues without NATS: the replay reaches the end of the file on time.
    eventually_now(lambda: "capture: finished" in agent.log, "the file's end, in the log")
    await back_together(nats_server, agent, bus)
    status = await finished(bus)
    assert status["session_id"] == started["session_id"]
    assert status["packets_captured"] == 400
    check_conservation(status)
    stopped = await bus.ok("stop")
    # Only a batch in flight when the server died may be missing; every other record arrives once.
    records = await all_but_gaps(collector, started["session_id"], stopped)
    if not collector.gaps():
        assert sum(record["packets"] for record in records) == 400
        check_lives(records)


async def all_but_gaps(
    collector: Collector, session_id: str, stopped: dict[str, Any]
) -> list[dict[str, Any]]:
    assert stopped["records_unsent"] == 0
    await eventually(
        lambda: (
            any(
                record["final"] and record["end_reason"] == "forced"
                for record in collector.of_session(session_id)
            )
            or len(collector.of_session(session_id)) == stopped["records_sent"]
        ),
        "the last records",
    )
    assert len(collector.gaps()) <= 1
    assert collector.problems == []
    return collector.of_session(session_id)


async def test_idle_server_restart_loses_nothing(
    fleet: Fleet, nats_server: NatsServer, bus: Bus, tmp_path: Path
) -> None:
    """No batch is in flight, so none may be missing after the restart."""
    first = ethernet(ipv4(udp(b"1", 1000, 53), UDP, "10.0.0.1", "10.1.0.1"))
    later = ethernet(ipv4(udp(b"2", 2000, 53), UDP, "10.0.0.1", "10.1.0.1"))
    capture = write_pcap(
        tmp_path / "quiet.pcap",
        [at(START_NS, first), at(START_NS + 2 * SECOND_NS, later)]
        + [at(START_NS + 4 * SECOND_NS + n, later) for n in range(50)],
    )
    agent = fleet.start()
    collector = await Collector.listen(bus)
    started = await bus.ok("start", paced(capture))
    await collector.packets_of(started["session_id"], 1)
    nats_server.kill()
    eventually_now(lambda: "capture: finished" in agent.log, "the file's end, in the log")
    await back_together(nats_server, agent, bus)
    records = await records_of(collector, started["session_id"], await bus.ok("stop"))
    assert sum(record["packets"] for record in records) == 52
    check_lives(records)


async def test_server_restarts_repeatedly(alpha: Agent, nats_server: NatsServer, bus: Bus) -> None:
    for _ in range(4):
        nats_server.kill()
        nats_server.start()
        await bus.returned()
        await answering(bus, alpha)
        assert (await bus.request("status")).code == 204


async def test_frozen_server_thaws_without_loss(
    fleet: Fleet, nats_server: NatsServer, bus: Bus, capture: Path
) -> None:
    """A frozen server accepts data and does not reply. Capture continues."""
    agent = fleet.start()
    collector = await Collector.listen(bus)
    started = await bus.ok("start", paced(capture))
    await eventually(lambda: len(collector.batches) >= 1, "the first records")
    nats_server.freeze()
    eventually_now(lambda: "capture: finished" in agent.log, "the file's end, in the log")
    nats_server.thaw()
    await answering(bus, agent)
    status = await finished(bus)
    assert status["packets_captured"] == 400
    check_conservation(status)
    stopped = await bus.ok("stop")
    records = await all_but_gaps(collector, started["session_id"], stopped)
    if not collector.gaps():
        assert sum(record["packets"] for record in records) == 400


def test_agent_leaves_a_frozen_server_for_the_next_one(
    fleet: Fleet, nats_server: NatsServer, tmp_path: Path
) -> None:
    """The server in use, one of two, stays frozen; the agent connects to the other."""
    other = NatsServer(tmp_path / "other").start()
    urls = order_servers([nats_server.url, other.url], "alpha")
    used, spare = (nats_server, other) if urls[0] == nats_server.url else (other, nats_server)
    try:
        agent = fleet.agent("alpha", nats={"servers": urls}).start()
        used.freeze()
        eventually_now(
            lambda: answers(spare.url, f"$SRV.PING.netsonde.{agent.host}"),
            "the agent on the spare server",
        )
        assert agent.alive
    finally:
        used.thaw()
        other.kill()


# ---- the agent ends ---------------------------------------------------------------------------


async def test_sigterm_delivers_every_record(fleet: Fleet, bus: Bus, capture: Path) -> None:
    agent = fleet.start()
    collector = await Collector.listen(bus)
    lifecycle = await bus.events(kind="lifecycle")
    body = {"interface": str(capture), "backend": "file", "metering": {"enable": True}}
    started = await bus.ok("start", body)
    await finished(bus)
    assert agent.terminate() == 0
    records = await collector.packets_of(started["session_id"], 400)
    check_lives(records)
    assert {record["end_reason"] for record in records} == {"forced"}
    await eventually(lambda: lifecycle.messages, "the stop event")


async def test_sigterm_without_a_server_exits_in_time(
    fleet: Fleet, nats_server: NatsServer, bus: Bus, capture: Path
) -> None:
    agent = fleet.start()
    body = {"interface": str(capture), "backend": "file", "metering": {"enable": True}}
    await bus.ok("start", body)
    await finished(bus)
    nats_server.kill()
    assert agent.terminate() == 0  # terminate() enforces the deadline


async def test_restart_after_sigkill_uses_a_new_boot_id(
    fleet: Fleet, bus: Bus, capture: Path
) -> None:
    """Numbers restart under another `boot`, so no two batches share an id."""
    agent = fleet.start()
    collector = await Collector.listen(bus)
    body = {"interface": str(capture), "backend": "file", "metering": {"enable": True}}
    for _ in range(2):
        started = await bus.ok("start", body)
        await finished(bus)
        await records_of(collector, started["session_id"], await bus.ok("stop"))
        agent.kill()
        agent.start()
        assert (await bus.request("status")).code == 204
    boots = [batch["boot"] for batch in collector.batches]
    assert len(set(boots)) == 2
    assert boots == sorted(boots)  # boot ids sort in order of start
