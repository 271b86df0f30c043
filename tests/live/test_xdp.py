"""The xdp backend in each mode: same flows, both directions, every packet counted."""

from __future__ import annotations

import asyncio
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from iperf import transfer
from test_gso import MEGABYTES, WITHIN, queue_counters
from xdp_modes import ATTACH, MODES, each_mode, each_shared_mode

import capturing
import netns
import oracle
from agents import Fleet
from bus import Bus, Collector
from netns import HOST_DEVICE, PEER_ADDRESS, PEER_DEVICE, Sender, Wire
from packets import ACK, FIN, RST, SYN, TCP, UDP, ethernet, ipv4, tcp, udp
from replay import check_lives, records_of
from servers import NatsServer

A, B = "10.0.0.1", "10.0.0.2"


@pytest.fixture
def nats_server(tmp_path: Path) -> Iterator[NatsServer]:
    """A server whose messages fit a reply with all two thousand flows of the largest trace."""
    server = NatsServer(tmp_path / "nats", config="max_payload: 8MB").start()
    yield server
    server.kill()


@each_mode
async def test_traces_match_the_oracle(fleet: Fleet, bus: Bus, sender: Sender, mode: str) -> None:
    fleet.start()
    traces = oracle.traces()
    assert traces, "the shared traces are missing: set NETSONDE_TRACES"
    wrong = []
    for trace in traces:
        await capturing.start(bus, "xdp", **MODES[mode])
        offered = sender.send(oracle.frames(trace))
        status = await capturing.settled(bus, offered)
        assert ATTACH[mode] in status["attach"]
        flows = (await bus.ok("flows", {"limit": 10000}))["flows"]
        if status["packets_dropped"] or oracle.digest(flows) not in trace.accepted("flows_sha256"):
            wrong.append(f"{trace.path.name}: {status}\n" + "\n".join(oracle.flow_lines(flows)[:9]))
        await bus.ok("stop")
    assert not wrong, "\n".join(wrong)


@each_shared_mode
@pytest.mark.parametrize("tunnel", ["outer", "inner"])
async def test_records_of_four_workers_match_the_oracle(
    fleet: Fleet, bus: Bus, sender: Sender, mode: str, tunnel: str
) -> None:
    fleet.start(flows={"tunnel": tunnel})
    digest = "flows_sha256" if tunnel == "outer" else "inner_flows_sha256"
    collector = await Collector.listen(bus)
    wrong = []
    for trace in oracle.traces():
        options = {"workers": 4, "metering": {"enable": True}, **MODES[mode]}
        started = await capturing.start(bus, "xdp", **options)
        offered = sender.send(oracle.frames(trace))
        await capturing.settled(bus, offered)
        records = await records_of(collector, started["session_id"], await bus.ok("stop"))
        check_lives(records)
        if oracle.digest(records) not in trace.accepted(digest):
            wrong.append(trace.path.name + "\n" + "\n".join(oracle.flow_lines(records)[:9]))
    assert not wrong, "\n".join(wrong)


@each_mode
async def test_priority_tag_is_no_vlan(fleet: Fleet, bus: Bus, sender: Sender, mode: str) -> None:
    """In copied packets (a SYN, and the first of a flow) and in those that the kernel adds up."""
    frames = [ethernet(ipv4(tcp(b"", 40000, 80, SYN), TCP, A, B), vlans=(5 << 13,))]
    for _ in range(20):
        frames += [
            ethernet(ipv4(tcp(bytes(10), 40000, 80), TCP, A, B), vlans=(5 << 13,)),
            ethernet(ipv4(tcp(bytes(10), 80, 40000), TCP, B, A)),
            ethernet(ipv4(udp(bytes(8), 1001, 53), UDP, A, B), vlans=(10, 5 << 13)),
            ethernet(ipv4(udp(bytes(8), 53, 1001), UDP, B, A), vlans=(10,)),
        ]
    fleet.start()
    await capturing.start(bus, "xdp", **MODES[mode])
    sender.send(frames)
    await capturing.settled(bus, len(frames))
    flows = (await bus.ok("flows", {"limit": 100}))["flows"]
    assert oracle.flow_lines(flows) == [
        "10|4|17|10.0.0.1|1001|10.0.0.2|53|20|720|20|720",
        "|4|6|10.0.0.1|40000|10.0.0.2|80|21|1040|20|1000",
    ]
    await bus.ok("stop")


def ping_twenty_times(wire: Wire) -> None:
    ping = ["ping", "-c", "20", "-i", "0.01", "-q", PEER_ADDRESS]
    subprocess.run([*wire.prefix, *ping], check=True, capture_output=True)


@each_shared_mode
async def test_both_directions_of_the_hosts_traffic_are_captured(
    fleet: Fleet, bus: Bus, wire: Wire, mode: str
) -> None:
    wire.address()
    fleet.start()
    await capturing.start(bus, "xdp", **MODES[mode])
    ping_twenty_times(wire)
    await capturing.at_rest(bus)
    flows = (await bus.ok("flows", {"filter": {"protocol": "ICMP"}}))["flows"]
    assert [(f["packets"], f["reverse_packets"], f["direction"]) for f in flows] == [
        (40, 20, "egress")
    ]
    await bus.ok("stop")


@each_shared_mode
@pytest.mark.parametrize("back", [False, True], ids=["sending", "receiving"])
async def test_super_packets_count_as_wire_packets(
    fleet: Fleet, bus: Bus, wire: Wire, mode: str, back: bool
) -> None:
    for namespace, device in ((wire.host, HOST_DEVICE), (wire.peer, PEER_DEVICE)):
        netns.ip("-n", namespace, "link", "set", device, "mtu", "1500")
        netns.queue_add(namespace, device)
    wire.address()
    fleet.start(capture={"ring_mb": 256})
    # Only the packet heads are captured, so none is lost. The test checks the counts.
    await capturing.start(bus, "xdp", snaplen=128, **MODES[mode])
    before = queue_counters(wire)
    transfer(wire, MEGABYTES, back=back)
    status = await capturing.at_rest(bus)
    packets, octets = (
        after - then for after, then in zip(queue_counters(wire), before, strict=True)
    )
    assert status["packets_dropped"] == 0
    assert status["frames_captured"] < packets / 4, "the stream had too few super-packets"
    assert status["packets_captured"] == pytest.approx(packets, rel=WITHIN)
    assert status["bytes_captured"] == pytest.approx(octets, rel=WITHIN)
    await bus.ok("stop")


def segment(flags: int, seq: int, payload: int = 0, *, back: bool = False) -> bytes:
    """A segment of a TCP connection from A to B, or back."""
    ports, ends = ((80, 4000), (B, A)) if back else ((4000, 80), (A, B))
    return ethernet(ipv4(tcp(bytes(payload), *ports, flags, seq=seq), TCP, *ends))


def connection(end: int) -> list[bytes]:
    """A connection with 3 × 100 bytes, the second sent twice, closed by both FINs or an RST."""
    opening = [segment(SYN, 99), segment(SYN | ACK, 499, back=True), segment(ACK, 100)]
    data = [segment(ACK, seq, 100) for seq in (100, 200, 200, 300)]
    if end == RST:
        return [*opening, *data, segment(RST, 400)]
    fins = [segment(FIN | ACK, 400), segment(FIN | ACK, 500, back=True), segment(ACK, 401)]
    return [*opening, *data, *fins]


@each_shared_mode
async def test_tcp_ports_reused_at_once_are_two_flows(
    fleet: Fleet, bus: Bus, sender: Sender, mode: str
) -> None:
    """Both fall between two reads of the kernel's sums. Each packet counts for its connection."""
    fleet.start()
    collector = await Collector.listen(bus)
    options = {"metering": {"enable": True}, **MODES[mode]}
    started = await capturing.start(bus, "xdp", **options)
    lives = [connection(end) for end in (FIN, RST, FIN)]
    await capturing.settled(bus, sender.send([frame for life in lives for frame in life]))
    records = await records_of(collector, started["session_id"], await bus.ok("stop"))
    check_lives(records)
    records.sort(key=lambda record: str(record["first_seen"]))
    assert [record["packets"] for record in records] == [len(life) for life in lives]
    assert [record["retransmissions"] for record in records] == [1, 1, 1]
    assert [record["reverse_packets"] for record in records] == [2, 1, 2]
    for record in records:
        assert record["source_ip"] == A
        assert record["handshake_rtt_us"] is not None


@each_shared_mode
async def test_idle_timeout_includes_packets_counted_in_the_kernel(
    fleet: Fleet, bus: Bus, sender: Sender, mode: str
) -> None:
    """A packet every 0.4 s keeps a flow with a timeout of 5 s active for 8 s."""
    fleet.start()
    collector = await Collector.listen(bus)
    metering = {"enable": True, "flow_timeout_sec": 5}
    started = await capturing.start(bus, "xdp", metering=metering, **MODES[mode])
    for _ in range(20):
        sender.send([ethernet(ipv4(udp(b"12345678", 1001, 53), UDP, A, B))])
        await asyncio.sleep(0.4)
    records = await collector.packets_of(started["session_id"], 20)
    await bus.ok("stop")
    assert [(r["packets"], r["end_reason"]) for r in records] == [(20, "idle")]


def openings(count: int) -> list[bytes]:
    """SYNs of many connections, which the kernel never adds up."""
    sample = [
        ethernet(ipv4(tcp(bytes(40), 1000 + n, 80, SYN), TCP, f"10.0.0.{n % 250 + 1}", "10.1.0.1"))
        for n in range(500)
    ]
    return [sample[n % len(sample)] for n in range(count)]


@each_mode
@pytest.mark.parametrize("workers", [1, 4])
async def test_frozen_reader_counts_drops(
    fleet: Fleet, bus: Bus, wire: Wire, sender: Sender, mode: str, workers: int
) -> None:
    agent = fleet.start(capture={"ring_mb": 1})
    await capturing.start(bus, "xdp", workers=workers, **MODES[mode])
    before = capturing.delivered(wire)
    agent.signal(signal.SIGSTOP)
    sender.send(openings(60_000))
    agent.signal(signal.SIGCONT)
    offered = capturing.delivered(wire) - before
    assert offered > 30_000
    status = await capturing.settled(bus, offered)
    assert status["packets_dropped"] > 0
    stopped = await bus.ok("stop")
    assert stopped["packets_captured"] + stopped["packets_dropped"] == offered


async def test_frozen_reader_loses_nothing_added_up_in_the_kernel(
    fleet: Fleet, bus: Bus, wire: Wire, sender: Sender
) -> None:
    """Flows beyond the table's slots are sent to the ring and counted there."""
    agent = fleet.start(capture={"ring_mb": 4})
    await capturing.start(bus, "xdp", **MODES["added_up"])
    agent.signal(signal.SIGSTOP)
    few = [ethernet(ipv4(udp(bytes(9), 1000 + n, 53), UDP, A, B)) for n in range(500)]
    many = [
        ethernet(ipv4(udp(bytes(9), n, 53), UDP, f"10.9.{n % 200}.1", B)) for n in range(10_000)
    ]
    offered = sender.send(few * 100) + sender.send(many)
    agent.signal(signal.SIGCONT)
    status = await capturing.settled(bus, offered)
    assert status["packets_dropped"] == 0
    assert (await bus.ok("flows"))["active_flows"] == 10_500
    assert (await bus.ok("stop"))["packets_captured"] == offered
