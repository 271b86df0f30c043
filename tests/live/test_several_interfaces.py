"""One session over several interfaces: two veths and a macvlan on one of them.

Each interface has its own counters, flows, records and packets, and all are exact. An interface
that is deleted under load, or that appears later, does not disturb the others.
"""

from __future__ import annotations

import json
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

import capturing
import recording
from agents import Fleet
from bus import Bus, Collector, Events
from deadlines import eventually
from netns import Sender, Wire
from netsonde.collect.columns import IpfixRows
from netsonde.collect.templates import count_records
from netsonde.core.ipfix import decode_export
from packets import ARP as ARP_TYPE
from packets import UDP, arp, ethernet, ipv4, udp
from replay import check_conservation, check_lives, records_of
from servers import NatsServer

# Only the test's event loop varies, not the agent's, so one loop is enough.
pytestmark = pytest.mark.asyncio(loop_factories=["uvloop"])

UPPER = "mac0"  # on sonde1
UPPER_MAC = bytes.fromhex("020000007701")
METERING = {"enable": True}
BACKENDS: dict[str, dict[str, Any]] = {
    "af_packet": {"backend": "af_packet", "workers": 2, "metering": METERING},
    "pcap": {"backend": "pcap"},  # tracks flows, sends no records
    "xdp": {"backend": "xdp", "filter": "ether[0] >= 0", "metering": METERING},
    "xdp added up": {"backend": "xdp", "record": False, "metering": METERING},
}
each_backend = pytest.mark.parametrize("backend", BACKENDS)


@pytest.fixture
def nats_server(tmp_path: Path) -> Iterator[NatsServer]:
    config = f"max_payload: 8MB\n{recording.jetstream(tmp_path / 'js')}"
    server = NatsServer(tmp_path / "nats", config=config).start()
    yield server
    server.kill()


@pytest.fixture
def three(wire: Wire) -> Wire:
    connect_upper(wire)
    return wire


def connect_upper(wire: Wire) -> None:
    wire.connect("sonde1", "peer1")
    words = f"link add link sonde1 name {UPPER} address {UPPER_MAC.hex(':')} type macvlan"
    wire.host_ip(*words.split(), "mode", "bridge")
    wire.host_ip("link", "set", UPPER, "arp", "off", "up")


def frames(network: int, flows: int, each: int, *, dest: bytes = b"\2\0\0\0\0\2") -> list[bytes]:
    """Returns datagrams of `flows` flows, and three frames that are in no flow."""
    made = [
        ethernet(
            ipv4(udp(bytes(30), 1000, 53), UDP, f"10.{network}.0.{flow + 1}", "10.9.0.1"),
            dest=dest,
        )
        for _ in range(each)
        for flow in range(flows)
    ]
    return made + [ethernet(arp("10.0.0.1", "10.0.0.2"), ARP_TYPE, dest=dest)] * 3


# The first flow of network 1 is the same on both veths.
TO_FIRST = frames(1, 5, 20)
TO_SECOND = frames(1, 1, 30) + frames(2, 3, 10)
TO_UPPER = frames(3, 2, 7, dest=UPPER_MAC)
ON = {
    "sonde0": TO_FIRST,
    "sonde1": TO_SECOND + TO_UPPER,
    UPPER: TO_UPPER,
}


def in_flows(sent: Sequence[bytes]) -> int:
    return sum(frame[12:14] == b"\x08\x00" for frame in sent)


def send_all(wire: Wire) -> None:
    for device, made in (("peer0", TO_FIRST), ("peer1", TO_SECOND + TO_UPPER)):
        sender = wire.sender(device)
        sender.send(made)
        sender.close()


def by_name(status: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {one["name"]: one for one in status["interfaces"]}


def check_sums(status: dict[str, Any]) -> None:
    """The counters of the interfaces add up to the session's."""
    for counter in ("packets_captured", "packets_dropped", "packets_non_flow", "bytes_captured"):
        if counter in status:
            assert sum(one[counter] for one in status["interfaces"]) == status[counter], counter


async def interfaces_are(bus: Bus, names: set[str]) -> dict[str, Any]:
    async def ask() -> dict[str, Any] | None:
        status = await bus.ok("status")
        captured = {one["name"] for one in status["interfaces"] if one["captured"]}
        return status if captured == names else None

    return await eventually(ask, f"{sorted(names)} to be captured")


def interface_names(path: Path) -> Counter[str]:
    """Returns tshark's interface name of each packet, counted."""
    command = ["tshark", "-n", "-r", str(path), "-T", "fields", "-e", "frame.interface_name"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return Counter(done.stdout.split())


CHOICES = {
    "list": ("sonde0,sonde1,mac0", ("sonde0", "sonde1", UPPER)),
    "pattern": ("sonde0,mac*", ("sonde0", UPPER)),
    "layers": ("sonde*,mac*", ("sonde0", "sonde1")),
    "any": ("any", ("sonde0", "sonde1")),
}


@each_backend
@pytest.mark.parametrize("choice", CHOICES)
async def test_each_interface_is_exact(
    fleet: Fleet, bus: Bus, three: Wire, backend: str, choice: str, tmp_path: Path
) -> None:
    fleet.start()
    collector = await Collector.listen(bus)
    text, names = CHOICES[choice]
    sent = {name: ON[name] for name in names}
    options = BACKENDS[backend]
    started = await bus.ok("start", {"interface": text, **options})
    assert started["interface"] == text
    send_all(three)
    status = await capturing.settled(bus, sum(map(len, sent.values())))
    assert status["interface"] == text
    found = by_name(status)
    assert list(found) == list(names)
    for name, made in sent.items():
        one = found[name]
        assert one["ifindex"] == three.link(name)["ifindex"]
        assert (one["captured"], one["link_up"]) == (True, True)
        assert (one["packets_captured"], one["packets_dropped"]) == (len(made), 0), name
        assert one["packets_non_flow"] == len(made) - in_flows(made), name
        assert one["bytes_captured"] == sum(map(len, made)), name
    check_sums(status)

    listed = (await bus.ok("flows", {"limit": 100}))["flows"]
    expected = {name: in_flows(made) for name, made in sent.items()}
    assert packets_by_interface(listed, found) == expected
    if options.get("record", True):
        await recording.retrieve(bus, tmp_path)
        named = interface_names(tmp_path / "answer.pcapng")
        assert named == {f"alpha/{name}": len(made) for name, made in sent.items()}
    stopped = await bus.ok("stop")
    records = await records_of(collector, started["session_id"], stopped)
    check_lives(records)
    if "metering" in options:
        assert packets_by_interface(records, found) == expected
        assert len(records) == len(listed)


def packets_by_interface(
    flows: Sequence[dict[str, Any]], known: dict[str, dict[str, Any]]
) -> dict[str, int]:
    packets: Counter[str] = Counter()
    for flow in flows:
        assert flow["ifindex"] == known[flow["interface"]]["ifindex"]
        packets[flow["interface"]] += flow["packets"]
    return dict(packets)


async def test_columns_of_several_interfaces(fleet: Fleet, bus: Bus, three: Wire) -> None:
    """The collector reads the interface of each record of an IPFIX batch into columns."""
    fleet.start(flows={"encoding": "ipfix"})
    batches = await bus.messages("capture.stream.flows.alpha")
    text, names = CHOICES["list"]
    await bus.ok("start", {"interface": text, **BACKENDS["af_packet"]})
    send_all(three)
    status = await capturing.settled(bus, sum(len(ON[name]) for name in names))
    stopped = await bus.ok("stop")
    rows = IpfixRows()
    await eventually(
        lambda: sum(count_records(one.data)[0] for one in batches) == stopped["records_sent"],
        "every record",
    )
    for batch in batches:
        rows.add(batch.data, "alpha", "s")
    found = [row for table in rows.take_tables() for row in table.to_pylist()]
    expected = {name: in_flows(ON[name]) for name in names}
    assert packets_by_interface(found, by_name(status)) == expected
    lines = [line for batch in batches for line in decode_export(batch.data)]
    assert Counter(json.loads(line)["interface"] for line in lines) == Counter(
        row["interface"] for row in found
    )


# ---- hot-plug --------------------------------------------------------------------------------


class Load:
    """Sends frames at a steady rate on a thread, whatever the interface does."""

    def __init__(self, sender: Sender, made: Sequence[bytes]) -> None:
        self._sender = sender
        self._made = made
        self._stop = threading.Event()
        self.sent = 0
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.is_set():
            for frame in self._made:
                try:
                    self._sender.socket.send(frame)
                    self.sent += 1
                except OSError:
                    self._stop.wait(0.001)
            time.sleep(0.002)

    def end(self) -> int:
        self._stop.set()
        self._thread.join()
        self._sender.close()
        return self.sent


async def arrived(events: Events, name: str, interface: str) -> None:
    def seen() -> bool:
        found = [(one["event"], one["data"].get("interface")) for one in events.all()]
        return (name, interface) in found

    await eventually(seen, f"the event {name} of {interface}")


@each_backend
@pytest.mark.parametrize("text", ["sonde0,sonde1", "sonde*"])
async def test_one_deleted_and_created_again_under_load(
    fleet: Fleet, bus: Bus, three: Wire, backend: str, text: str
) -> None:
    fleet.start()
    collector = await Collector.listen(bus)
    started = await bus.ok("start", {"interface": text, **BACKENDS[backend]})
    events = await bus.events(kind="capture")
    first = Load(three.sender("peer0"), frames(1, 5, 1))
    try:
        for _ in range(2):
            second = Load(three.sender("peer1"), frames(2, 2, 1))
            before = by_name(await bus.ok("status"))["sonde1"]["packets_captured"]

            async def captured(before: int = before) -> bool:
                return bool(by_name(await bus.ok("status"))["sonde1"]["packets_captured"] > before)

            await eventually(captured, "packets on sonde1")
            events.messages.clear()
            three.host_ip("link", "delete", "sonde1")
            await arrived(events, "interface_deleted", "sonde1")
            if text == "sonde*":
                await arrived(events, "interface_removed", "sonde1")
            second.end()
            events.messages.clear()
            connect_upper(three)
            back = "interface_added" if text == "sonde*" else "interface_returned"
            await arrived(events, back, "sonde1")
    finally:
        sent = first.end()

    async def all_seen() -> dict[str, Any] | None:
        status = await bus.ok("status")
        one = by_name(status)["sonde0"]
        return status if one["packets_captured"] + one["packets_dropped"] >= sent else None

    await eventually(all_seen, "every packet on sonde0")
    status = await capturing.at_rest(bus)
    found = by_name(status)
    assert (found["sonde0"]["packets_captured"], found["sonde0"]["packets_dropped"]) == (sent, 0)
    assert found["sonde1"]["ifindex"] == three.link("sonde1")["ifindex"]
    check_sums(status)
    check_conservation(status)
    stopped = await bus.ok("stop")
    records = await records_of(collector, started["session_id"], stopped)
    check_lives(records)
    for name, one in found.items() if stopped["records"] else ():
        in_records = sum(record["packets"] for record in records if record["interface"] == name)
        assert in_records + one["packets_non_flow"] == one["packets_captured"], name


@each_backend
async def test_patterns_follow_the_host(fleet: Fleet, bus: Bus, wire: Wire, backend: str) -> None:
    fleet.start()
    await bus.ok("start", {"interface": "any", **BACKENDS[backend]})
    await interfaces_are(bus, {"sonde0"})
    events = await bus.events(kind="capture")
    connect_upper(wire)
    await interfaces_are(bus, {"sonde0", "sonde1"})
    await arrived(events, "interface_added", "sonde1")
    send_all(wire)
    status = await capturing.settled(bus, len(ON["sonde0"]) + len(ON["sonde1"]))
    assert by_name(status)["sonde1"]["packets_captured"] == len(ON["sonde1"])
    wire.host_ip("link", "delete", "sonde1")
    status = await interfaces_are(bus, {"sonde0"})
    await arrived(events, "interface_removed", "sonde1")
    assert by_name(status)["sonde1"]["packets_captured"] == len(ON["sonde1"])
    check_sums(status)
    check_conservation(status)


async def test_a_pattern_without_a_match_and_unknown_names_are_rejected(
    fleet: Fleet, bus: Bus, wire: Wire
) -> None:
    fleet.start()
    for backend, text, words in (
        ("af_packet", "nosuch*", "matches"),
        ("af_packet", "sonde0,nosuch0", "nosuch0"),
        ("dpdk", "sonde0,lo", "one interface"),
        ("pf_ring", "any", "one interface"),
    ):
        reply = await bus.request("start", {"interface": text, "backend": backend})
        assert (reply.code, reply.error) == (400, "invalid_interface"), reply
        assert words in reply.body["detail"]
        assert reply.body["field"] == "$.interface"
    assert not (await bus.ok("status"))["running"]


async def test_idle_patterns_wait_for_the_kernel(fleet: Fleet, bus: Bus, wire: Wire) -> None:
    """A session whose only interface is deleted keeps running and takes the next one."""
    fleet.start()
    await bus.ok("start", {"interface": "sonde*", "backend": "af_packet"})
    wire.host_ip("link", "delete", "sonde0")
    await interfaces_are(bus, set())
    wire.connect()
    await interfaces_are(bus, {"sonde0"})
    sender = wire.sender()
    sender.send(TO_FIRST)
    sender.close()
    await capturing.settled(bus, len(TO_FIRST))


async def test_interface_that_cannot_be_captured_is_reported_and_tried_again(
    fleet: Fleet, bus: Bus, wire: Wire
) -> None:
    """A session has at most 64 interfaces. The next one is added when another is removed."""
    fleet.start(capture={"ring_mb": 1})
    options = {"backend": "af_packet", "workers": 1, "metering": METERING}
    await bus.ok("start", {"interface": "sonde0,hot*", **options})
    events = await bus.events()
    for number in range(64):
        wire.host_ip(*f"link add hot{number} type veth peer name end{number}".split())

    async def failed() -> dict[str, Any] | None:
        return next((one for one in events.all() if one["event"] == "interface_failed"), None)

    event = await eventually(failed, "the alarm")
    late = event["data"]["interface"]
    assert event["detail"] == f"{late}: a session has at most 64 interfaces"
    sender = wire.sender("peer0")
    sender.send(TO_FIRST)
    sender.close()
    status = await capturing.settled(bus, len(TO_FIRST))
    found = by_name(status)
    assert found["sonde0"]["packets_captured"] == len(TO_FIRST)
    assert len(found) == 64
    assert late not in found
    other = next(name for name in found if name != "sonde0")
    wire.host_ip("link", "delete", other)
    await arrived(events, "interface_added", late)
    status = await bus.ok("status")
    check_sums(status)
    check_conservation(status)
    assert sum(one["event"] == "interface_failed" for one in events.all()) == 1
