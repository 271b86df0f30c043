"""The agent's own traffic is not captured, on the interface that carries its NATS connections.

nats-server and the test are in the `peer` namespace, the agent in `host`, so every NATS connection
on the wire is the agent's, except one that a test opens in `host`. tcpdump records the wire at its
other end. Counts are compared while the wire is silent: the counters are read over the host's
loopback, which is not captured.
"""

from __future__ import annotations

import contextlib
import re
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import capturing
import netns
import recording
from agents import Agent, Fleet
from bus import Bus
from deadlines import eventually
from netns import HOST_ADDRESS, HOST_DEVICE, PEER_ADDRESS, PEER_DEVICE, Wire
from packets import read_capture
from replay import check_conservation
from servers import NatsServer

HTTP_PORT, COLLECTOR_PORT = 19300, 24739
EQUAL_READINGS = 7
SYN_ACK = 0x12
METERING = {"enable": True, "flow_timeout_sec": 300, "active_timeout_sec": 60}
SOURCES: dict[str, dict[str, Any]] = {
    "af_packet": {"backend": "af_packet", "workers": 2, "record": True},
    "pcap": {"backend": "pcap", "record": True},
    "xdp_packets": {"backend": "xdp", "record": True},
    "xdp_added_up": {"backend": "xdp", "record": False},
}
each_source = pytest.mark.parametrize("source", SOURCES)


@pytest.fixture
def placed(wire: Wire) -> Iterator[Wire]:
    """A wire with addresses and without ARP and super-packets. The test is in `peer`."""
    for namespace, device in ((wire.host, HOST_DEVICE), (wire.peer, PEER_DEVICE)):
        netns.ip("-n", namespace, "link", "set", device, "mtu", "1500")
        netns.offload_set(namespace, device, tso=False, gso=False, gro=False)
    wire.address()
    host, peer = (wire.host, HOST_DEVICE, HOST_ADDRESS), (wire.peer, PEER_DEVICE, PEER_ADDRESS)
    for (namespace, device, _), (there, other, address) in ((host, peer), (peer, host)):
        shown = netns.ip("-n", there, "-o", "link", "show", "dev", other)
        found = re.search(r"link/ether (\S+)", shown)
        assert found is not None, shown
        neighbour = ("neigh", "replace", address, "lladdr", found[1], "dev", device)
        netns.ip("-n", namespace, *neighbour, "nud", "permanent")
    with netns.entered(wire.peer):
        yield wire


@pytest.fixture
def nats_server(tmp_path: Path, placed: Wire) -> Iterator[NatsServer]:
    server = NatsServer(
        tmp_path / "nats",
        config=recording.jetstream(tmp_path / "js"),
        address=PEER_ADDRESS,
        prefix=placed.peer_prefix,
    ).start()
    yield server
    server.kill()


class Counts(NamedTuple):
    captured: int
    non_flow: int
    wire: int  # packets on the wire, counted by the interface
    own: int  # packets of the agent, counted from tcpdump's file


class Observer:
    """tcpdump on the peer's end of the wire, and the agent's counters."""

    def __init__(self, wire: Wire, server: NatsServer, path: Path) -> None:
        self.wire = wire
        self.server = server
        self.path = path
        self.foreign: set[int] = set()  # local ports of connections that are not the agent's
        self._began = 0
        self._tcpdump: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = ["tcpdump", "-U", "-n", "-s", "128", "-B", "16384", "-i", PEER_DEVICE]
        self._tcpdump = subprocess.Popen(
            [*self.wire.peer_prefix, *command, "-w", str(self.path)], stderr=subprocess.PIPE
        )
        assert self._tcpdump.stderr is not None
        assert b"listening" in self._tcpdump.stderr.readline()
        self._began = self._on_wire()

    def stop(self) -> None:
        if self._tcpdump is not None:
            self._tcpdump.send_signal(signal.SIGTERM)
            self._tcpdump.communicate()

    def _on_wire(self) -> int:
        stats = self.wire.link()["stats64"]
        return int(stats["rx"]["packets"] + stats["tx"]["packets"])

    def tuples(self) -> list[tuple[int, int, int]]:
        """Returns (protocol, host's port, peer's port) of each packet of the file. All are IPv4."""
        found = []
        for packet in read_capture(self.path):
            frame = packet.data
            ports = frame[34:36], frame[36:38]
            source, dest = (int.from_bytes(one) for one in ports)
            from_host = frame[26:30] == socket.inet_aton(HOST_ADDRESS)
            found.append((frame[23], *((source, dest) if from_host else (dest, source))))
        return found

    def is_own(self, one: tuple[int, int, int]) -> bool:
        protocol, here, there = one
        if protocol == socket.IPPROTO_UDP:
            return there == COLLECTOR_PORT
        nats = there == self.server.port and here not in self.foreign
        return protocol == socket.IPPROTO_TCP and (nats or here == HTTP_PORT)

    def accepted(self) -> int:
        """Returns how many connections to the server it has accepted, counted by SYN-ACKs with
        different sequence numbers: the kernel may give a port twice."""
        assert self._tcpdump is not None
        assert self._tcpdump.poll() is None, "tcpdump has ended"
        frames = [packet.data for packet in read_capture(self.path)]
        port = self.server.port.to_bytes(2)
        return len(
            {
                (frame[36:38], frame[38:42])
                for frame in frames
                if frame[23] == socket.IPPROTO_TCP
                and frame[34:36] == port
                and frame[47] & SYN_ACK == SYN_ACK
            }
        )

    def print_sockets(self) -> None:
        for prefix in (self.wire.prefix, self.wire.peer_prefix):
            subprocess.run([*prefix, "ss", "-tanpio"], check=False)

    def own_ports(self) -> set[int]:
        return {one[1] for one in self.tuples() if self.is_own(one)}

    async def silent(self) -> Counts:
        """Returns the counts of a silent wire, which a capture reports with a delay."""
        last: Counts | None = None
        calm = capturing.Calm()

        async def ask() -> Counts | None:
            nonlocal last
            calm.look()
            now = self._read()
            calm.count(now is not None and now == last)
            last = now
            return now if calm.lasts(EQUAL_READINGS) else None

        return await eventually(ask, "the wire to be silent", interval_sec=0.05)

    def _read(self) -> Counts | None:
        """Returns None while tcpdump has not written every packet."""
        wire = self._on_wire()
        tuples = self.tuples()
        if len(tuples) != wire - self._began:
            return None
        return Counts(*self._counters(), wire, sum(map(self.is_own, tuples)))

    def _counters(self) -> tuple[int, int]:
        text = netns.in_namespace(self.wire.host, lambda: http_get("127.0.0.1"))
        return counter(text, "packets_captured"), counter(text, "packets_non_flow")

    async def difference(self, before: Counts) -> Counts:
        """Returns by how much the counts grew. Waits until the capture has counted all packets."""

        async def ask() -> Counts | None:
            now = await self.silent()
            grown = Counts(*(new - old for new, old in zip(now, before, strict=True)))
            return grown if grown.captured == grown.wire else None

        return await eventually(ask, "the capture to count every packet")


def http_get(address: str) -> str:
    with socket.create_connection((address, HTTP_PORT), 10) as stream:
        stream.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
        heard = b""
        while chunk := stream.recv(65536):
            heard += chunk
    return heard.decode()


def counter(text: str, name: str) -> int:
    found = re.search(rf"^netsonde_{name}_total{{[^}}]*}} (\S+)$", text, re.M)
    return int(float(found[1])) if found is not None else 0


@pytest.fixture
def observer(placed: Wire, nats_server: NatsServer, tmp_path: Path) -> Iterator[Observer]:
    observer = Observer(placed, nats_server, tmp_path / "wire.pcap")
    observer.start()
    yield observer
    observer.stop()


@pytest.fixture
def collector(placed: Wire) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.bind((PEER_ADDRESS, COLLECTOR_PORT))
        yield receiver


def begin(fleet: Fleet, own_traffic: str = "exclude") -> Agent:
    return fleet.start(
        capture={"own_traffic": own_traffic},
        flows={"jetstream": True, "spool_dir": fleet.directory / "spool"},
        http={"listen": f"0.0.0.0:{HTTP_PORT}"},
        metrics={"interval_sec": 3600},  # else the wire is never silent
    )


async def start(bus: Bus, source: str) -> dict[str, Any]:
    options = dict(SOURCES[source])
    if meters(source):
        exported = {"collector_ip": PEER_ADDRESS, "collector_port": COLLECTOR_PORT}
        options |= {"metering": METERING, "export": exported}
    return await capturing.start(bus, **options)


def meters(source: str) -> bool:
    """pcap follows flows, but makes no records."""
    return source != "pcap"


@contextlib.contextmanager
def other_client(observer: Observer) -> Iterator[socket.socket]:
    """A NATS connection of another process on the agent's host."""
    address = (PEER_ADDRESS, observer.server.port)
    client = netns.in_namespace(observer.wire.host, lambda: socket.create_connection(address))
    with client:
        observer.foreign.add(client.getsockname()[1])
        client.sendall(b'CONNECT {"verbose":false}\r\nPING\r\n')
        heard = b""
        while b"PONG" not in heard:
            heard += client.recv(65536)
        yield client


async def listed_ports(bus: Bus) -> set[int]:
    """Returns the ports of all active flows."""
    listing = await bus.ok("flows", {"limit": 10000})
    ports = ("source_port", "dest_port")
    return {flow[name] for flow in listing["flows"] for name in ports}


async def only_listed(bus: Bus, wanted: set[int]) -> None:
    """Waits until the capture has read the packets of these ports. A flow stays in the list."""

    async def ask() -> bool:
        return await listed_ports(bus) >= wanted

    await eventually(ask, f"the flows of {wanted}")
    assert await listed_ports(bus) == wanted


async def work(bus: Bus, source: str, directory: Path) -> list[Any]:
    """Makes much traffic of the agent. Returns the retrieved packets."""
    for _ in range(20):
        await bus.ok("flows", {"limit": 100})
    assert "netsonde_build_info" in http_get(HOST_ADDRESS)
    if not SOURCES[source]["record"]:
        return []
    _, found = await recording.retrieve(bus, directory)
    return found


def ports_of(frames: list[Any]) -> set[int]:
    """Returns the TCP and UDP ports of IPv4 frames."""
    ports = set()
    for packet in frames:
        if packet.data[12:14] == b"\x08\x00" and packet.data[23] in (6, 17):
            ports |= {int.from_bytes(packet.data[at : at + 2]) for at in (34, 36)}
    return ports


@each_source
async def test_own_packets_are_counted_and_nothing_else(
    fleet: Fleet,
    bus: Bus,
    observer: Observer,
    collector: socket.socket,
    tmp_path: Path,
    source: str,
) -> None:
    begin(fleet)
    await start(bus, source)
    before = await observer.silent()
    with other_client(observer):
        others = {*observer.foreign, observer.server.port}
        await only_listed(bus, others)
        found = await work(bus, source, tmp_path)
        assert await listed_ports(bus) == others
    grown = await observer.difference(before)
    assert grown.own > 50
    assert grown.non_flow == grown.own
    assert grown.wire > grown.own  # the other client's packets are in flows
    if SOURCES[source]["record"]:
        assert ports_of(found) == others
    if meters(source):
        assert collector.recv(2048)
    await reconnected(bus, observer)
    assert not await listed_ports(bus) & observer.own_ports()
    status = await bus.ok("status")
    check_conservation(status)
    assert status["non_flow"]["own"] == status["packets_non_flow"]
    assert status["packets_dropped"] == 0


async def reconnected(bus: Bus, observer: Observer) -> None:
    """Restarts the server. Both connections of the agent come back, and all of their packets count
    as own."""
    before = await observer.silent()
    accepted = observer.accepted()
    observer.server.kill()
    observer.server.start()
    await bus.returned()
    try:
        await eventually(lambda: observer.accepted() >= accepted + 2, "the agent to reconnect")
    except AssertionError:
        observer.print_sockets()
        raise
    await bus.ok("status")
    grown = await observer.difference(before)
    assert grown.non_flow == grown.own == grown.wire


@pytest.mark.parametrize("source", ["af_packet", "xdp_added_up"])
async def test_include_meters_the_agents_connections(
    fleet: Fleet, bus: Bus, observer: Observer, tmp_path: Path, source: str
) -> None:
    begin(fleet, "include")
    await start(bus, source)
    before = await observer.silent()
    await work(bus, source, tmp_path)
    grown = await observer.difference(before)
    assert grown.own > 0
    assert grown.non_flow == 0
    ports = observer.own_ports()
    assert len(await listed_ports(bus) & ports) >= 3  # two connections, HTTP
    status = await bus.ok("status")
    check_conservation(status)
    assert status["non_flow"]["own"] == 0


async def test_own_traffic_on_loopback(
    fleet: Fleet, bus: Bus, placed: Wire, tmp_path: Path
) -> None:
    """A capture of lo sees both ends of each connection."""
    server = NatsServer(tmp_path / "here", prefix=placed.prefix).start()
    try:
        agent = fleet.agent("alpha", nats={"servers": [server.url]})
        with netns.entered(placed.host):
            agent.start()
            here = await Bus.connect(server.url)
            await here.ok(
                "start", {"interface": "lo", "backend": "af_packet", "metering": METERING}
            )
            for _ in range(20):
                await here.ok("flows", {"limit": 100})
            transport: Any = here.client._transport
            client = transport._io_writer.get_extra_info("sockname")[1]
            await only_listed(here, {client, server.port})

            async def counted() -> dict[str, Any] | None:
                status = await here.ok("status")
                return status if status["non_flow"]["own"] >= 20 else None

            check_conservation(await eventually(counted, "the agent's packets to be counted"))
            assert await listed_ports(here) == {client, server.port}
            await here.close()
            assert agent.terminate() == 0
            fleet.agents.remove(agent)
    finally:
        server.kill()
