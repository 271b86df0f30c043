"""Records have the process and the control group of the sockets at both ends.

Each test makes flows whose processes are known, and compares. A process may be wrong only where the
record says how it was found: `listener`, `found`, or `shared`. `pytest -s` prints the table.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import owners
import pytest
from owners import Score, Stage, Traffic

import capturing
import netns
from agents import Fleet
from bus import Bus, Collector
from deadlines import eventually
from replay import check_conservation, check_lives, records_of

LOOPBACK = "127.0.0.9"  # NATS has 127.0.0.1


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    with owners.staged(tmp_path) as stage:
        yield stage


async def capture(bus: Bus, device: str, **options: Any) -> tuple[Collector, str]:
    collector = await Collector.listen(bus, "alpha")
    request = {"interface": device, "metering": {"enable": True}, **options}
    started = await capturing.start(bus, **request)
    return collector, started["session_id"]


async def records(bus: Bus, collector: Collector, session_id: str) -> list[dict[str, Any]]:
    status = await capturing.at_rest(bus)
    assert status["owners"] == {"found": True, "detail": ""}
    assert (status["owners_lost"], status["owners_evicted"]) == (0, 0)
    stopped = await bus.ok("stop")
    check_conservation(status)
    found = await records_of(collector, session_id, stopped)
    check_lives(found)
    in_flows = stopped["packets_captured"] - stopped["packets_non_flow"]
    assert sum(one["packets"] for one in found) == in_flows
    return found


def judge(score: Score) -> None:
    print(f"\n{owners.table([score])}")
    assert score.wrong == []
    assert score.all["ends"] == owners.ENDS
    assert score.all["cgroup"] == owners.ENDS
    assert score.of("short")["right"] >= 99
    used_by_one = ("short", "plain", "prefork", "inetd", "long", "connected", "unconnected")
    assert score.of(*used_by_one)["wrong"] == 0
    assert score.of(*used_by_one)["shared"] == 0
    assert score.of("inherited")["shared"] == score.of("inherited")["ends"]


async def test_owners_on_loopback(fleet: Fleet, bus: Bus, wire: netns.Wire, stage: Stage) -> None:
    here, there = stage.groups.add("client.service"), stage.groups.add("server.service")
    fleet.start()
    collector, session_id = await capture(bus, "lo", filter=f"host {LOOPBACK}")
    servers, ports = stage.servers(there, (), LOOPBACK)
    clients = await asyncio.to_thread(stage.clients, here, wire.prefix, LOOPBACK, ports)
    await check_listed(bus, clients)
    stage.stop()
    found = await records(bus, collector, session_id)
    judge(owners.score("loopback", found, clients, servers))
    units = {owner["unit"] for one in found for owner in (one["process"], one["peer_process"])}
    assert units == {"client.service", "server.service"}


async def check_listed(bus: Bus, clients: Traffic) -> None:
    """Checks the connections that are open, in `flows`."""
    open_now = {(end["port"], end["pid"]) for end in clients.ends if end["case"] == "long"}

    async def ask() -> bool:
        rows = (await bus.ok("flows", {"limit": 1000}))["flows"]
        return open_now <= {(row["source_port"], (row["process"] or {}).get("pid")) for row in rows}

    assert len(open_now) == owners.LONG
    await eventually(ask, "the owners of the open connections")


async def test_owners_over_veth(fleet: Fleet, bus: Bus, wire: netns.Wire, stage: Stage) -> None:
    """The servers are in another namespace of this host: the agent sees both ends."""
    wire.address()
    here, there = stage.groups.add("client.service"), stage.groups.add("server.service")
    fleet.start()
    collector, session_id = await capture(bus, netns.HOST_DEVICE)
    servers, ports = stage.servers(there, wire.peer_prefix, netns.PEER_ADDRESS)
    clients = await asyncio.to_thread(stage.clients, here, wire.prefix, netns.PEER_ADDRESS, ports)
    await check_listed(bus, clients)
    stage.stop()
    found = await records(bus, collector, session_id)
    judge(owners.score("veth", found, clients, servers))


@pytest.mark.parametrize("backend", ["af_packet", "xdp"])
async def test_owners_of_a_container(
    fleet: Fleet, bus: Bus, wire: netns.Wire, stage: Stage, backend: str
) -> None:
    wire.address()
    container = stage.groups.add(f"docker-{owners.CONTAINER_ID}.scope")
    there = stage.groups.add(f"kubelet-pod{owners.POD.replace('-', '_')}.slice")
    fleet.start()
    collector, session_id = await capture(bus, netns.HOST_DEVICE, backend=backend)
    servers, ports = stage.servers(there, (), netns.HOST_ADDRESS)
    prefix = (*wire.peer_prefix, *owners.CONTAINER)
    clients = await asyncio.to_thread(stage.clients, container, prefix, netns.HOST_ADDRESS, ports)
    await check_listed(bus, clients)
    stage.stop()
    found = await records(bus, collector, session_id)
    judge(owners.score(f"container, {backend}", found, clients, servers))
    assert {one["process"]["container"] for one in found} == {owners.CONTAINER_ID}
    assert {one["process"]["unit"] for one in found} == {f"docker-{owners.CONTAINER_ID}.scope"}
    assert {one["peer_process"]["pod"] for one in found} == {owners.POD}


async def test_servers_that_are_older_than_the_capture(
    fleet: Fleet, bus: Bus, wire: netns.Wire, stage: Stage
) -> None:
    """The agent lists the sockets of its namespace at the start."""
    here, there = stage.groups.add("client.service"), stage.groups.add("server.service")
    servers, ports = stage.servers(there, (), LOOPBACK)
    fleet.start()
    collector, session_id = await capture(bus, "lo", filter=f"host {LOOPBACK}")
    clients = await asyncio.to_thread(stage.clients, here, wire.prefix, LOOPBACK, ports)
    stage.stop()
    found = await records(bus, collector, session_id)
    judge(owners.score("loopback, older servers", found, clients, servers))
    # A UDP server that sends is known from then on.
    hows = {(one["protocol"], one["peer_process"]["how"]) for one in found}
    assert hows == {("TCP", "found"), ("UDP", "connect")}


async def test_older_servers_in_another_namespace_are_unknown(
    fleet: Fleet, bus: Bus, wire: netns.Wire, stage: Stage
) -> None:
    wire.address()
    here, there = stage.groups.add("client.service"), stage.groups.add("server.service")
    servers, ports = stage.servers(there, wire.peer_prefix, netns.PEER_ADDRESS)
    fleet.start()
    collector, session_id = await capture(bus, netns.HOST_DEVICE)
    clients = await asyncio.to_thread(stage.clients, here, wire.prefix, netns.PEER_ADDRESS, ports)
    stage.stop()
    found = await records(bus, collector, session_id)
    score = owners.score("veth, older servers", found, clients, servers)
    print(f"\n{owners.table([score])}")
    assert score.wrong == []
    assert score.of("short")["right"] >= 99
    assert score.of("inherited")["shared"] == score.of("inherited")["ends"]
    assert {one["process"]["side"] for one in found} == {"source"}
