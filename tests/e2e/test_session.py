"""A session from start to stop over the bus: every response field of docs/requests.md."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from agents import Agent
from bus import Bus, Collector, settled
from packets import SECOND_NS, TCP, UDP, Packet, at, ethernet, ipv4, tcp, udp, write_pcap
from replay import check_conservation, check_lives, finished, records_of

START_NS = 1_767_225_600 * SECOND_NS


def conversation() -> list[Packet]:
    """Returns ten UDP flows of 1…10 packets to 10.1.0.1:53, and a TCP flow of two large packets."""
    made = []
    for number in range(1, 11):
        for _ in range(number):
            ip = ipv4(udp(bytes(100), 5000 + number, 53), UDP, f"10.0.0.{number}", "10.1.0.1")
            made.append(ethernet(ip))
    made.append(ethernet(ipv4(tcp(bytes(1400), 40000, 443), TCP, "10.0.0.1", "10.2.0.1")))
    made.append(ethernet(ipv4(tcp(bytes(1400), 443, 40000), TCP, "10.2.0.1", "10.0.0.1")))
    return [at(START_NS + n * 1000, frame) for n, frame in enumerate(made)]


PACKETS = len(conversation())


@pytest.fixture
def capture(tmp_path: Path) -> Path:
    return write_pcap(tmp_path / "conversation.pcap", conversation())


def types(body: dict[str, Any], **expected: type | tuple[type, ...]) -> None:
    for name, kind in expected.items():
        assert isinstance(body[name], kind), f"{name} is {body[name]!r}"
        assert kind is bool or not isinstance(body[name], bool), name


NUMBER = (int, float)


async def test_each_backend_is_in_exactly_one_list(alpha: Agent, bus: Bus) -> None:
    body = await bus.ok("backends")
    names = [one["name"] for one in body["available"] + body["unavailable"]]
    assert sorted(names) == ["af_packet", "dpdk", "file", "pcap", "pf_ring", "xdp"]
    full = {
        "basic_capture",
        "flow_tracking",
        "flow_metering",
        "netflow_export",
        "buffer_encryption",
    }
    for backend in body["available"]:
        types(backend, name=str, description=str, supported_features=list)
        if backend["name"] == "pcap":
            assert backend["supported_features"] == ["basic_capture", "flow_tracking"]
        else:
            assert set(backend["supported_features"]) == full
    for backend in body["unavailable"]:
        types(backend, name=str, description=str, reason=str)
        assert backend["reason"]
    # Tests run as root, so these three are always available.
    assert {"af_packet", "pcap", "file"} <= {one["name"] for one in body["available"]}


async def test_status_without_a_session_is_204_with_zeros(alpha: Agent, bus: Bus) -> None:
    reply = await bus.request("status")
    assert reply.code == 204
    assert reply.body["running"] is False
    for name in ("packets_captured", "packets_dropped", "uptime_sec", "buffer_usage_percent"):
        assert reply.body[name] == 0
    types(reply.body, interface=str, backend=str)


async def test_session_from_start_to_stop(alpha: Agent, bus: Bus, capture: Path) -> None:
    collector = await Collector.listen(bus)
    started = await bus.ok(
        "start",
        {
            "interface": str(capture),
            "backend": "file",
            "buffer_size_mb": 16,
            "metering": {"enable": True},
        },
    )
    assert started["status"] == "started"
    assert (started["interface"], started["backend"]) == (str(capture), "file")
    assert started["buffer_size_mb"] == 16

    status = await finished(bus)
    assert status["running"] is True
    assert status["session_id"] == started["session_id"]
    types(status, uptime_sec=NUMBER, buffer_usage_percent=NUMBER, retention_sec=NUMBER)
    types(status, attach=str, metering=dict)
    assert status["packets_captured"] == PACKETS
    assert status["bytes_captured"] == sum(packet.wirelen for packet in conversation())
    assert status["packets_non_flow"] == 0
    assert status["export"] is None
    assert status["encryption"] is None
    check_conservation(status)

    metrics = await bus.ok("metrics")
    types(metrics, throughput_mbps=NUMBER, packets_per_sec=int, avg_packet_size=NUMBER)
    types(metrics, drop_rate_percent=NUMBER, buffer_usage_percent=NUMBER, active_flows=int)
    assert metrics["packets_captured"] == PACKETS

    stopped = await bus.ok("stop")
    assert stopped["status"] == "stopped"
    assert (stopped["packets_captured"], stopped["packets_dropped"]) == (PACKETS, 0)
    assert stopped["drop_rate"] == 0
    assert stopped["uptime_sec"] > 0
    records = await records_of(collector, started["session_id"], stopped)
    assert {record["end_reason"] for record in records} == {"forced"}
    assert len(records) == 11
    check_lives(records)
    for batch in collector.batches:
        assert batch["first_time"] == min(one["first_seen"] for one in batch["records"])
        assert batch["last_time"] == max(one["last_seen"] for one in batch["records"])
    assert (await bus.request("status")).code == 204


async def test_sessions_have_unique_ids(alpha: Agent, bus: Bus, capture: Path) -> None:
    seen = set()
    for _ in range(3):
        seen.add(
            (await bus.ok("start", {"interface": str(capture), "backend": "file"}))["session_id"]
        )
        await bus.ok("stop", {"reason": "rotation"})
    assert len(seen) == 3


async def test_flows_are_listed_filtered_and_sorted(alpha: Agent, bus: Bus, capture: Path) -> None:
    await bus.ok("start", {"interface": str(capture), "backend": "file"})
    await finished(bus)
    whole = await bus.ok("flows")
    assert whole["active_flows"] == len(whole["flows"]) == 11
    assert whole["truncated"] is False
    for flow in whole["flows"]:
        types(flow, flow_id=str, source_ip=str, dest_ip=str, source_port=int, dest_port=int)
        types(flow, protocol=str, packets=int, bytes=int)

    async def listed(**body: Any) -> list[dict[str, Any]]:
        return (await bus.ok("flows", body))["flows"]  # type: ignore[no-any-return]

    assert [flow["bytes"] for flow in await listed()] == sorted(
        [2880, *(128 * n for n in range(1, 11))], reverse=True
    )
    by_packets = [flow["packets"] for flow in await listed(sort="packets")]
    assert by_packets == sorted(by_packets, reverse=True)
    by_age = [flow["last_seen"] for flow in await listed(sort="recent")]
    assert by_age == sorted(by_age, reverse=True)
    assert len(await listed(min_packets=9)) == 2
    first = await bus.ok("flows", {"limit": 4})
    assert (len(first["flows"]), first["truncated"], first["active_flows"]) == (4, True, 11)
    assert first["flows"] == whole["flows"][:4]

    assert len(await listed(filter={"ip": "10.0.0.1"})) == 2
    assert len(await listed(filter={"ip": "10.1.0.1"})) == 10
    assert len(await listed(filter={"port": 53})) == 10
    assert len(await listed(filter={"port": 5003})) == 1
    assert len(await listed(filter={"protocol": "TCP"})) == 1
    assert len(await listed(filter={"protocol": 17})) == 10
    assert len(await listed(filter={"ip": "10.0.0.1", "protocol": "udp"})) == 1
    assert await listed(filter={"ip": "fd00::1"}) == []
    for body in ({"filter": {"ip": "10.0.0"}}, {"filter": {"protocol": "no such"}}):
        assert (await bus.request("flows", body)).code in (400, 422)
    # Listing does not change any state.
    assert await bus.ok("flows") == whole


async def test_metering_off_and_on_loses_no_packet(alpha: Agent, bus: Bus, capture: Path) -> None:
    """Turning metering off sends every segment once, with the reason `forced`."""
    collector = await Collector.listen(bus)
    started = await bus.ok(
        "start", {"interface": str(capture), "backend": "file", "metering": {"enable": True}}
    )
    await finished(bus)
    off = await bus.ok("flow.meter.enable", {"enable": False})
    assert off["status"] == "disabled"
    records = await collector.packets_of(started["session_id"], PACKETS)
    assert {record["end_reason"] for record in records} == {"forced"}
    status = await bus.ok("status")
    check_conservation(status)
    assert not (status["metering"] or {}).get("enabled")

    on = await bus.ok("flow.meter.enable", {"enable": True, "flow_timeout_sec": 42})
    assert (on["status"], on["flow_timeout_sec"]) == ("enabled", 42)
    assert on["message"]
    assert (await bus.ok("status"))["metering"]["flow_timeout_sec"] == 42
    stopped = await bus.ok("stop")
    records = await records_of(collector, started["session_id"], stopped)
    assert sum(record["packets"] for record in records) == PACKETS


async def test_no_records_leave_while_metering_is_off(
    alpha: Agent, bus: Bus, capture: Path
) -> None:
    collector = await Collector.listen(bus)
    await bus.ok("start", {"interface": str(capture), "backend": "file"})
    status = await finished(bus)
    check_conservation(status)
    assert status["packets_active"] == PACKETS
    stopped = await bus.ok("stop")
    assert stopped["records"] == 0
    await settled(bus.client)
    assert collector.batches == []


async def test_filter_and_snaplen_apply_to_a_replay(alpha: Agent, bus: Bus, capture: Path) -> None:
    body = {"interface": str(capture), "backend": "file"}
    for options, packets in (
        ({"filter": "tcp"}, 2),
        ({"filter": "udp and src host 10.0.0.7"}, 7),
        ({"filter": "vlan"}, 0),
        ({"snaplen": 64}, PACKETS),
    ):
        await bus.ok("start", {**body, **options})
        status = await finished(bus)
        assert status["packets_captured"] == packets, options
        flows = (await bus.ok("flows"))["flows"]
        assert sum(flow["packets"] for flow in flows) == packets
        if "snaplen" in options:  # octets on the wire, whatever the snaplen
            assert sum(flow["bytes"] for flow in flows) == 2880 + 128 * 55
        await bus.ok("stop")


async def test_replay_speed_scales_the_recording(alpha: Agent, bus: Bus, tmp_path: Path) -> None:
    """200 seconds of recording at 400 times the speed take between 0.3 s and much less than 200
    s."""
    frame = conversation()[0].data
    path = write_pcap(
        tmp_path / "minutes.pcap", [at(START_NS + 20 * n * SECOND_NS, frame) for n in range(11)]
    )
    await bus.ok("start", {"interface": str(path), "backend": "file", "replay_speed": 400.0})
    status = await finished(bus)
    assert status["packets_captured"] == 11
    assert 0.45 <= status["uptime_sec"] < 100.0
    await bus.ok("stop")


async def test_stop_interrupts_a_slow_replay(alpha: Agent, bus: Bus, tmp_path: Path) -> None:
    frame = conversation()[0].data
    path = write_pcap(
        tmp_path / "hour.pcap", [at(START_NS + n * 3600 * SECOND_NS, frame) for n in range(2)]
    )
    await bus.ok("start", {"interface": str(path), "backend": "file", "replay_speed": 1.0})
    stopped = await bus.ok("stop")
    assert stopped["packets_captured"] <= 1
