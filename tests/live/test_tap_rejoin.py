"""`netsonde packets --follow` when agents and captures restart: their hosts join again."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from agents import Agent, Fleet
from bus import Bus
from deadlines import eventually
from netns import HOST_DEVICE, Sender
from packets import UDP, ethernet, ipv4, udp
from replay import check_conservation
from tapping import INTERFACE

HOSTS = ("alpha", "beta")
START = {"interface": HOST_DEVICE, "backend": "af_packet"}


def datagrams(count: int) -> Iterator[bytes]:
    for number in range(count):
        load = number.to_bytes(4) + bytes(40)
        yield ethernet(ipv4(udp(load, 1000, 53), UDP, "10.0.0.1", "10.0.0.2", ident=number))


async def restart(how: str, agent: Agent, bus: Bus) -> None:
    """Restarts the agent's process, or only its capture."""
    if how == "capture":
        await bus.ok("stop", host=agent.host)
    else:
        await asyncio.to_thread(agent.kill if how == "killed" else agent.terminate)
        await asyncio.to_thread(agent.start)
    await bus.ok("start", START, host=agent.host)


@pytest.mark.parametrize("how", ["agent", "killed", "capture"])
async def test_a_host_that_restarts_joins_again(
    fleet: Fleet, bus: Bus, sender: Sender, follow: Any, how: str
) -> None:
    """Its interface keeps its number in the file. The gap is on standard error, in the file and in
    the exit code."""
    for host in HOSTS:
        fleet.start(host)
        await bus.ok("start", START, host=host)
    live = await follow("--filter", "udp").opened(len(HOSTS))
    sender.send(datagrams(50))
    await eventually(lambda: live.packets() == 100, "the packets of both hosts")
    await restart(how, fleet.agents[1], bus)
    await eventually(lambda: "beta: joined again after a gap of " in live.said, "beta")
    sender.send(datagrams(50))
    await eventually(lambda: live.packets() == 200, "the packets of both hosts after the gap")
    assert live.stop() == 1
    for host in HOSTS:
        assert f"{host}: 100 packets, 0 lost" in live.said
        check_conservation(await bus.ok("status", host=host))
    assert "beta: gone for " in live.said
    assert "alpha: gone" not in live.said
    assert "ended early" not in live.said
    assert live.kinds().count(INTERFACE) == 2
    reason = {"agent": b"drain", "killed": b"gone", "capture": b"session_stop"}[how]
    assert b"before this packet (" + reason in live.path.read_bytes()


async def test_limits_hold_across_a_gap(
    fleet: Fleet, bus: Bus, sender: Sender, follow: Any
) -> None:
    """The command waits for its only host."""
    agent = fleet.start()
    await bus.ok("start", START)
    live = await follow("--filter", "udp", "--max-packets", "80").opened()
    sender.send(datagrams(50))
    await eventually(lambda: live.packets() == 50, "the packets before the gap")
    await restart("capture", agent, bus)
    await eventually(lambda: "alpha: joined again" in live.said, "alpha")
    sender.send(datagrams(50))
    assert await asyncio.to_thread(live.process.wait, 60) == 1
    assert "alpha: 80 packets, 0 lost" in live.said
    assert "alpha: the tap ended: limit" in live.said
    assert live.packets() == 80
    check_conservation(await bus.ok("status"))


async def test_a_host_that_refuses_after_a_restart_is_not_awaited(
    fleet: Fleet, bus: Bus, follow: Any
) -> None:
    agent = fleet.start()
    await bus.ok("start", START)
    live = await follow("--filter", "udp").opened()
    await asyncio.to_thread(agent.terminate)
    agent.config = {**agent.config, "policy": {"allow": {"*": ["status"]}}}
    await asyncio.to_thread(agent.start)
    assert await asyncio.to_thread(live.process.wait, 60) == 1
    assert "alpha: 403 policy_denied" in live.said
    assert "alpha: the tap ended early: drain" in live.said
    assert "alpha: gone for " in live.said
