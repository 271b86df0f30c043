"""The public library netsonde.fleet, and the example controller, against real agents."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from agents import Fleet
from bus import gone
from deadlines import eventually
from netsonde import fleet as library
from servers import NatsServer, free_port

EXAMPLE = Path(__file__).parents[2] / "examples" / "controller.py"
POLICY = """[[policy]]
name = "ams"
select = "site = ams"
capture = { interface = "lo", backend = "af_packet", buffer_size_mb = 1 }
"""


@pytest.fixture
def nats_server(tmp_path: Path) -> Iterator[NatsServer]:
    directory = tmp_path / "nats"
    server = NatsServer(directory, config=f'jetstream {{ store_dir: "{directory}" }}').start()
    yield server
    server.kill()


def control(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(EXAMPLE), *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


async def listed(client: library.FleetClient, *hosts: str) -> None:
    async def all_there() -> bool:
        try:
            return set(hosts) <= (await library.read_hosts(client)).hosts.keys()
        except library.NoInventoryError:
            return False

    await eventually(all_there, f"{hosts} in the inventory")


def test_each_public_name_exists() -> None:
    assert sorted(library.__all__) == dir(library)
    missing = [name for name in library.__all__ if getattr(library, name, None) is None]
    assert missing == []


async def test_stream_yields_replies_and_absences(fleet: Fleet, nats_server: NatsServer) -> None:
    agents = {host: fleet.start(host, labels={"site": "ams"}) for host in ("a1", "a2", "a3", "a4")}
    fleet.start("f1", labels={"site": "fra"})
    async with library.connect(nats_server.url, lasting=True) as client:
        await listed(client, *agents, "f1")
        hosts = await library.discover(client)
        assert {host: one.state for host, one in hosts.items()} == dict.fromkeys(
            [*agents, "f1"], "idle"
        )
        assert hosts["a1"].labels == {"site": "ams"}

        agents["a3"].freeze()
        agents["a4"].kill()
        await gone(client.connection, "a4")
        target, outcome = library.select("site = ams"), library.Outcome()
        pace = library.Pace(timeout_sec=8.0)
        results = [
            result async for result in client.stream("status", None, target, pace, outcome=outcome)
        ]
        agents["a3"].thaw()
    replied = [one for one in results if isinstance(one, library.Reply)]
    absent = {one.host: one.reason for one in results if isinstance(one, library.Absence)}
    assert sorted(one.host for one in replied) == ["a1", "a2"]
    assert absent == {"a3": "no answer", "a4": "not connected"}
    assert results[-1].host == "a3"  # the last to be known
    assert len(results) == 4
    assert not outcome.complete
    assert outcome.failed_hosts() == ["a3", "a4"]


async def test_leaving_the_stream_ends_the_request(fleet: Fleet, nats_server: NatsServer) -> None:
    fleet.start("a1")
    fleet.start("a2")
    outcome = library.Outcome()
    async with library.connect(nats_server.url) as client:
        results = client.stream(
            "status", target=library.select(hosts=["a1", "a2", "gone"]), outcome=outcome
        )
        async for _ in results:
            break
        await results.aclose()
        assert (await client.ask("status", {}, library.ALL, library.Pace())).complete


async def test_apply_reports_progress_and_rolls_back(
    fleet: Fleet, nats_server: NatsServer, tmp_path: Path
) -> None:
    for host in ("a1", "a2"):
        fleet.start(host, labels={"site": "ams"})
    path = tmp_path / "fleet.toml"
    path.write_text(POLICY)
    policies = library.read_policy_file(str(path))
    seen: list[str] = []
    async with library.connect(nats_server.url, lasting=True) as client:
        await listed(client, "a1", "a2")
        rows = (await library.read_state(client)).plan(policies)
        assert {row.host: row.action for row in rows} == {"a1": "create", "a2": "create"}
        done = await library.apply(client, policies, lambda now: seen.append(now.summary()))
        assert done.complete
        assert seen[-1] == "revision 1, 2 hosts: 2 applied"
        assert (await library.read_state(client)).drift() == {}
        assert (await library.apply(client, [])).complete
        restored = await library.rollback(client, 1)
        assert (restored.revision, restored.complete) == (3, True)
        with pytest.raises(library.PolicyStoreError, match="is released to every host"):
            await library.resume(client)


async def test_example_controller_lists_asks_and_applies(
    fleet: Fleet, nats_server: NatsServer, tmp_path: Path
) -> None:
    fleet.start("a1", labels={"site": "ams"})
    fleet.start("f1", labels={"site": "fra"})
    async with library.connect(nats_server.url) as client:
        await listed(client, "a1", "f1")
    path = tmp_path / "fleet.toml"
    path.write_text(POLICY)
    done = await asyncio.to_thread(control, nats_server.url, "site = ams", str(path))
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith("a1: idle, version ")
    assert lines[0].endswith(", site=ams")
    assert "a1: no session" in lines
    assert "revision 1, 2 hosts: 2 applied" in lines
    assert lines[-1] == "0 hosts with drift"


def test_unreachable_server_is_one_error() -> None:
    url = f"nats://127.0.0.1:{free_port()}"
    done = control(url, "site = ams")
    assert done.returncode == 1
    assert done.stderr.startswith(f"NATS cannot be reached at {url}")
