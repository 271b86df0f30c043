"""Flows that no socket of this host owns say why, and owners of IPv6 connections are found."""

from __future__ import annotations

import inspect
import os
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import capturing
import netns
from agents import Fleet
from bus import Bus
from deadlines import eventually
from netns import HOST_ADDRESS, HOST_DEVICE, PEER_ADDRESS, Sender, Wire
from packets import SYN, UDP, checksum, ethernet, ipv4, tcp, udp
from replay import check_conservation

FAR = "10.88.0.9"  # no address of this machine
CLOSED = 9
INNER_DEVICE, INNER_ADDRESS, GATEWAY = "inner0", "10.78.0.2", "10.78.0.1"


async def started(fleet: Fleet, bus: Bus, device: str = HOST_DEVICE, **options: Any) -> None:
    fleet.start()
    await capturing.start(bus, interface=device, metering={"enable": True}, **options)


async def owner_of(bus: Bus, **wanted: Any) -> dict[str, Any]:
    """The `process` of the flow with these fields."""

    async def ask() -> dict[str, Any] | None:
        rows = (await bus.ok("flows", {"limit": 1000}))["flows"]
        return next((row for row in rows if wanted.items() <= row.items()), None)

    row: dict[str, Any] = await eventually(ask, f"the flow {wanted}")
    owner: dict[str, Any] = row["process"]
    return owner


async def check_owner(bus: Bus, expected: dict[str, Any], **wanted: Any) -> None:
    """Waits for the owner: a listing may come before the events, or before the flow's reply."""

    async def ask() -> bool:
        return expected.items() <= (await owner_of(bus, **wanted)).items()

    await eventually(ask, f"the owner {expected}")


def unknown(reason: str) -> dict[str, Any]:
    return {"how": "unknown", "reason": reason, "pid": None}


async def stopped(bus: Bus) -> None:
    check_conservation(await capturing.at_rest(bus))
    await bus.ok("stop")


def syn(source: str, dest: str) -> bytes:
    """A SYN with a right checksum, so that the kernel replies."""
    head = tcp(b"", 40_001, CLOSED, SYN)
    pseudo = socket.inet_aton(source) + socket.inet_aton(dest) + struct.pack("!HH", 6, len(head))
    head = head[:16] + struct.pack("!H", checksum(pseudo + head)) + head[18:]
    return ipv4(head, 6, source, dest)


async def test_a_port_that_refuses_belongs_to_the_kernel(
    fleet: Fleet, bus: Bus, wire: Wire, sender: Sender
) -> None:
    wire.address()
    await started(fleet, bus)
    mac = bytes.fromhex(wire.link()["address"].replace(":", ""))
    sender.send([ethernet(syn(PEER_ADDRESS, HOST_ADDRESS), dest=mac)])
    await check_owner(bus, unknown("kernel"), dest_ip=HOST_ADDRESS, dest_port=CLOSED)
    await stopped(bus)


async def test_a_flow_between_other_hosts_is_forwarded(
    fleet: Fleet, bus: Bus, sender: Sender
) -> None:
    await started(fleet, bus)
    sender.send([ethernet(ipv4(udp(b"x", 40_002, 53), UDP, "10.99.0.1", FAR))])
    await check_owner(bus, unknown("forwarded"), dest_ip=FAR, dest_port=53)
    await stopped(bus)


def allow_ipv6() -> None:
    Path("/proc/sys/net/ipv6/conf/lo/disable_ipv6").write_text("0")


async def test_owners_of_ipv6(fleet: Fleet, bus: Bus, wire: Wire) -> None:
    netns.in_namespace(wire.host, allow_ipv6)
    await started(fleet, bus, "lo", filter="ip6")
    with (
        socket.create_server(("::1", 0), family=socket.AF_INET6) as listener,
        socket.create_connection(listener.getsockname()[:2]) as client,
    ):
        listener.accept()[0].close()
        port = client.getsockname()[1]
    expected = {"how": "connect", "pid": os.getpid(), "side": "source"}
    await check_owner(bus, expected, source_ip="::1", source_port=port)
    await stopped(bus)


# ---- a namespace behind NAT ----------------------------------------------------------------------


@pytest.fixture
def inner(wire: Wire) -> Iterator[str]:
    """A namespace whose traffic leaves through the host's, with the host's address."""
    name = f"{wire.host}i"
    netns.namespace_add(name)
    try:
        link = ("link", "add", "gate0", "netns", wire.host, "type", "veth")
        netns.ip(*link, "peer", "name", INNER_DEVICE, "netns", name)
        wire.host_ip("addr", "add", f"{GATEWAY}/24", "dev", "gate0")
        wire.host_ip("link", "set", "gate0", "up")
        netns.ip("-n", name, "addr", "add", f"{INNER_ADDRESS}/24", "dev", INNER_DEVICE)
        netns.ip("-n", name, "link", "set", INNER_DEVICE, "up")
        netns.ip("-n", name, "route", "add", "default", "via", GATEWAY)
        for words in (
            ("sysctl", "-qw", "net.ipv4.ip_forward=1"),
            ("iptables", "-t", "nat", "-A", "POSTROUTING", "-o", HOST_DEVICE, "-j", "MASQUERADE"),
        ):
            subprocess.run([*wire.prefix, *words], check=True)
        yield name
    finally:
        netns.namespace_delete(name)


def send_one() -> int:
    """Returns the port of the socket."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        one.sendto(b"x", (FAR, 53))
        return int(one.getsockname()[1])


def send_by_process(namespace: str) -> int:
    code = f"{inspect.getsource(send_one)}\nprint(send_one())"
    head = f"import socket\nFAR = {FAR!r}\n"
    command = ["ip", "netns", "exec", namespace, sys.executable, "-c", head + code]
    return int(subprocess.run(command, capture_output=True, check=True).stdout)


def send_by_thread(namespace: str) -> int:
    return netns.in_namespace(namespace, send_one)


SENDERS = {"process": send_by_process, "thread": send_by_thread}


@pytest.mark.parametrize("by", ["process", "thread"])
async def test_a_flow_behind_nat_says_so(
    fleet: Fleet, bus: Bus, wire: Wire, inner: str, by: str
) -> None:
    """The socket has the inner address, and the wire only that of the host. The socket of a thread
    may be in another namespace than its process."""
    wire.address()
    wire.host_ip("route", "add", f"{FAR}/32", "via", PEER_ADDRESS)
    await started(fleet, bus)

    async def ask() -> bool:
        """Flows in the first 10 s may be those of sockets that are older than the capture."""
        port = SENDERS[by](inner)
        owner = await owner_of(bus, source_ip=HOST_ADDRESS, source_port=port, dest_ip=FAR)
        assert owner["how"] == "unknown"
        return bool(owner["reason"] == "nat")

    await eventually(ask, "a flow with reason nat", interval_sec=1.0)
    await stopped(bus)
