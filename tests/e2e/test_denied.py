"""Commands whose login may not use a subject, on a real nats-server with the roles of
`netsonde nats setup`. Each ends at once and says which subject, which role, and how to get it."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import nats
import pytest
import pytest_asyncio

from agents import COMMAND, Agent, Fleet, client_flags
from bus import settled
from deadlines import TIMEOUT_SEC, eventually
from fake_agents import FakeAgent
from netsonde.bus.nats_client import PermissionDeniedError
from netsonde.fleet.denied import covers, role_for
from roles import answers, entered, key_of, setup
from servers import NatsServer

LONG = ("--timeout", "3600")  # a command that waits for replies runs into the test's deadline


@pytest.fixture
def nats_server(tmp_path: Path) -> Iterator[NatsServer]:
    """Replaces the suite's server, which needs no login."""
    config = setup(tmp_path, "--jetstream", str(tmp_path / "js")).read_text()
    server = NatsServer(tmp_path / "nats", config=config).start()
    yield server
    server.kill()


@pytest_asyncio.fixture
async def agent(fleet: Fleet, nats_server: NatsServer, tmp_path: Path) -> AsyncIterator[Agent]:
    nats = {"nkey": key_of(tmp_path, "alpha")}
    made = fleet.agent("alpha", labels={"site": "ams"}, nats=nats).spawn()
    async with entered(nats_server, tmp_path, "ops") as operator:
        await settled(operator.client)

        async def there() -> bool:
            return await answers(operator, "capture.host.alpha.status")

        await eventually(there, "the agent to answer")
    yield made


async def run(server: NatsServer, key: Path, *words: str) -> tuple[int | None, str, str]:
    process = await asyncio.create_subprocess_exec(
        *(str(COMMAND), *words, *client_flags(server.url), "--nkey", str(key)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(TIMEOUT_SEC):
        out, errors = await process.communicate()
    return process.returncode, out.decode(), errors.decode()


START = ("start", "-i", "eth0", "-b", "pcap")
HOST = ("--host", "alpha")


@pytest.mark.parametrize(
    ("name", "words", "subject", "role"),
    [
        ("ops", ("stop", *LONG), "capture.host.alpha.stop", "controller"),
        ("ops", ("stop", *LONG, *HOST), "capture.host.alpha.stop", "controller"),
        ("ops", ("stop", *LONG, "--group", "site=ams"), "capture.host.alpha.stop", "controller"),
        ("ops", (*START, *LONG, "--batch", "1"), "capture.host.alpha.start", "controller"),
        ("ops", ("packets", *LONG, *HOST), "capture.host.alpha.packets", "controller"),
        ("col", ("ps", *LONG), "$SRV.PING.netsonde", "operator"),
        ("col", ("ps", *LONG, *HOST), "$SRV.INFO.netsonde.alpha", "operator"),
        ("col", ("status", *LONG), "$SRV.PING.netsonde", "operator"),
        ("col", ("flows", *LONG, *HOST), "capture.host.alpha.flows", "operator"),
        ("col", ("top", "-n", "1", *LONG, *HOST), "capture.host.alpha.metrics", "operator"),
        ("col", ("flows", "--follow", "--group", "site=ams"), "$SRV.PING.netsonde", "operator"),
        ("alpha", ("flows", "--follow"), "capture.stream.flows.*", "collector"),
        ("ctl", ("nats", "streams", *HOST), "$JS.API.STREAM.INFO.CAPTURE_FLOWS", "streams"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else value,
)
async def test_denied_command_ends_at_once_and_says_why(
    agent: Agent, nats_server: NatsServer, tmp_path: Path, name: str, words: tuple[str, ...],
    subject: str, role: str,
) -> None:  # fmt: skip
    code, out, errors = await run(nats_server, key_of(tmp_path, name), *words)
    assert code == 1, errors
    assert "Traceback" not in errors
    assert "no answer" not in errors
    assert "not connected" not in errors
    verb = "subscribe" if "--follow" in words and name == "alpha" else "publish"
    sentence = f"The server's permissions do not let this login {verb} to {subject}."
    assert errors.splitlines()[-1].startswith(f"netsonde: {sentence}"), errors
    advice = "Use the key streams.nk" if role == "streams" else f"The role {role} may."
    assert advice in errors
    assert "`netsonde nats setup" in errors
    assert out == ""


async def test_bucket_that_may_not_be_read_ends_the_download(tmp_path: Path) -> None:
    config = f"""jetstream {{ store_dir: "{tmp_path / "js"}" }}
    authorization {{ users: [
      {{ user: agent, password: agent }}
      {{ user: client, password: client, permissions: {{ publish: {{ deny: "$JS.API.>" }} }} }}
    ] }}"""
    server = NatsServer(tmp_path / "nats", config=config).start()
    address = f"127.0.0.1:{server.port}"
    client = await nats.connect(f"nats://agent:agent@{address}")
    try:
        for host in ("web1", "web2"):
            await FakeAgent(client, host).start()
        process = await asyncio.create_subprocess_exec(
            *(str(COMMAND), "packets", "-w", str(tmp_path / "cap"), *LONG),
            *client_flags(f"nats://client:client@{address}"),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        async with asyncio.timeout(TIMEOUT_SEC):
            _, errors = await process.communicate()
        assert process.returncode == 1
        text = errors.decode()
        assert "publish to $JS.API.DIRECT.GET.OBJ_b. The role controller may." in text
        assert "web1: 500 download_failed" in text
        assert "2 asked: 2 refused; request " in text
        assert not [name for name in os.listdir(tmp_path) if name.startswith("cap")]
    finally:
        await client.close()
        server.kill()


async def test_denied_json_has_an_object_for_each_host(
    agent: Agent, nats_server: NatsServer, tmp_path: Path
) -> None:
    code, out, errors = await run(
        nats_server, key_of(tmp_path, "ops"), "stop", "--json", *LONG, *HOST
    )
    assert code == 1
    assert json.loads(out) == {"host": "alpha", "absent": "not asked"}
    assert "1 asked: 1 not asked; request " in errors


@pytest.mark.parametrize(
    ("pattern", "subject", "included"),
    [
        ("a.*.c", "a.b.c", True),
        ("a.*", "a.b.c", False),
        ("a.>", "a.b.c", True),
        ("a.>", "a", False),
        ("a.b", "a", False),
    ],
)
def test_pattern_includes_subjects(pattern: str, subject: str, included: bool) -> None:
    assert covers(pattern, subject) == included


def test_role_is_the_one_with_the_fewest_rights() -> None:
    for subject, role in (
        ("acme.capture.host.web1.status", "operator"),
        ("acme.capture.stop", "controller"),
        ("$JS.API.CONSUMER.INFO.ACME_FLOWS.col", "collector"),
        ("$JS.API.DIRECT.GET.OBJ_b", "controller"),
        ("$JS.API.STREAM.CREATE.X", "streams"),
        ("other.subject", None),
    ):
        assert role_for(PermissionDeniedError("publish", subject), "acme.capture") == role
    subscribed = PermissionDeniedError("subscribe", "acme.capture.stream.flows.*")
    assert role_for(subscribed, "acme.capture") == "collector"
