"""Export over the bus: its collectors, its start and its end."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agents import Fleet, toml
from bus import Bus, Collector
from capturing import settled, start
from collectors import HOST, Inbox, Nfcapd, uniflows, without
from deadlines import eventually
from exports import FLOWS, allow_ipv6, collector, conversations, decoded, exported, lost
from netns import Sender, Wire
from packets import ethernet
from replay import finished, records_of

Write = Callable[..., Path]

# The client's loop does not matter here, and a wire costs time, so one loop is enough.
pytestmark = pytest.mark.asyncio(loop_factories=["uvloop"])


@pytest.fixture(autouse=True)
def inside(wire: Wire) -> Wire:
    return wire


@pytest.fixture
def sender(wire: Wire) -> Iterator[Sender]:
    sender = wire.sender()
    yield sender
    sender.close()


# ---- add, change, remove ---------------------------------------------------------------------


async def test_collectors_are_added_changed_and_removed(
    fleet: Fleet, bus: Bus, sender: Sender
) -> None:
    fleet.start("alpha")
    first, second = Inbox(), Inbox()
    await start(bus)
    status = await bus.ok("status")
    assert status["export"] is None
    assert status["metering"]["enabled"] is False

    reply = await bus.request("netflow.export.enable", collector(first.port, 9))
    assert reply.code == 200
    assert reply.body == {
        "host": "alpha",
        "status": "enabled",
        "collector_ip": HOST,
        "collector_port": first.port,
        "export_interval_sec": 60,
    }
    status = await bus.ok("status")
    assert status["metering"]["enabled"] is True, "export turns metering on"
    assert status["export"]["export_interval_sec"] == 60

    await bus.ok("netflow.export.enable", collector(second.port, export_interval_sec=20))
    await bus.ok("netflow.export.enable", collector(first.port, 5, export_interval_sec=30))
    reported = {one["collector_port"]: one for one in await exported(bus)}
    assert {port: one["version"] for port, one in reported.items()} == {
        first.port: 5,
        second.port: 10,
    }
    assert (await bus.ok("status"))["export"]["export_interval_sec"] == 20, (
        "the smallest interval applies"
    )

    reply = await bus.request("netflow.export.enable", collector(second.port, enable=False))
    assert (reply.code, reply.body["status"]) == (200, "disabled")
    assert [one["collector_port"] for one in await exported(bus)] == [first.port]
    assert (await bus.ok("status"))["export"]["export_interval_sec"] == 30
    reply = await bus.request("netflow.export.enable", collector(second.port, enable=False))
    assert (reply.code, reply.error) == (400, "invalid_collector")

    sender.send(packet.data for packet in conversations(10))
    await settled(bus, 10)
    await bus.ok("netflow.export.enable", collector(first.port, enable=False))
    status = await bus.ok("status")
    assert status["export"] is None
    assert status["metering"] == {
        "enabled": True,
        "flow_timeout_sec": 300,
        "active_timeout_sec": 60,
    }
    stopped = await bus.ok("stop")
    assert stopped["export"] is None
    first.close()
    second.close()


async def test_export_interval_is_the_active_timeout(
    fleet: Fleet, bus: Bus, sender: Sender
) -> None:
    """With export, records of an active flow leave after a second, until the collector is
    removed."""
    fleet.start("alpha")
    inbox = Inbox()
    flow = conversations(1)[0].data
    await start(bus, metering={"enable": True, "active_timeout_sec": 3600})
    await bus.ok("netflow.export.enable", collector(inbox.port, export_interval_sec=1))
    sender.send([flow])

    async def segments() -> int:
        sender.send([flow])
        return int((await bus.ok("status"))["records_by_reason"]["active"])

    async def two() -> bool:
        return await segments() >= 2

    await eventually(two, "two segments", interval_sec=0.2)
    datagrams: list[bytes] = []

    def reported() -> bool:
        datagrams.extend(inbox.take())
        return decoded(datagrams)[0] >= 1

    await eventually(reported, "a record at the collector")
    await bus.ok("netflow.export.enable", collector(inbox.port, enable=False))
    before = await segments()
    for _ in range(8):
        await asyncio.sleep(0.2)
        assert await segments() <= before + 1  # one record may have been in flight
    await bus.ok("stop")
    inbox.close()


async def test_start_enables_export_or_fails(fleet: Fleet, bus: Bus, capture_file: Write) -> None:
    fleet.start("alpha", export={"max_message_bytes": 512})
    path = str(capture_file(conversations()))
    inbox = Inbox()
    export = collector(inbox.port, export_interval_sec=5)
    await bus.ok("start", {"interface": path, "backend": "file", "export": export})
    status = await finished(bus)
    assert status["metering"]["enabled"]
    assert status["export"]["max_message_bytes"] == 512
    stopped = await bus.ok("stop")
    (one,) = stopped["export"]["collectors"]
    assert (one["records_sent"], one["packets_sent"], lost(one)) == (FLOWS, FLOWS, 0)
    datagrams = inbox.take()  # after the reply to stop, every record has arrived
    assert len(datagrams) == one["messages_sent"]
    assert max(map(len, datagrams)) <= 512
    assert decoded(datagrams) == (FLOWS, 0)
    inbox.close()


async def test_metrics_count_exported_records(fleet: Fleet, bus: Bus, capture_file: Write) -> None:
    fleet.start("alpha", metrics={"interval_sec": 0.2})
    inbox = Inbox()
    path = str(capture_file(conversations()))
    metering = {"enable": True, "flow_timeout_sec": 1}
    body = {"interface": path, "backend": "file", "metering": metering}
    await bus.ok("start", {**body, "export": collector(inbox.port)})
    await finished(bus)
    # The file's clock ends with the file: flows idle by then have left, the others remain.
    metrics = await bus.ok("metrics")
    (one,) = await exported(bus)
    assert metrics["export_records_sent"] == one["records_sent"]
    assert metrics["export_records_lost"] == 0
    await bus.ok("stop")
    inbox.close()


# ---- several collectors, standing collectors ---------------------------------------------------


async def test_standing_collectors_apply_to_every_session(
    fleet: Fleet, bus: Bus, capture_file: Write
) -> None:
    inboxes = [Inbox(), Inbox()]
    standing = [{"ip": HOST, "port": one.port, "version": 9} for one in inboxes]
    agent = fleet.start("alpha", export={"collectors": standing[:1]})
    body = {"interface": str(capture_file(conversations())), "backend": "file"}
    for expected in (1, 2):
        await bus.ok("start", body)
        reported = await exported(bus)
        assert [one["standing"] for one in reported] == [True] * expected
        await finished(bus)
        await bus.ok("stop")
        assert [bool(one.take()) for one in inboxes] == [True, expected == 2]
        agent.config_path.write_text(toml({**agent.config, "export": {"collectors": standing}}))
        agent.signal(signal.SIGHUP)
        await eventually(lambda: "reloaded" in agent.log, "the configuration to be read again")
    left_out = collector(inboxes[0].port, enable=False)
    await bus.ok("start", {**body, "export": left_out})
    assert [one["collector_port"] for one in await exported(bus)] == [inboxes[1].port]
    await bus.ok("stop")
    await bus.ok("start", {"interface": "lo", "backend": "pcap"})
    assert await exported(bus) == [], "the portable fallback cannot meter"
    await bus.ok("stop")
    for one in inboxes:
        one.close()


async def test_ipv4_and_ipv6_collectors_at_once(
    fleet: Fleet, bus: Bus, capture_file: Write, tmp_path: Path
) -> None:
    allow_ipv6("lo")
    fleet.start("alpha")
    collectors = {
        address: Nfcapd(tmp_path / f"nfcapd{number}", address=address)
        for number, address in enumerate((HOST, "::1"))
    }
    path = str(capture_file(conversations()))
    first, second = (
        collector(one.port, version, ip=address)
        for version, (address, one) in zip((9, 10), collectors.items(), strict=True)
    )
    stream = await Collector.listen(bus)
    # Paced, so that the second collector is added before the first record.
    paced = {"interface": path, "backend": "file", "replay_speed": 1.0, "export": first}
    started = await bus.ok("start", paced)
    await bus.ok("netflow.export.enable", {**second, "collector_ip": "0:0:0:0:0:0:0:1"})
    await finished(bus)
    stopped = await bus.ok("stop")
    records = await records_of(stream, started["session_id"], stopped)
    for one in collectors.values():
        assert one.flows() == uniflows(records)
        assert one.summary()["Sequence Errors"] == 0


async def test_live_capture_exports_interface_indexes(
    fleet: Fleet, bus: Bus, wire: Wire, sender: Sender, tmp_path: Path
) -> None:
    fleet.start("alpha")
    collectors = {version: Nfcapd(tmp_path / f"nfcapd{version}") for version in (5, 9, 10)}
    stream = await Collector.listen(bus)
    started = await start(bus)
    for version, one in collectors.items():
        await bus.ok("netflow.export.enable", collector(one.port, version))
    tagged = [ethernet(p.data[14:], vlans=(100 + n,)) for n, p in enumerate(conversations(20))]
    sender.send(tagged)
    await settled(bus, len(tagged))
    stopped = await bus.ok("stop")
    records = await records_of(stream, started["session_id"], stopped)
    ifindex = wire.link()["ifindex"]
    expected = uniflows(records, ifindex=ifindex)
    assert {(flow.input, flow.output) for flow in expected} == {(ifindex, 0)}
    assert {flow.vlan for flow in expected} == set(range(100, 120))
    assert collectors[5].flows() == without(expected, "vlan")
    assert collectors[9].flows() == collectors[10].flows() == expected
    assert {one.summary()["Sequence Errors"] for one in collectors.values()} == {0}
