"""One suite over every backend that a host reports as available.

Each backend gets the same frames: live backends over the wire, `file` from a capture file. All
must report the same flows. A new backend joins with one line in DRIVERS;
test_every_available_backend_is_driven fails without it.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import net_pcap
import pytest

import capturing
import netns
import oracle
from agents import Agent, Fleet
from bus import Bus
from netns import Sender
from packets import (
    ARP,
    ICMP,
    IPV6,
    SECOND_NS,
    TCP,
    UDP,
    arp,
    at,
    ethernet,
    icmp,
    ipv4,
    ipv6,
    tcp,
    udp,
    write_pcap,
)
from replay import check_conservation, finished

START_NS = 1_767_225_600 * SECOND_NS
A, B = "10.0.0.1", "10.0.0.2"


@dataclass
class Rig:
    """The tools that bring frames to a backend."""

    bus: Bus
    sender: Sender
    directory: Path


async def over_the_wire(
    rig: Rig, backend: str, frames: list[bytes], offered: int, options: dict[str, Any]
) -> dict[str, Any]:
    await capturing.start(rig.bus, backend, **options)
    rig.sender.send(frames)
    return await capturing.settled(rig.bus, offered)


async def from_a_file(
    rig: Rig, backend: str, frames: list[bytes], offered: int, options: dict[str, Any]
) -> dict[str, Any]:
    packets = [at(START_NS + n * 1000, frame) for n, frame in enumerate(frames)]
    path = write_pcap(rig.directory / "frames.pcap", packets)
    await rig.bus.ok("start", {"interface": str(path), "backend": backend, **options})
    status = await finished(rig.bus)
    assert status["packets_captured"] == offered
    return status


DRIVERS: dict[str, Callable[..., Any]] = {
    "af_packet": over_the_wire,
    "pcap": over_the_wire,
    "xdp": over_the_wire,
    "dpdk": over_the_wire,
    "pf_ring": over_the_wire,
    "file": from_a_file,
}
# libpcap and files do not report the direction of an Ethernet frame.
SAY_WHICH_WAY = ("af_packet", "xdp", "dpdk", "pf_ring")
DPDK_FILE = "dpdk net_pcap"  # through the C core, because requests replay files with `file`
each_backend = pytest.mark.parametrize("backend", [*DRIVERS, DPDK_FILE])


@pytest.fixture
def rig(alpha: Agent, bus: Bus, sender: Sender, tmp_path: Path) -> Rig:
    return Rig(bus, sender, tmp_path)


async def capture(
    rig: Rig, backend: str, frames: list[bytes], *, offered: int | None = None, **options: Any
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Returns status and flows after the frames. `offered` of them pass the filter."""
    offered = len(frames) if offered is None else offered
    if backend == DPDK_FILE:
        status, flows = await net_pcap.capture(frames, rig.directory, **options)
        check_conservation(status)
        assert (status["packets_captured"], status["packets_dropped"]) == (offered, 0)
        return status, flows
    status = await DRIVERS[backend](rig, backend, frames, offered, options)
    check_conservation(status)
    flows = (await rig.bus.ok("flows", {"limit": 10000}))["flows"]
    stopped = await rig.bus.ok("stop")
    assert stopped["packets_captured"] == offered
    assert stopped["packets_dropped"] == 0
    return status, flows


def mixed_frames() -> list[bytes]:
    """A mix of frames: UDP, TCP, ICMP, IPv6, tags, ARP."""
    datagram = ipv4(udp(b"12345678", 1001, 53), UDP, A, B)
    return [
        ethernet(datagram),
        ethernet(datagram, vlans=(42,)),
        ethernet(datagram, vlans=(10, 20)),
        ethernet(ipv4(tcp(bytes(1000), 40000, 80), TCP, A, B)),
        ethernet(ipv4(tcp(bytes(10), 80, 40000), TCP, B, A)),
        ethernet(ipv4(icmp(8), ICMP, A, B)),
        ethernet(ipv6(udp(bytes(9), 5000, 5001), UDP, "fd00::1", "fd00::2"), IPV6),
        ethernet(arp(A, B), ARP),
    ]


MIXED_FLOWS = [  # vlan | version | protocol | A | port | B | port | A → B | B → A
    "|4|17|10.0.0.1|1001|10.0.0.2|53|1|36|0|0",
    "42|4|17|10.0.0.1|1001|10.0.0.2|53|1|36|0|0",
    "10/20|4|17|10.0.0.1|1001|10.0.0.2|53|1|36|0|0",
    "|4|6|10.0.0.1|40000|10.0.0.2|80|1|1040|1|50",
    "|4|1|10.0.0.1|8|10.0.0.2|0|1|28|0|0",
    "|6|17|fd00::1|5000|fd00::2|5001|1|57|0|0",
]


async def test_every_available_backend_is_driven(alpha: Agent, bus: Bus) -> None:
    available = {one["name"] for one in (await bus.ok("backends"))["available"]}
    assert available == DRIVERS.keys()


@each_backend
async def test_same_frames_give_the_same_flows(rig: Rig, backend: str) -> None:
    status, flows = await capture(rig, backend, mixed_frames())
    assert status["packets_non_flow"] == status["non_flow"]["arp"] == 1
    assert status["bytes_captured"] == sum(map(len, mixed_frames()))
    assert oracle.flow_lines(flows) == sorted(MIXED_FLOWS)
    for flow in flows:
        assert flow["direction"] == ("ingress" if backend in SAY_WHICH_WAY else "unknown")
        assert (flow["source_mac"], flow["dest_mac"]) == ("02:00:00:00:00:01", "02:00:00:00:00:02")


@each_backend
async def test_priority_tag_is_no_vlan(rig: Rig, backend: str) -> None:
    """IEEE 802.1Q: VLAN id 0 carries only a priority. A tags its frames so, B does not."""
    there = ipv4(udp(b"12345678", 1001, 53), UDP, A, B)
    back = ipv4(udp(b"12345678", 53, 1001), UDP, B, A)
    frames = [
        *[ethernet(there, vlans=(5 << 13,))] * 3,
        *[ethernet(back)] * 2,
        ethernet(there, vlans=(10, 5 << 13)),
        ethernet(back, vlans=(10,)),
    ]
    _, flows = await capture(rig, backend, frames)
    assert oracle.flow_lines(flows) == [
        "10|4|17|10.0.0.1|1001|10.0.0.2|53|1|36|1|36",
        "|4|17|10.0.0.1|1001|10.0.0.2|53|3|108|2|72",
    ]


@each_backend
async def test_filter_captures_exactly_the_matching_frames(rig: Rig, backend: str) -> None:
    """Includes tags, which a kernel keeps outside the frame and a file inside. (For an
    expression without tags, like `udp port 53`, libpcap looks past a tag outside the frame,
    but not past one inside.)"""
    for expression, offered in (
        ("tcp", 2),
        ("udp port 53 and not vlan", 1),
        ("vlan", 2),
        ("vlan 42", 1),
        ("vlan 42 and udp port 53", 1),
        ("vlan 10 and vlan 20", 1),
        ("ip6", 1),
        ("arp or icmp", 2),
        ("ether host 02:00:00:00:00:01 and greater 1000", 1),
        ("not ip and not ip6 and not arp and not vlan", 0),
    ):
        status, _ = await capture(rig, backend, mixed_frames(), offered=offered, filter=expression)
        assert status["packets_captured"] == offered, expression
        assert status["packets_dropped"] == 0


@pytest.mark.parametrize(
    ("backend", "expression"),
    [
        ("af_packet", "ip6 protochain 6"),  # has a loop
        ("af_packet", "vlan and pppoes"),  # reads memory that it did not write
        *((one, "inbound") for one in ("xdp", "dpdk", "pf_ring", "file")),  # no direction known
    ],
)
async def test_filter_that_cannot_run_is_rejected(rig: Rig, backend: str, expression: str) -> None:
    """libpcap compiles it, but it would match nothing and look like a silent wire."""
    interface = netns.HOST_DEVICE
    if backend == "file":
        interface = str(write_pcap(rig.directory / "frames.pcap", []))
    body = {"interface": interface, "backend": backend, "filter": expression}
    reply = await rig.bus.request("start", body, host="alpha")
    assert (reply.code, reply.body["error"]) == (400, "invalid_filter")
    assert "kernel" in reply.body["detail"]


@each_backend
async def test_snaplen_does_not_change_counts(rig: Rig, backend: str) -> None:
    whole = await capture(rig, backend, mixed_frames())
    cut = await capture(rig, backend, mixed_frames(), snaplen=64)
    assert oracle.flow_lines(cut[1]) == oracle.flow_lines(whole[1])
    assert cut[0]["bytes_captured"] == whole[0]["bytes_captured"]


@each_backend
async def test_ten_thousand_packets_are_all_counted(rig: Rig, backend: str) -> None:
    def frame(number: int) -> bytes:
        ip = ipv4(udp(bytes(number % 700), 1000 + number % 100, 53), UDP, A, B)
        return ethernet(ip)

    frames = [frame(number) for number in range(10_000)]
    status, flows = await capture(rig, backend, frames)
    assert status["bytes_captured"] == sum(map(len, frames))
    assert len(flows) == 100
    assert {flow["packets"] for flow in flows} == {100}


@each_backend
async def test_smallest_and_largest_frames_are_captured(rig: Rig, backend: str) -> None:
    """From a bare Ethernet header to the largest frame of a veth."""
    payload = netns.MTU_MAX - 28
    frames = [
        ethernet(b"", 0x88B5),
        ethernet(ipv4(b"", 255, A, B)),
        ethernet(ipv4(udp(bytes(payload), 1, 2), UDP, A, B)),
    ]
    status, flows = await capture(rig, backend, frames)
    assert status["packets_non_flow"] == 1
    assert sorted(flow["bytes"] for flow in flows) == [20, netns.MTU_MAX]


@pytest.mark.parametrize("backend", ["af_packet", "pcap", "dpdk", "pf_ring"])
async def test_promiscuous_mode_ends_with_the_capture(
    fleet: Fleet, bus: Bus, wire: netns.Wire, backend: str
) -> None:
    fleet.start()
    for wanted in (True, False):
        assert wire.link()["promiscuity"] == 0
        await capturing.start(bus, backend, promiscuous=wanted)
        assert wire.link()["promiscuity"] == int(wanted)
        await bus.ok("stop")
    assert wire.link()["promiscuity"] == 0


@pytest.mark.parametrize("backend", ["af_packet", "pcap", "dpdk", "pf_ring"])
async def test_loopback_shows_each_packet_once(fleet: Fleet, bus: Bus, backend: str) -> None:
    fleet.start()
    body = {"interface": "lo", "backend": backend, "filter": "udp port 9999"}
    await bus.ok("start", body)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as out:
        for _ in range(100):
            out.sendto(b"once", ("127.0.0.1", 9999))
    await capturing.settled(bus, 100)
    assert (await capturing.at_rest(bus))["packets_captured"] == 100
