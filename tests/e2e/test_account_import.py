"""A controller in another account. It imports the fleet's subjects below the prefix of a site.

The agents keep the root `capture`; the controller's root is `ams.capture`. The reply of the agents
to service discovery names their own root.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import nats
import nats.errors
import pytest

from agents import COMMAND, Fleet
from bus import Bus
from deadlines import eventually
from packets import SECOND_NS, UDP, at, ethernet, ipv4, udp, write_pcap
from replay import replay
from servers import NatsServer

FILE = Path(__file__).parents[2] / "deploy" / "nats" / "sites" / "accounts.conf"
ROOT = "ams.capture"


@pytest.fixture
def nats_server(tmp_path: Path) -> Iterator[NatsServer]:
    variables = ("env", "FLEET_PASSWORD=fleet", "OPS_PASSWORD=ops")
    server = NatsServer(tmp_path / "nats", config=FILE.read_text(), prefix=variables)
    yield server.start()
    server.kill()


@pytest.fixture
async def bus(nats_server: NatsServer) -> AsyncIterator[Bus]:
    """A controller of the other account."""
    client = await nats.connect(url(nats_server, "ops"))
    yield Bus(client, ROOT)
    await client.close()


def url(server: NatsServer, user: str) -> str:
    return f"nats://{user}:{user}@127.0.0.1:{server.port}"


def start(fleet: Fleet, user: str, host: str, *, root: str = "capture", **labels: str) -> None:
    where = {"servers": [url(fleet.server, user)], "root": root}
    fleet.agent(host, labels=labels, nats=where).spawn()


async def replies(bus: Bus, host: str) -> None:
    """Returns when the host replies to this controller."""

    async def ask() -> bool:
        with contextlib.suppress(nats.errors.Error):
            return (await bus.request("status", host=host, timeout_sec=1)).code < 300
        return False

    await eventually(ask, f"{host} to reply")


def run(server: NatsServer, *words: str) -> subprocess.CompletedProcess[str]:
    where = ("--nats", url(server, "ops"), "--root", ROOT, "--config", "/dev/null")
    return subprocess.run([COMMAND, *words, *where], capture_output=True, text=True, timeout=60)


async def hosts_of(server: NatsServer, *words: str) -> list[str]:
    done = await asyncio.to_thread(run, server, *words, "--json")
    assert done.returncode == 0, done.stderr
    return sorted(json.loads(line)["host"] for line in done.stdout.splitlines())


async def test_hosts_behind_a_prefix_are_found_and_selected(
    fleet: Fleet, nats_server: NatsServer, bus: Bus
) -> None:
    start(fleet, "fleet", "web1", role="web")
    start(fleet, "fleet", "db1", role="db")
    # Neither is below the controller's root, although discovery reaches both.
    start(fleet, "ops", "local", role="web")
    start(fleet, "fleet", "other", root="acme", role="web")
    for host in ("web1", "db1"):
        await replies(bus, host)
    for root, host in (("capture", "local"), ("acme", "other")):
        client = await nats.connect(url(nats_server, "ops" if host == "local" else "fleet"))
        await replies(Bus(client, root), host)
        await client.close()
    both = ["db1", "web1"]
    assert await hosts_of(nats_server, "status") == both
    assert await hosts_of(nats_server, "status", "--batch", "1") == both
    assert await hosts_of(nats_server, "ps") == both
    for words in (
        ("--select", "role = web"),
        ("--group", "role=web"),
        ("--host", "w*"),
        ("--host", "web1"),
        ("--limit", "5", "--select", "role = web"),
    ):
        assert await hosts_of(nats_server, "status", *words) == ["web1"], words
    assert await hosts_of(nats_server, "ps", "--select", "role = web") == ["web1"]


async def test_records_cross_the_account_below_the_prefix(
    fleet: Fleet, bus: Bus, tmp_path: Path
) -> None:
    """`replay` checks each batch's subject and the packets of all records."""
    start(fleet, "fleet", "web1")
    await replies(bus, "web1")
    frames = [
        at(
            1_767_225_600 * SECOND_NS,
            ethernet(ipv4(udp(b"", port, 53), UDP, "198.18.0.1", "198.18.0.2")),
        )
        for port in range(1000, 1010)
    ]
    done = await replay(bus, write_pcap(tmp_path / "few.pcap", frames), host="web1")
    assert done.stopped["packets_captured"] == sum(one["packets"] for one in done.records) == 10
