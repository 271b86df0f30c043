"""The subjects of one agent, of all agents and of a group, and NATS service discovery."""

from __future__ import annotations

import datetime
import json
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import nats.errors
import pytest
import services
from services import validated

from agents import Agent, Fleet
from bus import REQUEST_TIMEOUT_SEC, Bus, Reply
from deadlines import eventually

VERBS = {"backends", "start", "stop", "status", "metrics", "flow.meter.enable", "flows", "schema"}


@pytest.fixture
def pair(fleet: Fleet) -> list[Agent]:
    """alpha and beta share a site; only beta is in rack 7."""
    return [
        fleet.start("alpha", labels={"site": "ams"}),
        fleet.start("beta", labels={"site": "ams", "rack": "r7"}),
    ]


async def test_bare_subject_is_answered_by_every_host(pair: list[Agent], bus: Bus) -> None:
    for verb in ("status", "backends", "schema", "stop"):
        replies = [Reply.of(one) for one in await bus.gather(f"capture.{verb}", 2)]
        assert {reply.body["host"] for reply in replies} == {"alpha", "beta"}


async def test_host_subject_is_answered_by_that_host(pair: list[Agent], bus: Bus) -> None:
    for host in ("alpha", "beta"):
        (reply,) = await bus.gather(f"capture.host.{host}.status", 1)
        assert Reply.of(reply).body["host"] == host


async def test_group_subject_is_answered_by_its_members(pair: list[Agent], bus: Bus) -> None:
    members = await bus.gather("capture.group.site.ams.status", 2)
    assert {Reply.of(one).body["host"] for one in members} == {"alpha", "beta"}
    (only,) = await bus.gather("capture.group.rack.r7.flow.meter.enable", 1, b'{"enable":true}')
    reply = Reply.of(only)
    assert (reply.body["host"], reply.error) == ("beta", "no_session")


async def test_absent_hosts_and_groups_have_no_responder(pair: list[Agent], bus: Bus) -> None:
    for subject in (
        "capture.host.gamma.status",
        "capture.group.site.fra.status",
        "capture.group.rack.ams.status",
        "capture.reboot",  # each verb has its own subscription on the bare subject
        "capture.host.alpha",
        "other.host.alpha.status",
    ):
        with pytest.raises(nats.errors.NoRespondersError):
            await bus.client.request(subject, b"{}", timeout=REQUEST_TIMEOUT_SEC)


async def test_root_may_have_several_tokens(fleet: Fleet, bus: Bus) -> None:
    fleet.start("alpha", labels={"site": "ams"}, nats={"root": "acme.capture"})
    for subject in ("status", "host.alpha.status", "group.site.ams.status"):
        reply = Reply.of(
            await bus.client.request(f"acme.capture.{subject}", timeout=REQUEST_TIMEOUT_SEC)
        )
        assert reply.code == 204
    with pytest.raises(nats.errors.NoRespondersError):
        await bus.client.request("capture.status", timeout=REQUEST_TIMEOUT_SEC)


async def test_host_token_comes_from_the_host_name(fleet: Fleet, bus: Bus) -> None:
    name = socket.gethostname().lower().replace(".", "_")
    agent = fleet.agent(name)
    agent.config = {**agent.config, "agent": {}}
    agent.start()
    assert (
        Reply.of(await bus.client.request("capture.status", timeout=REQUEST_TIMEOUT_SEC)).body[
            "host"
        ]
        == name
    )


# ---- discovery ------------------------------------------------------------------------------


async def test_ping_is_answered_on_all_three_levels(pair: list[Agent], bus: Bus) -> None:
    for subject, hosts in (
        ("$SRV.PING", {"alpha", "beta"}),
        ("$SRV.PING.netsonde", {"alpha", "beta"}),
        ("$SRV.PING.netsonde.beta", {"beta"}),
    ):
        answers = await bus.gather(subject, len(hosts))
        bodies = [validated(one.data, services.PING) for one in answers]
        assert {body["id"] for body in bodies} == hosts
        assert {body["name"] for body in bodies} == {"netsonde"}
    with pytest.raises(nats.errors.NoRespondersError):
        await bus.client.request("$SRV.PING.netsonde.gamma", timeout=REQUEST_TIMEOUT_SEC)


async def test_info_matches_the_specification(pair: list[Agent], bus: Bus) -> None:
    for subject in ("$SRV.INFO", "$SRV.INFO.netsonde"):
        for one in await bus.gather(subject, 2):
            validated(one.data, services.INFO)
    (answer,) = await bus.gather("$SRV.INFO.netsonde.beta", 1)
    info = validated(answer.data, services.INFO)
    assert info["description"]  # without this field the nats command does not list the service
    assert {"site": "ams", "rack": "r7"}.items() <= info["metadata"].items()
    endpoints = {endpoint["name"]: endpoint["subject"] for endpoint in info["endpoints"]}
    assert {verb.replace(".", "-") for verb in VERBS} <= endpoints.keys()
    for verb in VERBS:
        subject = endpoints[verb.replace(".", "-")]
        reply = Reply.of(await bus.client.request(subject, b'{"?":1}', timeout=REQUEST_TIMEOUT_SEC))
        assert reply.code == 422, "every listed subject has a responder"


async def test_stats_count_requests_and_errors(alpha: Agent, bus: Bus) -> None:
    async def endpoint(name: str) -> dict[str, object]:
        message = await bus.client.request("$SRV.STATS.netsonde.alpha", timeout=REQUEST_TIMEOUT_SEC)
        stats = validated(message.data, services.STATS)
        datetime.datetime.fromisoformat(stats["started"])
        return next(one for one in stats["endpoints"] if one["name"] == name)

    before = await endpoint("flows")
    assert before["num_requests"] == before["num_errors"] == 0
    for _ in range(3):
        assert (await bus.request("flows")).code == 400
    # A reply may be counted after it was sent.
    after = await eventually(
        lambda: _when(endpoint("flows"), lambda one: one["num_requests"] == 3), "three requests"
    )
    assert after["num_errors"] == 3
    assert "no_session" in str(after["last_error"]) or "400" in str(after["last_error"])
    assert int(str(after["processing_time"])) > 0
    assert isinstance((await endpoint("status"))["data"], dict)


async def _when(
    asked: Awaitable[dict[str, Any]], holds: Callable[[dict[str, Any]], bool]
) -> dict[str, Any] | None:
    answer = await asked
    return answer if holds(answer) else None


async def test_schema_is_an_asyncapi_document_of_every_verb(alpha: Agent, bus: Bus) -> None:
    document = await bus.ok("schema")
    assert document["asyncapi"].startswith("3.")
    assert document["info"]["title"]
    assert document["info"]["version"]
    text = json.dumps(document)
    for verb in VERBS:
        assert f".{verb}" in text or f'"{verb}"' in text, verb
    # Every reference resolves.
    for target in references(document):
        node = document
        for part in target.removeprefix("#/").split("/"):
            node = node[part.replace("~1", "/").replace("~0", "~")]


def references(node: object) -> list[str]:
    if isinstance(node, dict):
        own = [node["$ref"]] if isinstance(node.get("$ref"), str) else []
        return own + [ref for value in node.values() for ref in references(value)]
    if isinstance(node, list):
        return [ref for value in node for ref in references(value)]
    return []
