"""`[policy.hide]` withholds names from callers: in replies, in filters and in stored replies."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agents import Fleet
from bus import MSGPACK
from deadlines import eventually
from netsonde.bus import nkey
from packets import TCP, at, ethernet, ipv4, tcp, write_pcap
from replay import check_conservation
from roles import RoleClient, answers, ask, entered, key_of, setup
from servers import NatsServer

FLOWS = "capture.host.alpha.flows"
STATUS = "capture.host.alpha.status"
REQUEST = b"GET / HTTP/1.1\r\nHost: www.example.com\r\n\r\n"
STREAMS = '"capture.stream.>"'
OWNERS = ("unit", "container", "pod", "process")


def capture_file(path: Path) -> Path:
    frame = ethernet(ipv4(tcp(REQUEST, 40_000, 80), TCP, "192.0.2.1", "192.0.2.2"))
    return write_pcap(path, [at(1_767_225_600_000_000_000, frame)])


@pytest.fixture
def nats_server(tmp_path: Path) -> Iterator[NatsServer]:
    """Replaces the suite's server: it names callers, and the operator reads only metrics."""
    text = setup(tmp_path).read_text()
    key = nkey.public_key(key_of(tmp_path, "ops").read_text().strip())
    there = text.index(STREAMS, text.index(key))
    text = text[:there] + '"capture.stream.metrics.>"' + text[there + len(STREAMS) :]
    server = NatsServer(tmp_path / "nats", config=text).start()
    yield server
    server.kill()


async def test_hidden_name_is_in_no_reply(
    fleet: Fleet, nats_server: NatsServer, tmp_path: Path
) -> None:
    policy = {"identity": "server", "hide": {"ctl": [], "*": ["name", "process"]}}
    agent = fleet.agent(
        "alpha", nats={"nkey": key_of(tmp_path, "alpha")}, policy=policy, flows={"labels": ["http"]}
    )
    agent.spawn()
    path = str(capture_file(agent.directory / "one.pcap"))
    async with (
        entered(nats_server, tmp_path, "ctl") as controller,
        entered(nats_server, tmp_path, "ops") as operator,
    ):
        await eventually(lambda: answers(controller, STATUS), "alpha to answer")
        events = await controller.listen("capture.stream.events.alpha.audit")
        start = {"interface": path, "backend": "file", "metering": {"enable": True}}
        assert (await ask(controller, "capture.host.alpha.start", start)).code == 200

        async def shown(who: RoleClient, **headers: str) -> tuple[Any, ...]:
            reply = await ask(who, FLOWS, {"limit": 5}, **headers)
            assert reply.code == 200, reply
            rows = reply.body["flows"]
            return tuple((row["app"], row["name"], row["name_source"]) for row in rows)

        async def whole() -> bool:
            return await shown(controller) == (("http", "www.example.com", "host"),)

        await eventually(whole, "the name for the controller")
        assert await shown(operator) == (("http", None, None),)
        assert await shown(operator, Accept=MSGPACK) == (("http", None, None),)

        # A reply that is stored for one caller is not sent to another one that sees less.
        await shown(controller, Request_Id="one")
        refused = await ask(operator, FLOWS, {"limit": 5}, Request_Id="one")
        assert (refused.code, refused.error) == (409, "request_id_reused")

        wanted = {"filter": {"name": "www.*"}}
        assert len((await ask(controller, FLOWS, wanted)).body["flows"]) == 1
        for body, field in (
            (wanted, "$.filter.name"),
            ({"filter": {"not": {"name": "x"}}}, "$.filter.not.name"),
            *(({"filter": {key: "x"}}, f"$.filter.{key}") for key in OWNERS),
            ({"filter": {"not": {"process": 1}}}, "$.filter.not.process"),
        ):
            refused = await ask(operator, FLOWS, body)
            assert (refused.code, refused.error) == (403, "policy_denied")
            assert refused.body["field"] == field
        await eventually(lambda: len(events) == 8, "the audit events")
        audits = [json.loads(message.data)["data"] for message in events]
        assert [(audit["verb"], audit["code"]) for audit in audits] == [
            ("start", 200), *[("flows", 403)] * 7,
        ]  # fmt: skip
        assert audits[-1]["caller"]["account"] == "ops"

        await operator.listen("capture.stream.flows.>")
        await operator.refused("capture.stream.flows.>")
        check_conservation((await ask(controller, STATUS)).body)
