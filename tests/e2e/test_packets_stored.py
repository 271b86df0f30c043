"""`netsonde packets --list` and `--delete`: what the buckets hold, and which callers may delete it.

The clients are those of `netsonde nats setup`; each has its own account, which names the owner.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agents import COMMAND, Fleet, client_flags
from deadlines import eventually
from recording import numbered_file
from roles import ask, both_answer, entered, key_of, setup
from servers import NatsServer

ALLOW = {
    "ctl": ["read", "start", "stop", "packets", "packets.delete"],
    "boss": ["read", "packets", "packets.delete", "packets.delete.all"],
}


@pytest.fixture
def nats_server(tmp_path: Path) -> Iterator[NatsServer]:
    more = ("--jetstream", str(tmp_path / "jetstream"), "--controller", "boss")
    server = NatsServer(tmp_path / "nats", config=setup(tmp_path, *more).read_text()).start()
    yield server
    server.kill()


class Clients:
    """Runs `netsonde …` with the key of a client."""

    def __init__(self, server: NatsServer, directory: Path) -> None:
        self.server = server
        self.directory = directory

    async def __call__(self, name: str, *words: str) -> subprocess.CompletedProcess[str]:
        key = ("--nkey", str(key_of(self.directory, name)))
        full = [str(COMMAND), *words, *client_flags(self.server.url), *key]
        return await asyncio.to_thread(
            lambda: subprocess.run(full, capture_output=True, text=True, timeout=120)
        )

    async def listed(self, name: str, *words: str) -> list[dict[str, Any]]:
        done = await self(name, "packets", "--list", "--json", *words)
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture
async def run(fleet: Fleet, nats_server: NatsServer, tmp_path: Path) -> Clients:
    """Both hosts have recorded packets."""
    run = Clients(nats_server, tmp_path)
    done = await run("streams", "nats", "streams", "--host", "alpha", "--host", "beta")
    assert done.returncode == 0, done.stderr
    path, _ = numbered_file(tmp_path / "made.pcap", 300)
    for host in ("alpha", "beta"):
        nats, policy = {"nkey": key_of(tmp_path, host)}, {"identity": "server", "allow": ALLOW}
        fleet.agent(host, nats=nats, policy=policy).spawn()
    async with entered(nats_server, tmp_path, "ctl") as controller:
        await both_answer(controller)
        for host in ("alpha", "beta"):
            body = {"interface": str(path), "backend": "file", "metering": {"enable": True}}
            assert (await ask(controller, f"capture.host.{host}.start", body)).code == 200

            async def read(host: str = host) -> bool:
                status = (await ask(controller, f"capture.host.{host}.status")).body
                parts = ("packets_recorded", "packets_active", "packets_non_flow")
                assert status["packets_dropped"] == 0
                found = sum(int(status[part]) for part in parts)
                return int(status["packets_captured"]) == found == 300

            await eventually(read, f"{host} to have all packets")
    return run


async def test_objects_are_listed_with_owner_and_deleted_by_it(run: Clients) -> None:
    assert await run.listed("ctl") == []
    for name, words in (("ctl", ("--filter", "port 53")), ("boss", ("--host", "alpha"))):
        done = await run(name, "packets", *words)
        assert done.returncode == 0, done.stderr
    found = await run.listed("ctl")
    assert [(one["host"], one["filter"]) for one in found] == [
        ("alpha", "port 53"),
        ("alpha", "all packets"),
        ("beta", "port 53"),
    ]
    owners = [one["owner"]["account"] for one in found]
    assert owners == ["ctl", "boss", "ctl"]
    table = await run("ctl", "packets", "--list", "--host", "alpha")
    assert "OWNER" in table.stdout
    assert str(found[1]["object"]) in table.stdout
    assert "2 objects of 1 host," in table.stderr

    own, theirs, other = (str(one["object"]) for one in found)
    done = await run("ctl", "packets", "--delete", own, theirs, "alpha-20260101T000000Z-0.pcapng")
    assert done.returncode == 1
    assert f"{theirs}: another caller requested it" in done.stderr
    assert "alpha-20260101T000000Z-0.pcapng: not in the bucket" in done.stderr
    assert [one["object"] for one in await run.listed("boss")] == [theirs, other]
    done = await run("ctl", "packets", "--delete", theirs, "--all-owners")
    assert done.returncode == 1
    assert "403 policy_denied ($.all_owners)" in done.stderr

    done = await run("boss", "packets", "--delete", "--older-than", "-1h", "--all-owners")
    assert done.returncode == 0, done.stderr
    assert len(await run.listed("ctl")) == 2
    done = await run("ctl", "packets", "--delete", "--older-than", "-0s")
    assert done.returncode == 0, done.stderr
    assert [one["object"] for one in await run.listed("ctl")] == [theirs]
    done = await run("boss", "packets", "--delete", "--older-than", "-0s", "--all-owners")
    assert done.returncode == 0, done.stderr
    assert await run.listed("ctl") == []


async def test_operators_neither_list_nor_delete(run: Clients) -> None:
    assert (await run("ctl", "packets")).returncode == 0
    (name,) = [str(one["object"]) for one in await run.listed("ctl", "--host", "beta")]
    assert (await run("ops", "packets", "--list", "--host", "beta")).returncode != 0
    assert (await run("ops", "packets", "--delete", name)).returncode != 0
    assert len(await run.listed("ctl")) == 2


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("--list", "--delete", "x"), "do not go together"),
        (("--list", "-w", "x"), "leave out other options"),
        (("--delete",), "needs names of objects, or --older-than"),
        (("--older-than", "-1h"), "need --delete"),
        (("--all-owners",), "need --delete"),
    ],
)
def test_wrong_options(words: tuple[str, ...], reason: str) -> None:
    done = subprocess.run([str(COMMAND), "packets", *words], capture_output=True, text=True)
    assert done.returncode == 2
    assert reason in done.stderr
