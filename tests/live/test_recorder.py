"""Criterion 1 of the flight recorder: it returns exactly the packets that were on the wire.

Frames go over a veth pair. tcpdump filters the same frames from a file. Both must be equal byte
for byte, in order, with their tags. Times must lie within the capture.
"""

from __future__ import annotations

import signal
import time
from pathlib import Path
from typing import Any

import pytest

import capturing
import oracle
import recording
from agents import Agent, Fleet
from bus import Bus
from deadlines import eventually
from netns import Sender
from packets import ARP as ARP_TYPE
from packets import ICMP, IPV6, TCP, UDP, arp, at, ethernet, icmp, ipv4, ipv6, tcp, udp, write_pcap
from recording import frames_of, make_key, retrieve, sealing, spelled

# Only the test's event loop varies, not the agent's, so one loop is enough.
pytestmark = [pytest.mark.asyncio(loop_factories=["uvloop"]), pytest.mark.jetstream]

A, B = "10.0.0.1", "10.0.0.2"
FILTERS = (
    "vlan",
    "vlan 42",
    "vlan 42 and udp port 53",
    "vlan 10 and vlan 20",
    "host 10.0.0.1",
    "tcp port 80",
    "udp and not port 53",
    "src host 10.0.0.2",
    "net 10.0.0.0/24 and greater 700",
    "ip6",
    "arp or icmp",
    "ether src 02:00:00:00:00:01 and not ip",
    "ip[8] = 64 and udp[4:2] > 100",
    "host 192.0.2.77",
)


@pytest.fixture
def key(tmp_path: Path) -> Path:
    return make_key(tmp_path / "keys" / "live.key")


@pytest.fixture
def recorder(fleet: Fleet, key: Path) -> Agent:
    return fleet.start("alpha", encryption={"key_dirs": [key.parent]})


def handed_over(backend: str, frame: bytes) -> bytes:
    """The frame as the backend sees it: PF_RING puts the outer tag back as 802.1Q."""
    is_service_tag = backend == "pf_ring" and frame[12:14] == b"\x88\xa8"
    return frame[:12] + b"\x81\x00" + frame[14:] if is_service_tag else frame


def selected(directory: Path, frames: list[bytes]) -> dict[str, list[bytes]]:
    """The frames that tcpdump selects, by filter."""
    sent = directory / "sent.pcap"
    write_pcap(sent, [at(0, frame) for frame in frames])
    return {expression: recording.tcpdump(sent, expression) for expression in FILTERS}


def mixture() -> list[bytes]:
    """Small numbers of many kinds and sizes of frame, all different, and real traffic."""
    made = []
    for number in range(40):
        load = b"%04d" % number + bytes(17 * number % 1400)
        datagram = ipv4(udp(load, 1000 + number, 53 + number % 2), UDP, A, B, ident=number)
        made += [
            ethernet(datagram),
            ethernet(datagram, vlans=(42,)),
            ethernet(datagram, vlans=(10, 20)),
            ethernet(ipv4(tcp(load, 40000 + number, 80), TCP, A, B)),
            ethernet(ipv4(tcp(load, 80, 40000 + number), TCP, B, A)),
            ethernet(ipv4(icmp(8, body=load[:64]), ICMP, A, B)),
            ethernet(ipv6(udp(load, 5000, 5001), UDP, "fd00::1", "fd00::2"), IPV6),
            ethernet(arp(A, f"10.0.0.{number + 2}"), ARP_TYPE),
        ]
    for prefix in ("01", "02", "05", "07", "12", "16"):
        if oracle.traces():
            made += [one for one in oracle.frames(oracle.trace(prefix)) if len(one) <= 1514]
    return made


CASES = [
    ("af_packet", False),
    ("af_packet", True),
    ("xdp", False),
    ("xdp", True),
    ("dpdk", False),
    ("dpdk", True),
    ("pf_ring", False),
    ("pf_ring", True),
    ("pcap", False),  # never sealed: the backend reports encryption_unavailable
]


@pytest.mark.parametrize(("backend", "sealed"), CASES)
async def test_packets_returned_equal_those_on_the_wire(
    recorder: Agent,
    bus: Bus,
    sender: Sender,
    tmp_path: Path,
    key: Path,
    backend: str,
    sealed: bool,
) -> None:
    sent = mixture()
    frames = [handed_over(backend, frame) for frame in sent]
    expected = selected(tmp_path, frames)
    options = {"encryption": sealing(key)} if sealed else {}
    await capturing.start(bus, backend, buffer_size_mb=16, **options)
    began_ns = time.time_ns()
    sender.send(sent)
    status = await capturing.settled(bus, len(frames))
    ended_ns = time.time_ns()
    assert status["packets_dropped"] == status["packets_unrecorded"] == 0
    assert status["buffer"]["packets"] == len(frames)
    assert (status["encryption"] is not None) == sealed

    reply, everything = await retrieve(bus, tmp_path)
    assert reply["complete"]
    assert frames_of(everything) == frames
    times = [packet.time_ns for packet in everything]
    assert began_ns - 10_000_000 <= times[0] <= times[-1] <= ended_ns

    wrong = []
    for expression in FILTERS:
        reply, found = await retrieve(bus, tmp_path, filter=expression)
        if not reply["complete"] or frames_of(found) != expected[expression]:
            wrong.append(f"{expression}: {reply}")
    assert not wrong, "\n".join(wrong)

    for first, last in ((0, 99), (100, len(frames) - 1), (57, 57)):
        low, high = times[first], times[last]
        reply, found = await retrieve(bus, tmp_path, start=spelled(low), end=spelled(high))
        within = [f for f, moment in zip(frames, times, strict=True) if low <= moment <= high]
        assert frames_of(found) == within
        assert reply["complete"]
    reply, found = await retrieve(bus, tmp_path, start="-5m", end="-4m")
    assert (found, reply["packets"]) == ([], 0)
    await bus.ok("stop")


async def test_sealing_leaves_no_clear_text(
    fleet: Fleet, bus: Bus, sender: Sender, tmp_path: Path, key: Path
) -> None:
    """Checks the disk path's buffers too, before and after the key exists."""
    disk = tmp_path / "segments"
    buffer = {"dir": disk, "disk_mb": 64}
    agent = fleet.start("alpha", encryption={"key_dirs": [key.parent]}, buffer=buffer)
    frames = [packet.data for packet in recording.numbered(500)]
    await capturing.start(bus, buffer_size_mb=16)
    sender.send(frames)
    await capturing.settled(bus, len(frames))
    await eventually(lambda: recording.markers_on_disk(disk) > 0, "clear segments")
    assert recording.markers_in_memory(agent.pid) > len(frames)
    await bus.ok("encryption.enable", sealing(key))
    assert recording.markers_in_memory(agent.pid) == 0

    sender.send(frames)
    await capturing.settled(bus, 2 * len(frames))
    await eventually(lambda: recording.markers_in_memory(agent.pid) == 0, "the rest to be sealed")
    await bus.ok("stop")
    assert recording.markers_on_disk(disk) == 0


async def test_packets_of_several_workers_are_merged_by_time(
    recorder: Agent, bus: Bus, sender: Sender, tmp_path: Path
) -> None:
    """Packets are in order of time over all workers. Equal frames are neither lost nor doubled."""
    frames = mixture()
    await capturing.start(bus, buffer_size_mb=16, workers=4)
    sender.send(frames)
    await capturing.settled(bus, len(frames))
    reply, found = await retrieve(bus, tmp_path)
    assert reply["complete"]
    assert sorted(frames_of(found)) == sorted(frames)
    await bus.ok("stop")


async def test_packets_request_does_not_disturb_the_capture(
    recorder: Agent, bus: Bus, sender: Sender, tmp_path: Path
) -> None:
    """A reply is complete up to the moment of the request, while frames keep arriving."""
    frames = mixture()
    await capturing.start(bus, buffer_size_mb=64)
    asked = 0
    for _ in range(8):
        sender.send(frames)
        asked += len(frames)
        reply, _found = await retrieve(bus, tmp_path, filter="udp", max_packets=1000)
        assert {gap["reason"] for gap in reply["gaps"]} <= {"limit"}
    status = await capturing.settled(bus, asked)
    assert status["packets_dropped"] == status["packets_unrecorded"] == 0
    reply, found = await retrieve(bus, tmp_path)
    assert frames_of(found) == frames * 8
    await bus.ok("stop")


async def test_packets_dropped_by_the_kernel_are_a_gap(
    fleet: Fleet, bus: Bus, sender: Sender, tmp_path: Path
) -> None:
    """The agent is frozen while more arrives than its ring holds. Only that time is a gap."""
    agent = fleet.start(capture={"ring_mb": 8})
    await capturing.start(bus, buffer_size_mb=64)
    frames = mixture()
    await send_in_pieces(bus, sender, frames)
    reply, before = await retrieve(bus, tmp_path)
    assert reply["complete"]

    frozen_ns = time.time_ns()
    agent.signal(signal.SIGSTOP)
    sender.send([ethernet(ipv4(udp(bytes(100), 7, 9), UDP, A, B))] * 100_000)
    agent.signal(signal.SIGCONT)
    thawed_ns = time.time_ns()
    await eventually(lambda: dropped(bus), "drops")
    status = await capturing.at_rest(bus)
    reply, _ = await retrieve(bus, tmp_path, max_bytes=1 << 30)
    assert not reply["complete"]
    (gap,) = reply["gaps"]
    assert gap["reason"] == "dropped"
    assert gap["from"] <= spelled(thawed_ns)
    assert gap["to"] >= spelled(frozen_ns)

    after_ns = time.time_ns()
    await send_in_pieces(bus, sender, frames, after=status)
    reply, found = await retrieve(bus, tmp_path, end=spelled(before[-1].time_ns))
    assert reply["complete"]
    assert found == before
    reply, found = await retrieve(bus, tmp_path, start=spelled(after_ns))
    assert reply["complete"]
    assert frames_of(found) == frames
    await bus.ok("stop")


async def send_in_pieces(
    bus: Bus, sender: Sender, frames: list[bytes], after: dict[str, Any] | None = None
) -> None:
    """Sends few frames at once, so that even this small ring drops none. `after` is the status
    before."""
    counted = after or {"packets_captured": 0, "packets_dropped": 0}
    captured, dropped = counted["packets_captured"], counted["packets_dropped"]
    for first in range(0, len(frames), 100):
        captured += sender.send(frames[first : first + 100])
        status = await capturing.settled(bus, captured + dropped)
        assert status["packets_dropped"] == dropped


async def dropped(bus: Bus) -> bool:
    return bool((await bus.ok("status"))["packets_dropped"])
