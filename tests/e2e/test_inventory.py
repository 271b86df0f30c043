"""The inventory: the entry of each agent, and two agents under one name."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import nats
import pytest
import pytest_asyncio
from nats.aio.client import Client

from agents import Agent, Fleet
from bus import Bus, Reply
from deadlines import eventually
from netsonde.fleet.inventory import Host, Inventory, forget, read_inventory
from packets import SECOND_NS, UDP, at, ethernet, ipv4, udp, write_pcap
from servers import NatsServer


@pytest.fixture
def nats_server(tmp_path: Path) -> Iterator[NatsServer]:
    directory = tmp_path / "nats"
    server = NatsServer(directory, config=f'jetstream {{ store_dir: "{directory}" }}').start()
    yield server
    server.kill()


@pytest_asyncio.fixture
async def client(nats_server: NatsServer) -> AsyncIterator[Client]:
    connection = await nats.connect(nats_server.url)
    yield connection
    await connection.close()


async def listed(client: Client) -> Inventory:
    found = await read_inventory(client, "capture")
    return found if found is not None else Inventory()


async def host_of(client: Client, name: str) -> Host:
    async def present() -> Host | None:
        return (await listed(client)).hosts.get(name)

    return await eventually(present, f"{name} in the inventory")


async def test_each_agent_writes_itself(fleet: Fleet, client: Client) -> None:
    fleet.start("alpha", labels={"site": "ams"})
    fleet.start("beta")
    found = await host_of(client, "alpha")
    await host_of(client, "beta")
    assert found.entry.labels == {"site": "ams"}
    assert found.entry.facts.cpus >= 1
    assert found.entry.facts.memory_mb > 0
    assert "file" in found.entry.facts.backends
    assert "lo" in found.entry.facts.interfaces
    assert found.entry.session is None
    assert found.entry.server == fleet.server.url.removeprefix("nats://")
    assert not found.lost
    assert abs(found.skew_sec) < 5


async def test_entry_follows_the_session_and_the_end(
    fleet: Fleet, client: Client, bus: Bus, tmp_path: Path
) -> None:
    alpha = fleet.start("alpha")
    await host_of(client, "alpha")
    frame = ethernet(ipv4(udp(b"", 1000, 53), UDP, "10.0.0.1", "10.1.0.1"))
    capture = write_pcap(tmp_path / "one.pcap", [at(SECOND_NS, frame)])
    started = await bus.ok("start", {"interface": str(capture), "backend": "file"})

    async def shows(session_id: str | None) -> bool:
        session = (await host_of(client, "alpha")).entry.session
        return (session.session_id if session is not None else None) == session_id

    await eventually(lambda: shows(started["session_id"]), "the session in the entry")
    await bus.ok("stop")
    await eventually(lambda: shows(None), "no session in the entry")
    assert not (await host_of(client, "alpha")).entry.stopped
    alpha.terminate()
    fleet.agents.remove(alpha)
    assert (await host_of(client, "alpha")).entry.stopped


async def test_the_agent_that_started_first_keeps_the_name(
    fleet: Fleet, client: Client, bus: Bus
) -> None:
    senior = fleet.start("alpha")
    first = await host_of(client, "alpha")
    twin: Agent = fleet.agent("alpha")
    twin.config_path = twin.config_path.with_name("twin.toml")
    twin.log_path = twin.log_path.with_name("twin.log")
    twin.spawn()

    async def refusals() -> list[Reply]:
        messages = await bus.gather("capture.host.alpha.status", 2)
        return [reply for reply in map(Reply.of, messages) if reply.code == 409]

    await eventually(lambda: "name_taken" in twin.log, "the second agent to find the first")
    [refusal] = await refusals()
    assert refusal.error == "name_taken"
    assert (await host_of(client, "alpha")).entry.boot == first.entry.boot
    await eventually(lambda: "name_taken" in senior.log, "the first agent's alarm")


async def test_forgotten_host_is_gone_until_it_writes_again(fleet: Fleet, client: Client) -> None:
    alpha = fleet.start("alpha")
    await host_of(client, "alpha")
    alpha.terminate()
    fleet.agents.remove(alpha)
    await forget(client, "capture", "alpha")
    assert "alpha" not in (await listed(client)).hosts
    fleet.start("alpha")
    await host_of(client, "alpha")


async def test_entry_under_a_foreign_key_is_not_believed(client: Client, fleet: Fleet) -> None:
    fleet.start("alpha")
    found = await host_of(client, "alpha")
    forged = {"host": "beta", "boot": "1", "version": "1", "time": found.entry.time}
    await client.request("$KV.capture-hosts.gamma", json.dumps(forged).encode())
    await client.request("$KV.capture-hosts.delta", b"\xff")
    inventory = await listed(client)
    assert sorted(inventory.malformed) == ["delta", "gamma"]
    assert list(inventory.hosts) == ["alpha"]


async def test_thousands_of_hosts_are_read_page_by_page(client: Client, fleet: Fleet) -> None:
    fleet.start("alpha")
    template = (await host_of(client, "alpha")).entry
    for number in range(2500):
        entry = {"host": f"h{number}", "boot": "1", "version": "1", "time": template.time}
        await client.publish(f"$KV.capture-hosts.h{number}", json.dumps(entry).encode())
    await client.request("$KV.capture-hosts.last", b"{}")
    inventory = await listed(client)
    assert len(inventory.hosts) == 2501
    assert inventory.malformed == ["last"]


async def test_no_inventory_without_jetstream(tmp_path: Path) -> None:
    server = NatsServer(tmp_path / "plain").start()
    try:
        connection = await nats.connect(server.url)
        assert await read_inventory(connection, "capture") is None
        await connection.close()
    finally:
        server.kill()
