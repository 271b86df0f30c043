"""The inventory: the entry of each agent, and two agents under one name."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from agents import Agent, Fleet
from bus import Bus, Reply, gone
from deadlines import TIMEOUT_SEC, eventually
from netsonde.bus.nats_client import GuardedClient
from netsonde.config.sections import NatsSection
from netsonde.fleet.client import connect
from netsonde.fleet.inventory import forget, read_inventory
from operators import Operator, host_of, listed
from packets import SECOND_NS, UDP, at, ethernet, ipv4, udp, write_pcap
from servers import NatsServer

pytestmark = pytest.mark.jetstream


async def test_each_agent_writes_itself(fleet: Fleet, client: GuardedClient) -> None:
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
    fleet: Fleet, client: GuardedClient, bus: Bus, tmp_path: Path
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
    fleet: Fleet, client: GuardedClient, bus: Bus
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


async def test_forgotten_host_is_gone_until_it_writes_again(
    fleet: Fleet, client: GuardedClient
) -> None:
    alpha = fleet.start("alpha")
    await host_of(client, "alpha")
    alpha.terminate()
    fleet.agents.remove(alpha)
    await forget(client, "capture", "alpha")
    assert "alpha" not in (await listed(client)).hosts
    fleet.start("alpha")
    await host_of(client, "alpha")


async def test_entry_under_a_foreign_key_is_not_believed(
    client: GuardedClient, fleet: Fleet
) -> None:
    fleet.start("alpha")
    found = await host_of(client, "alpha")
    forged = {"host": "beta", "boot": "1", "version": "1", "time": found.entry.time}
    await client.request(
        "$KV.capture-hosts.gamma", json.dumps(forged).encode(), timeout=TIMEOUT_SEC
    )
    await client.request("$KV.capture-hosts.delta", b"\xff", timeout=TIMEOUT_SEC)
    inventory = await listed(client)
    assert sorted(inventory.malformed) == ["delta", "gamma"]
    assert list(inventory.hosts) == ["alpha"]


async def test_thousands_of_hosts_are_read_page_by_page(
    client: GuardedClient, fleet: Fleet
) -> None:
    fleet.start("alpha")
    template = (await host_of(client, "alpha")).entry
    for number in range(2500):
        entry = {"host": f"h{number}", "boot": "1", "version": "1", "time": template.time}
        await client.publish(f"$KV.capture-hosts.h{number}", json.dumps(entry).encode())
    await client.request("$KV.capture-hosts.last", b"{}", timeout=TIMEOUT_SEC)
    inventory = await listed(client)
    assert len(inventory.hosts) == 2501
    assert inventory.malformed == ["last"]


async def test_no_inventory_without_jetstream(tmp_path: Path) -> None:
    server = NatsServer(tmp_path / "plain").start()
    try:
        async with connect(NatsSection(servers=[server.url])) as found:
            assert await read_inventory(found.connection, "capture") is None
    finally:
        server.kill()


def shown(done: subprocess.CompletedProcess[str]) -> dict[str, str]:
    """Returns "ok" or the reason of absence by host, from the output of `--json`."""
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    return {row["host"]: row.get("absent", "ok") for row in rows}


async def test_commands_show_the_hosts_that_should_be_there(
    fleet: Fleet, client: GuardedClient, operator: Operator
) -> None:
    for name in ("dead", "frozen", "well"):
        fleet.start(name, labels={"role": "web" if name != "dead" else "db"})
    for name in ("dead", "frozen", "well"):
        await host_of(client, name)
    dead, frozen, _ = fleet.agents
    dead.kill()
    await gone(client, "dead")
    frozen.freeze()
    expected = {"dead": "not connected", "frozen": "no answer", "well": "ok"}
    for words in (("status",), ("ps",), ("status", "--batch", "1"), ("stop", "--limit", "100%")):
        done = operator.run(*words, "--json")
        assert shown(done) == expected, words
        assert done.returncode == 1
        assert done.stderr.splitlines()[-1].startswith("3 asked: ")
    web = operator.run("status", "--group", "role=web", "--json")
    assert shown(web) == {"frozen": "no answer", "well": "ok"}
    selected = ("--select", "role = web and fact.cpus >= 1 and not host = frozen")
    assert shown(operator.run("status", *selected, "--json")) == {"well": "ok"}
    globs = ("--host", "*e*", "--exclude", "fr*")
    assert shown(operator.run("status", *globs, "--json")) == {
        "dead": "not connected", "well": "ok",
    }  # fmt: skip
    table = operator.run("ps").stdout
    assert "not connected" in table
    assert "idle" in table
    frozen.thaw()
    operator.run("forget", "dead")

    async def all_well() -> bool:
        done = operator.run("status", "--json")
        return done.returncode == 0 and shown(done) == {"frozen": "ok", "well": "ok"}

    await eventually(all_well, "every host to reply")


async def test_host_that_is_not_listed_is_a_row_too(
    fleet: Fleet, client: GuardedClient, operator: Operator
) -> None:
    fleet.start("alpha")
    await host_of(client, "alpha")
    await forget(client, "capture", "alpha")
    fleet.start("beta")
    await host_of(client, "beta")
    done = operator.run("status", "--json")
    assert shown(done) == {"alpha": "ok", "beta": "ok"}
    assert done.returncode == 0


async def test_silent_host_is_lost_and_comes_back(
    fleet: Fleet, client: GuardedClient, operator: Operator
) -> None:
    alpha, beta = fleet.start("alpha"), fleet.start("beta")
    await host_of(client, "alpha")
    await host_of(client, "beta")
    alpha.freeze()

    async def state_of(host: str) -> str:
        return shown(operator.run("ps", "--json"))[host]

    async def is_(state: str) -> bool:
        return await state_of("alpha") == state

    await eventually(lambda: is_("lost"), "the frozen host to be lost", within_sec=180)
    assert await state_of("beta") == "ok"
    assert " lost" in operator.run("ps").stdout
    alpha.thaw()
    await eventually(lambda: is_("ok"), "the host to be back", within_sec=120)
    assert beta.alive
