"""A collector is absent, refuses, has no route, is slow or starts late.

Capture continues. Every record is counted as sent, or as lost with its cause. Export resumes
automatically.
"""

from __future__ import annotations

import itertools
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agents import Fleet
from bus import Bus
from capturing import settled, start
from collectors import HOST, Inbox, Sniffer, Tshark, next_port
from deadlines import eventually, eventually_now
from exports import FLOWS, collector, conversations, decoded, exported, lost
from netns import PEER_ADDRESS, Sender, Wire, in_namespace
from packets import read_capture, write_pcap
from replay import finished

FAR_DEVICE, FAR_COLLECTOR = "far0", "10.78.0.2"
fresh = itertools.count(100_000, 1000)  # sequence numbers of made-up conversations
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


async def test_refused_collector_is_counted_reported_and_resumed(
    fleet: Fleet, bus: Bus, sender: Sender
) -> None:
    """No collector listens, so ICMP rejects the datagrams. Then one starts."""
    fleet.start("alpha", metrics={"interval_sec": 0.2})
    port = next_port()
    events = await bus.events(kind="alarm")
    await start(bus, metering={"enable": True, "flow_timeout_sec": 1})
    await bus.ok("netflow.export.enable", collector(port))
    sender.send(packet.data for packet in conversations(100))

    async def refused() -> bool:
        (one,) = await exported(bus)
        return int(one["records_lost"]["refused"]) > 0 and one["refusals"] > 0

    await eventually(refused, "records to be lost")
    await eventually(lambda: bool(events.all()), "an alarm")
    alarm = events.all()[0]
    assert alarm["event"] == "export_records_lost"
    (blamed,) = alarm["data"]["collectors"]
    assert (blamed["collector_ip"], blamed["collector_port"]) == (HOST, port)
    assert "refused" in blamed["last_error"].lower()

    inbox = Inbox(port=port)
    (before,) = await exported(bus)

    async def resumed() -> bool:
        sender.send(packet.data for packet in conversations(50, first=next(fresh)))
        (one,) = await exported(bus)
        return int(one["records_sent"]) > int(before["records_sent"]) and bool(inbox.take())

    await eventually(resumed, "export to resume", interval_sec=0.3)
    status = await bus.ok("status")
    assert status["packets_dropped"] == 0
    metrics = await bus.ok("metrics")
    assert metrics["export_records_lost"] > 0
    stopped = await bus.ok("stop")
    (one,) = stopped["export"]["collectors"]
    assert one["records_sent"] + lost(one) == stopped["records"]
    assert one["packets_sent"] + one["packets_lost"] == stopped["packets_recorded"]
    inbox.close()


async def test_unroutable_collector_does_not_affect_another(
    fleet: Fleet, bus: Bus, wire: Wire, sender: Sender
) -> None:
    """Two collectors are independent. A route to the first one appears later."""
    fleet.start("alpha")
    inbox = Inbox()
    await start(bus, metering={"enable": True, "flow_timeout_sec": 1})
    away = collector(next_port(), ip=PEER_ADDRESS)
    await bus.ok("netflow.export.enable", away)
    await bus.ok("netflow.export.enable", collector(inbox.port))
    sender.send(packet.data for packet in conversations(100))

    async def reported() -> bool:
        one, other = await exported(bus)
        return lost(one) == 100 and other["records_sent"] == 100

    await eventually(reported, "one collector to lose and one to receive a hundred records")
    one, other = await exported(bus)
    assert one["connected"] is False
    assert "unreachable" in one["last_error"].lower()
    assert (other["connected"], lost(other)) == (True, 0)
    assert decoded(inbox.take()) == (100, 0)
    assert (await bus.ok("status"))["packets_dropped"] == 0

    wire.host_ip("addr", "add", "10.77.0.1/24", "dev", "sonde0")

    async def resumed() -> bool:
        sender.send(packet.data for packet in conversations(20, first=next(fresh)))
        one, _ = await exported(bus)
        return bool(one["connected"]) and int(one["records_sent"]) > 0

    await eventually(resumed, "export to resume", interval_sec=0.3)
    await bus.ok("stop")
    inbox.close()


async def test_full_queue_blocks_nothing(
    fleet: Fleet, bus: Bus, wire: Wire, sender: Sender
) -> None:
    """The link to the collector carries 64 kbit/s until the test removes the limit."""
    fleet.start("alpha")
    narrow_way(wire)
    inbox = in_namespace(wire.peer, lambda: Inbox(FAR_COLLECTOR))
    far = collector(inbox.port, ip=FAR_COLLECTOR)
    await start(bus, metering={"enable": True, "flow_timeout_sec": 1})
    await bus.ok("netflow.export.enable", far)
    for number in range(20):
        sender.send(packet.data for packet in conversations(1000, first=1000 * number))
    await settled(bus, 20_000)

    async def no_room() -> bool:
        (one,) = await exported(bus)
        return int(one["records_lost"]["no_room"]) > 0

    await eventually(no_room, "records to be dropped for lack of room")
    assert (await bus.ok("status"))["packets_dropped"] == 0
    widen_way()
    (before,) = await exported(bus)

    async def resumed() -> bool:
        sender.send(packet.data for packet in conversations(20, first=next(fresh)))
        (one,) = await exported(bus)
        return int(one["records_sent"]) > int(before["records_sent"]) + 20

    await eventually(resumed, "export to resume", interval_sec=0.3)
    stopped = await bus.ok("stop")
    (one,) = stopped["export"]["collectors"]
    assert one["records_sent"] + lost(one) == stopped["records"]
    assert one["packets_sent"] + one["packets_lost"] == stopped["packets_recorded"]
    assert stopped["packets_dropped"] == 0
    inbox.close()


def narrow_way(wire: Wire) -> None:
    """Adds a second veth pair, which is not captured, with a slow queue at its near end."""
    wire.connect(FAR_DEVICE, "farpeer0")
    wire.host_ip("link", "set", FAR_DEVICE, "arp", "on")
    wire.peer_ip("link", "set", "farpeer0", "arp", "on")
    wire.host_ip("addr", "add", "10.78.0.1/24", "dev", FAR_DEVICE)
    wire.peer_ip("addr", "add", f"{FAR_COLLECTOR}/24", "dev", "farpeer0")
    queue = ["root", "tbf", "rate", "64kbit", "burst", "2000", "limit", "10000000"]
    subprocess.run(["tc", "qdisc", "replace", "dev", FAR_DEVICE, *queue], check=True)


def widen_way() -> None:
    subprocess.run(["tc", "qdisc", "del", "dev", FAR_DEVICE, "root"], check=True)


def leave_out(path: Path, number: int, to: Path) -> None:
    kept = read_capture(path)
    del kept[number - 1]
    write_pcap(to, kept)


async def test_collector_recovers_from_lost_templates(
    fleet: Fleet, bus: Bus, capture_file: Write, tmp_path: Path
) -> None:
    """A collector that missed the first templates decodes after their refresh."""
    fleet.start("alpha", export={"max_message_bytes": 512})
    inbox = Inbox()
    sniffer = Sniffer(tmp_path / "sniffer")
    path = str(capture_file(conversations()))
    body = {"interface": path, "backend": "file", "export": collector(inbox.port)}
    await bus.ok("start", body)
    await finished(bus)
    (one,) = (await bus.ok("stop"))["export"]["collectors"]
    datagrams = inbox.take()
    assert decoded(datagrams) == (FLOWS, 0)
    waited = [decoded(datagrams[lost_first:])[1] for lost_first in range(2, 25)]
    assert 0 < max(waited) <= 20, "templates are repeated within 20 messages"
    sniffer.finish(one["messages_sent"])
    whole = Tshark(sniffer.path, [inbox.port])
    assert whole.complaints() == ""
    cut = tmp_path / "cut.pcap"
    leave_out(sniffer.path, 5, cut)
    assert Tshark(cut, [inbox.port]).complaints() != "", "tshark reports the missing templates"
    inbox.close()


async def test_restart_sends_templates_again(fleet: Fleet, bus: Bus, capture_file: Write) -> None:
    inbox = Inbox()
    standing = {"collectors": [{"ip": HOST, "port": inbox.port, "version": 10}]}
    agent = fleet.start("alpha", export=standing)
    body = {"interface": str(capture_file(conversations(30))), "backend": "file"}
    for _ in range(2):
        await bus.ok("start", body)
        await finished(bus)
        await bus.ok("stop")
        datagrams = inbox.take()
        assert decoded(datagrams) == (30, 0)
        assert int.from_bytes(datagrams[0][8:12], "big") == 0, "the first sequence number"
        agent.terminate()
        agent.start()
    inbox.close()


async def test_capture_ends_while_nats_is_away(fleet: Fleet, bus: Bus, capture_file: Write) -> None:
    """Records reach the collectors although the server is gone."""
    inbox = Inbox()
    many = 3000
    agent = fleet.start(
        "alpha",
        flows={"record_ring_size": 256, "flow_table_size": 8192},
        export={"collectors": [{"ip": HOST, "port": inbox.port, "version": 9}]},
    )
    live = conversations(many)
    await bus.ok("start", {"interface": str(capture_file(live)), "backend": "file"})
    await finished(bus)
    fleet.server.kill()
    agent.signal(signal.SIGTERM)
    eventually_now(lambda: agent.exit_code is not None, "the agent to end")
    assert agent.exit_code == 0
    fleet.agents.remove(agent)
    assert decoded(inbox.take()) == (many, 0)
    inbox.close()
