"""The host's own policy: it restricts callers further than the NATS server does."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from agents import Fleet
from bus import Bus
from deadlines import eventually
from roles import answers, ask, entered, key_of, setup
from servers import NatsServer


@pytest.fixture
def nats_server(tmp_path: Path) -> Iterator[NatsServer]:
    """Replaces the suite's server, which needs no login."""
    config = setup(tmp_path).read_text()
    server = NatsServer(tmp_path / "nats", config=config).start()
    yield server
    server.kill()


async def test_host_policy_refuses_by_caller(
    fleet: Fleet, nats_server: NatsServer, tmp_path: Path
) -> None:
    policy = {"identity": "server", "allow": {"ops": ["read"], "ctl": ["status", "stop"]}}
    fleet.agent("alpha", nats={"nkey": key_of(tmp_path, "alpha")}, policy=policy).spawn()
    async with (
        entered(nats_server, tmp_path, "ctl") as controller,
        entered(nats_server, tmp_path, "ops") as operator,
        entered(nats_server, tmp_path, "col") as collector,
    ):
        await eventually(
            lambda: answers(controller, "capture.host.alpha.status"), "alpha to answer"
        )
        events = await collector.listen("capture.stream.events.alpha.audit")
        assert (await ask(controller, "capture.host.alpha.stop")).error == "no_session"
        assert (await ask(operator, "capture.host.alpha.backends")).code == 200
        refused = await ask(controller, "capture.host.alpha.backends")
        assert (refused.code, refused.error) == (403, "policy_denied")
        # Refused before the body is read: a forbidden caller learns nothing.
        refused = await ask(controller, "capture.host.alpha.start", {"nonsense": 1})
        assert (refused.code, refused.error) == (403, "policy_denied")
        await eventually(lambda: len(events) == 3, "the audit events")
        audits = [json.loads(message.data) for message in events]
        assert [(e["event"], e["data"]["code"]) for e in audits] == [
            ("stop", 400), ("backends", 403), ("start", 403),
        ]  # fmt: skip
        assert {e["data"]["caller"]["account"] for e in audits} == {"ctl"}


async def test_caller_name_is_ignored_without_an_authenticating_server(tmp_path: Path) -> None:
    """On an open server any client can forge the header, so only the entry for any caller
    applies."""
    server = NatsServer(tmp_path / "open").start()
    fleet = Fleet(server, tmp_path / "agents")
    policy = {"allow": {"root": ["*"], "*": ["status"]}}
    fleet.start("alpha", policy=policy)
    bus = await Bus.connect(server.url)
    try:
        claim = {"Nats-Request-Info": '{"acc":"root","user":"root"}'}
        assert (await bus.request("status", headers=claim)).code == 204
        assert (await bus.request("stop", headers=claim)).error == "policy_denied"
    finally:
        await bus.close()
        assert fleet.dismiss() == []
        server.kill()
