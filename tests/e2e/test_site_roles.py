"""The roles of `netsonde nats setup` in a fleet with sites: agents at a leaf node, clients at the
hub. In both forms, before and after a reload of all servers."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agents import COMMAND, Fleet, client_flags
from bus import Bus
from deadlines import eventually
from operators import policy
from recording import numbered_file
from replay import check_conservation, finished
from roles import DOMAIN, RoleServers, answers, entered, login_of
from servers import NatsServer

DATAGRAMS = 2000
STREAM = "CAPTURE_FLOWS"


@pytest.fixture(params=["static-leaf", "jwt-leaf"])
def servers(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RoleServers]:
    servers = RoleServers.start(tmp_path, str(request.param))
    done = command(servers, tmp_path, "streams", "nats", "streams", "--site-bucket")
    assert (done.returncode, done.stderr) == (0, "")
    yield servers
    servers.kill()


@pytest.fixture
def nats_server(servers: RoleServers) -> NatsServer:
    return servers.hub


def command(
    servers: RoleServers, directory: Path, name: str, *words: str
) -> subprocess.CompletedProcess[str]:
    """Runs a command at the hub."""
    ((option, path),) = login_of(directory, name).items()
    flags = [*client_flags(servers.hub.url), f"--{option}", path, "--jetstream-domain", DOMAIN]
    return subprocess.run(
        [str(COMMAND), *words, *flags], capture_output=True, text=True, timeout=120
    )


async def stored(servers: RoleServers, directory: Path) -> list[dict[str, Any]]:
    """Returns the records of the hub's stream, with their sessions."""
    async with entered(servers.hub, directory, "streams") as administrator:
        context = administrator.client.jetstream(domain=DOMAIN)
        last = (await context.stream_info(STREAM)).state.last_seq
        messages = [await context.get_msg(STREAM, seq=number) for number in range(1, last + 1)]
    batches = [json.loads(message.data or b"") for message in messages]
    return [one | {"session": batch["session_id"]} for batch in batches for one in batch["records"]]


async def in_inventory(servers: RoleServers, directory: Path) -> bool:
    """Returns whether the hub's inventory has a host."""
    async with entered(servers.hub, directory, "streams") as administrator:
        context = administrator.client.jetstream(domain=DOMAIN)
        return (await context.stream_info("KV_capture-hosts")).state.messages > 0


async def test_agents_at_a_site_use_the_hub(
    servers: RoleServers, fleet: Fleet, tmp_path: Path
) -> None:
    """The agent starts without the hub. Its records are stored once, at the hub. Packets,
    inventory and policies work, and no permission is missing."""
    section = {"servers": [servers.site.url], "jetstream_domain": DOMAIN}
    servers.hub.kill()
    agent = fleet.agent(
        "alpha",
        nats=section | login_of(tmp_path, "alpha"),
        policy={"identity": "server", "allow": {"ctl": ["*"]}},
        flows={"jetstream": True, "spool_dir": tmp_path / "spool"},
    ).spawn()
    await eventually(lambda: "cannot write the inventory" in agent.log, "a boot without the hub")
    await asyncio.to_thread(servers.hub.start)
    path, _ = numbered_file(tmp_path / "alpha.pcap", DATAGRAMS)
    rules, out = tmp_path / "fleet.toml", tmp_path / "out.pcapng"
    rules.write_text(policy("none", "host ~ 'nobody*'"))
    metered = 0

    async def run(name: str, *words: str) -> str:
        done = await asyncio.to_thread(command, servers, tmp_path, name, *words)
        assert done.returncode == 0, (words, done.stdout, done.stderr)
        return done.stdout + done.stderr

    async with entered(servers.hub, tmp_path, "ctl") as controller:
        bus = Bus(controller.client)
        for revision in (1, 2):
            await eventually(lambda: answers(controller, "capture.host.alpha.status"), "the agent")
            await eventually(lambda: in_inventory(servers, tmp_path), "the host's entry")
            body = {"interface": str(path), "backend": "file", "metering": {"enable": True}}
            await bus.ok("start", body)
            check_conservation(await finished(bus))
            await run("ctl", "packets", "--host", "alpha", "-w", str(out))
            assert out.stat().st_size > DATAGRAMS * 42
            stopped = await bus.ok("stop", timeout_sec=60)
            metered += stopped["records"]

            async def empty() -> bool:
                return bool((await bus.ok("status"))["spool"]["records_waiting"] == 0)

            await eventually(empty, "the spool to empty")
            records = await stored(servers, tmp_path)
            keys = {(one["session"], one["flow_id"], one["segment"]) for one in records}
            assert len(records) == len(keys) == metered
            assert sum(one["packets"] for one in records) == revision * DATAGRAMS
            applied = await run("ctl", "apply", str(rules))
            assert applied.splitlines()[-1] == f"revision {revision}, 1 host: 1 applied"
            listed = await run("ops", "ps", "--json")
            assert '"alpha"' in listed
            assert '"absent"' not in listed
            await servers.reload()
    assert "permission denied" not in agent.log
