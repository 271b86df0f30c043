"""Messages that agents publish without a request: metrics, events, the audit trail, batches."""

from __future__ import annotations

import itertools
import json
import signal
from pathlib import Path
from typing import Any

import pytest

from agents import Agent, Fleet, toml
from bus import MSGPACK, Bus, Collector
from deadlines import eventually
from packets import SECOND_NS, UDP, at, ethernet, ipv4, udp, write_pcap
from replay import check_conservation, finished, records_of

START_NS = 1_767_225_600 * SECOND_NS
FLOWS = 2_500  # more than two batches


@pytest.fixture
def capture(tmp_path: Path) -> Path:
    def frame(number: int) -> bytes:
        source = f"10.0.{number >> 8}.{number & 255}"
        return ethernet(ipv4(udp(b"", 1000, 53), UDP, source, "10.1.0.1"))

    return write_pcap(
        tmp_path / "many.pcap", [at(START_NS + n * 1000, frame(n)) for n in range(FLOWS)]
    )


async def test_batches_are_bounded_numbered_and_complete(
    alpha: Agent, bus: Bus, capture: Path
) -> None:
    collector = await Collector.listen(bus)  # checks size, count, Nats-Msg-Id and subject
    started = await bus.ok(
        "start", {"interface": str(capture), "backend": "file", "metering": {"enable": True}}
    )
    await finished(bus)
    records = await records_of(collector, started["session_id"], await bus.ok("stop"))
    assert len(records) == FLOWS
    assert len(collector.batches) >= 3
    seqs = [batch["seq"] for batch in collector.batches]
    assert seqs == list(range(seqs[0], seqs[0] + len(seqs)))
    # Numbers continue over sessions: one boot, one sequence.
    again = await bus.ok(
        "start", {"interface": str(capture), "backend": "file", "metering": {"enable": True}}
    )
    await finished(bus)
    await records_of(collector, again["session_id"], await bus.ok("stop"))
    assert len({batch["boot"] for batch in collector.batches}) == 1
    assert collector.gaps() == []


async def test_batches_in_messagepack(fleet: Fleet, bus: Bus, capture: Path) -> None:
    fleet.start(flows={"encoding": "msgpack"})
    raw = await bus.messages("capture.stream.flows.>")
    collector = await Collector.listen(bus)
    started = await bus.ok(
        "start", {"interface": str(capture), "backend": "file", "metering": {"enable": True}}
    )
    await finished(bus)
    records = await records_of(collector, started["session_id"], await bus.ok("stop"))
    assert len(records) == FLOWS
    assert {message.headers["Content-Type"] for message in raw if message.headers} == {MSGPACK}
    assert {record["first_seen"] for record in records} == {
        START_NS + n * 1000 for n in range(FLOWS)
    }


async def test_metrics_are_published_every_interval(fleet: Fleet, bus: Bus, capture: Path) -> None:
    fleet.start(metrics={"interval_sec": 0.2})
    messages = await bus.messages("capture.stream.metrics.alpha")
    started = await bus.ok("start", {"interface": str(capture), "backend": "file"})
    await finished(bus)
    before = len(messages)
    # One message may have been in flight when the file ended.
    await eventually(lambda: len(messages) >= before + 3, "three more metrics messages")
    await eventually(
        lambda: json.loads(messages[-1].data)["packets_captured"] == FLOWS, "the last packets"
    )
    bodies = [json.loads(message.data) for message in messages]
    asked = await bus.ok("metrics")
    for body in bodies:
        assert body["session_id"] == started["session_id"]
        assert asked.keys() <= body.keys()
        assert body["host"] == "alpha"
    assert [body["time"] for body in bodies] == sorted({body["time"] for body in bodies})
    last = bodies[-1]
    assert last["packets_captured"] == FLOWS
    assert last["active_flows"] == FLOWS


async def test_changed_metrics_interval_applies_at_once(
    fleet: Fleet, bus: Bus, capture: Path
) -> None:
    agent = fleet.start(metrics={"interval_sec": 3600})
    messages = await bus.messages("capture.stream.metrics.alpha")
    await bus.ok("start", {"interface": str(capture), "backend": "file"})
    agent.config_path.write_text(toml({**agent.config, "metrics": {"interval_sec": 0.2}}))
    agent.signal(signal.SIGHUP)
    await eventually(lambda: len(messages) >= 2, "metrics at the new interval")
    await bus.ok("stop")


async def test_rates_cover_the_interval(fleet: Fleet, bus: Bus, tmp_path: Path) -> None:
    """100 packets a second of 142 bytes: packets_per_sec and Mb/s follow from the difference
    between two messages, however late either of them is. A pause of the capture thread can leave
    an interval without packets, so two messages with enough packets between them are compared."""
    frame = ethernet(ipv4(udp(bytes(100), 1000, 53), UDP, "10.0.0.1", "10.1.0.1"))
    path = write_pcap(
        tmp_path / "paced.pcap",
        [at(START_NS + n * SECOND_NS // 100, frame) for n in range(1000)],
    )
    fleet.start(metrics={"interval_sec": 1})
    messages = await bus.messages("capture.stream.metrics.alpha")
    await bus.ok("start", {"interface": str(path), "backend": "file", "replay_speed": 1.0})

    def interval() -> tuple[dict[str, Any], int] | None:
        bodies = [json.loads(message.data) for message in messages]
        for before, after in itertools.pairwise(bodies):
            packets = after["packets_captured"] - before["packets_captured"]
            if packets >= 50:
                return after, packets
        return None

    metrics, packets = await eventually(interval, "an interval full of packets")
    assert packets < 1000
    rate = packets / metrics["interval_sec"]
    assert metrics["packets_per_sec"] == pytest.approx(rate, abs=1)
    assert metrics["avg_packet_size"] == pytest.approx(142, abs=0.5)
    expected_mbps = metrics["packets_per_sec"] * 142 * 8 / 1e6
    assert metrics["throughput_mbps"] == pytest.approx(expected_mbps, rel=0.05)
    assert metrics["drop_rate_percent"] == 0
    await bus.ok("stop")


async def test_events_cover_the_life_of_an_agent(fleet: Fleet, bus: Bus, capture: Path) -> None:
    events = await bus.events()
    agent = fleet.start()
    await eventually(lambda: "lifecycle" in events.kinds(), "the agent's first event")
    started = await bus.ok("start", {"interface": str(capture), "backend": "file"})
    await finished(bus)
    await bus.ok("stop", {"reason": "rotation"})
    await eventually(lambda: events.kinds().count("capture") >= 2, "the session's events")
    for event, message in zip(events.all(), events.messages, strict=True):
        assert message.subject == f"capture.stream.events.alpha.{event['kind']}"
        assert event["host"] == "alpha"
        assert event["time"].endswith("Z")
    of_session = [one for one in events.all() if one.get("session_id") == started["session_id"]]
    assert {"capture", "audit"} <= {one["kind"] for one in of_session} | set(events.kinds())
    before = len(events.messages)
    assert agent.terminate() == 0
    await eventually(
        lambda: "lifecycle" in events.kinds()[before:], "the agent's last event, after SIGTERM"
    )


async def test_audit_trail_has_every_change_and_refusal(
    alpha: Agent, bus: Bus, capture: Path
) -> None:
    audit = await bus.events(kind="audit")
    body = {"interface": str(capture), "backend": "file"}
    await bus.ok("start", body, headers={"Request-Id": "change-1"})
    await bus.request("start", body)  # 409
    await bus.ok("flow.meter.enable", {"enable": True})
    await bus.ok("status")  # reads are not audited
    await bus.ok("stop", {"reason": "rotation"})
    await bus.request("stop")  # 400
    await eventually(lambda: len(audit.messages) >= 5, "five audit events")
    trail = [json.dumps(event) for event in audit.all()]
    assert len(trail) == 5
    for line, words in zip(
        trail,
        (
            ("start", "200", "change-1"),
            ("start", "409"),
            ("flow.meter.enable", "200"),
            ("stop", "200", "rotation"),
            ("stop", "400"),
        ),
        strict=True,
    ):
        for word in words:
            assert word in line, (word, line)


async def test_packet_conservation_is_visible(alpha: Agent, bus: Bus, capture: Path) -> None:
    await bus.ok(
        "start", {"interface": str(capture), "backend": "file", "metering": {"enable": True}}
    )
    status = await finished(bus)
    check_conservation(status)
    assert status["packets_active"] == FLOWS
    # Turning metering off ends every segment: all packets move into records.
    await bus.ok("flow.meter.enable", {"enable": False})

    async def recorded() -> dict[str, Any] | None:
        status = await bus.ok("status")
        check_conservation(status)
        return status if status["packets_recorded"] == FLOWS else None

    status = await eventually(recorded, "every packet to be in a record")
    assert status["packets_active"] == 0
