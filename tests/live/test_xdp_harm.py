"""The xdp backend does not harm the host: it loses no packets, replaces no other program, leaves
nothing behind when killed, and refuses to start where it would do harm."""

from __future__ import annotations

import asyncio
import platform
import random
import subprocess
from collections.abc import Callable
from pathlib import Path

import bpf_objects
import pytest
from xdp_modes import MODES, each_mode, each_shared_mode

import capturing
from agents import Fleet
from bus import Bus
from deadlines import eventually, eventually_now
from netns import HOST_DEVICE, PEER_ADDRESS, Sender, Wire
from packets import UDP, ethernet, ipv4, udp

FRAME = ethernet(ipv4(udp(bytes(50), 1000, 53), UDP, "10.0.0.1", "10.1.0.1"))


# ---- the host's own traffic -----------------------------------------------------------------


def start_pinging(wire: Wire, count: int) -> subprocess.Popen[str]:
    ping = ["ping", "-c", str(count), "-i", "0.002", "-q", PEER_ADDRESS]
    return subprocess.Popen([*wire.prefix, *ping], stdout=subprocess.PIPE, text=True)


def check_none_lost(pinging: subprocess.Popen[str], count: int) -> None:
    output = pinging.communicate()[0]
    assert f"{count} packets transmitted, {count} received" in output, output


@each_shared_mode
async def test_no_ping_is_lost_while_captures_start_and_stop(
    fleet: Fleet, bus: Bus, wire: Wire, mode: str
) -> None:
    wire.address()
    fleet.start()
    pinging = start_pinging(wire, 1500)
    while pinging.poll() is None:
        await capturing.start(bus, "xdp", **MODES[mode])
        await bus.ok("stop")
    check_none_lost(pinging, 1500)


# ---- other programs at the same hooks -------------------------------------------------------


@pytest.fixture
def policy(wire: Wire, tmp_path: Path) -> str:
    """Attaches the foreign program with tc; returns how tc lists it."""
    source = str(Path(__file__).with_name("neighbour.bpf.c"))
    compiled = str(tmp_path / "neighbour.o")
    headers = f"-I/usr/include/{platform.machine()}-linux-gnu"
    clang = ["clang", "-O2", "-g", "-target", "bpf", headers, "-c", source, "-o", compiled]
    subprocess.run(clang, check=True, capture_output=True)
    tc = [*wire.prefix, "tc"]
    subprocess.run([*tc, "qdisc", "add", "dev", HOST_DEVICE, "clsact"], check=True)
    add = ["filter", "add", "dev", HOST_DEVICE, "ingress", "bpf", "da", "obj", compiled]
    subprocess.run([*tc, *add, "sec", "tc"], check=True)
    return policies(wire)


def policies(wire: Wire) -> str:
    show = ["tc", "filter", "show", "dev", HOST_DEVICE, "ingress"]
    return subprocess.check_output([*wire.prefix, *show], text=True)


def count_answers(wire: Wire) -> int:
    ping = ["ping", "-c", "5", "-i", "0.01", "-W", "0.2", "-q", PEER_ADDRESS]
    output = subprocess.run([*wire.prefix, *ping], capture_output=True, text=True, check=False)
    return 5 if "5 received" in output.stdout else 0 if "0 received" in output.stdout else -1


@each_shared_mode
async def test_the_hosts_policy_keeps_working(
    fleet: Fleet, bus: Bus, wire: Wire, policy: str, mode: str
) -> None:
    """It drops every answer before, during and after the capture. The capture sees the drops."""
    wire.address()
    fleet.start()
    assert count_answers(wire) == 0
    await capturing.start(bus, "xdp", **MODES[mode])
    assert count_answers(wire) == 0
    await capturing.at_rest(bus)
    flows = (await bus.ok("flows", {"filter": {"protocol": "ICMP"}}))["flows"]
    assert [(flow["packets"], flow["reverse_packets"]) for flow in flows] == [(10, 5)]
    await bus.ok("stop")
    assert count_answers(wire) == 0
    assert policies(wire) == policy


@each_shared_mode
async def test_two_captures_see_every_packet(
    fleet: Fleet, bus: Bus, wire: Wire, sender: Sender, mode: str
) -> None:
    """Two programs share a hook. The one that ends does not detach the other."""
    fleet.start("alpha")
    fleet.start("beta")
    body = {"interface": HOST_DEVICE, "backend": "xdp", **MODES[mode]}
    await bus.ok("start", body, host="alpha")
    await bus.ok("start", body, host="beta")
    sent = sender.send([FRAME] * 100)

    assert await counted_at_stop(bus, "alpha", sent) == sent
    sent += sender.send([FRAME] * 100)
    assert await counted_at_stop(bus, "beta", sent) == sent


async def counted_at_stop(bus: Bus, host: str, sent: int) -> int:
    """Waits for the packets before the stop: a busy kernel delivers them after `send` returns."""

    async def arrived() -> bool:
        return bool((await bus.ok("status", host=host))["packets_captured"] >= sent)

    await eventually(arrived, f"{sent} packets on {host}")
    return int((await bus.ok("stop", host=host))["packets_captured"])


async def test_another_xdp_program_is_not_replaced(
    fleet: Fleet, bus: Bus, wire: Wire, sender: Sender
) -> None:
    fleet.start("alpha")
    fleet.start("beta")
    body = {"interface": HOST_DEVICE, "backend": "xdp", "dedicated": True}
    await bus.ok("start", body, host="alpha")
    attached = wire.link()["xdp"]
    refused = await bus.request("start", body, host="beta")
    assert (refused.code, refused.body["error"]) == (503, "interface_shared")
    assert wire.link()["xdp"] == attached
    sent = sender.send([FRAME] * 100)
    assert await counted_at_stop(bus, "alpha", sent) == sent
    assert "xdp" not in wire.link()


# ---- interfaces that the host needs -----------------------------------------------------------


def add_address(wire: Wire) -> None:
    wire.host_ip("addr", "add", "192.0.2.1/24", "dev", HOST_DEVICE)


def add_master(wire: Wire) -> None:
    wire.host_ip("link", "add", "br0", "type", "bridge")
    wire.host_ip("link", "set", HOST_DEVICE, "master", "br0")


def add_upper_interface(wire: Wire) -> None:
    wire.host_ip("link", "add", "link", HOST_DEVICE, "name", "up0", "type", "macvlan")


def add_default_route(wire: Wire) -> None:
    wire.host_ip("route", "add", "default", "dev", HOST_DEVICE)


def add_multipath_default_route(wire: Wire) -> None:
    """Makes the interface the second of two next hops."""
    wire.connect("other0", "other1")
    hops = ["nexthop", "dev", "other0", "nexthop", "dev", HOST_DEVICE]
    wire.host_ip("route", "add", "default", *hops)


def add_multipath_ipv6_default_route(wire: Wire) -> None:
    wire.connect("other0", "other1")
    hops = []
    for device in ("other0", HOST_DEVICE):
        switch = f"net.ipv6.conf.{device}.disable_ipv6=0"
        subprocess.run([*wire.prefix, "sysctl", "-qw", switch], check=True)
        hops += ["nexthop", "via", "fe80::1", "dev", device]
    wire.host_ip("-6", "route", "add", "default", *hops)


NEEDS = [
    add_address,
    add_master,
    add_upper_interface,
    add_default_route,
    add_multipath_default_route,
    add_multipath_ipv6_default_route,
]


@pytest.mark.parametrize("need", NEEDS, ids=lambda need: need.__name__)
async def test_interface_in_use_is_rejected(
    fleet: Fleet, bus: Bus, wire: Wire, need: Callable[[Wire], None]
) -> None:
    need(wire)
    fleet.start()
    body = {"interface": HOST_DEVICE, "backend": "xdp", "dedicated": True}
    refused = await bus.request("start", body)
    assert (refused.code, refused.body["error"]) == (503, "interface_shared")
    assert "xdp" not in wire.link()


async def test_loopback_is_rejected(fleet: Fleet, bus: Bus) -> None:
    fleet.start()
    body = {"interface": "lo", "backend": "xdp", "dedicated": True}
    refused = await bus.request("start", body)
    assert (refused.code, refused.body["error"]) == (503, "interface_shared")


# ---- a killed process -------------------------------------------------------------------------


@each_mode
async def test_kill_at_any_moment_leaves_nothing(
    fleet: Fleet, bus: Bus, wire: Wire, sender: Sender, mode: str
) -> None:
    agent = fleet.start()
    for _ in range(3):
        await capturing.start(bus, "xdp", **MODES[mode])
        held = bpf_objects.held_by(agent.pid)
        assert {kind for kind, _ in held} == {"prog", "map", "link"}
        assert all(bpf_objects.exists(kind, number) for kind, number in held)
        sender.send([FRAME] * random.randrange(2000))
        agent.kill()
        # The kernel frees maps and programs after a grace period.
        eventually_now(
            # mypy infers no type for a lambda bound by its default.
            lambda held=held: not any(bpf_objects.exists(*one) for one in held),  # type: ignore[misc]
            "all that the dead process held to be gone",
        )
        link = wire.link()
        assert "xdp" not in link
        assert link["promiscuity"] == 0
        agent.start()
    if mode != "dedicated":
        wire.address()
        check_none_lost(start_pinging(wire, 100), 100)


@each_shared_mode
async def test_no_ping_is_lost_when_the_agent_is_killed(
    fleet: Fleet, bus: Bus, wire: Wire, mode: str
) -> None:
    wire.address()
    agent = fleet.start()
    await capturing.start(bus, "xdp", **MODES[mode])
    pinging = start_pinging(wire, 500)
    await asyncio.sleep(random.uniform(0.1, 0.6))
    agent.kill()
    check_none_lost(pinging, 500)
    agent.start()
