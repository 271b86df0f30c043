"""`netsonde events` lists what the stream of events holds, and follows new events."""

from __future__ import annotations

import asyncio
import json
import subprocess
from typing import Any

import pytest

from agents import COMMAND, Fleet, client_flags
from bus import Bus
from deadlines import TIMEOUT_SEC, eventually
from servers import NatsServer

pytestmark = pytest.mark.jetstream


async def events(server: NatsServer, *words: str) -> subprocess.CompletedProcess[str]:
    command = [str(COMMAND), "events", *words, *client_flags(server.url)]
    return await asyncio.to_thread(
        lambda: subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_SEC)
    )


def spawn(server: NatsServer, *words: str) -> subprocess.Popen[str]:
    command = [str(COMMAND), "events", *words, *client_flags(server.url)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def objects(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


async def make_streams(server: NatsServer) -> None:
    command = [
        str(COMMAND),
        "nats",
        "streams",
        "--replicas",
        "1",
        "--host",
        "alpha",
        *client_flags(server.url),
    ]
    done = await asyncio.to_thread(
        lambda: subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_SEC)
    )
    assert done.returncode == 0, done.stderr


async def test_stored_events_are_listed_and_new_ones_follow(
    fleet: Fleet, bus: Bus, nats_server: NatsServer
) -> None:
    await make_streams(nats_server)
    fleet.start("alpha", labels={"site": "ams"})
    fleet.start("beta")

    async def stored() -> bool:
        done = await events(nats_server, "--json", "--kind", "lifecycle")
        assert done.returncode == 0, done.stderr
        return {one["host"] for one in objects(done.stdout)} == {"alpha", "beta"}

    await eventually(stored, "the start of both agents in the stream")
    words = ("--follow", "--since", "-1h", "--group", "site=ams", "--json", "-n", "3")
    follow = spawn(nats_server, *words)
    assert follow.stdout is not None
    first = json.loads(await asyncio.to_thread(follow.stdout.readline))
    assert (first["host"], first["event"]) == ("alpha", "started")
    reply = await bus.request("start", {"interface": "none0", "backend": "pcap"}, host="beta")
    assert reply.code == 400
    reply = await bus.request("start", {"interface": "none0", "backend": "pcap"}, host="alpha")
    assert reply.code == 400
    await bus.request("stop", {}, host="alpha")
    rest = objects(await asyncio.to_thread(follow.stdout.read))
    assert await asyncio.to_thread(follow.wait) == 0
    assert [(one["host"], one["kind"], one["event"]) for one in rest] == [
        ("alpha", "audit", "start"),
        ("alpha", "audit", "stop"),
    ]

    async def refusal_stored() -> bool:
        return bool((await events(nats_server, "--kind", "audit", "--host", "beta")).stdout)

    await eventually(refusal_stored, "the event of beta in the stream")
    table = await events(nats_server, "--kind", "audit", "--host", "beta")
    assert table.returncode == 0, table.stderr
    (line,) = table.stdout.splitlines()
    assert "beta  audit  start" in line
    (refused,) = objects(
        (await events(nats_server, "--host", "beta", "--kind", "audit", "--json")).stdout
    )
    assert line.endswith(f"  [beta.{refused['boot']}.{refused['seq']}]")


async def test_a_missing_stream_and_a_forged_event_are_reported(
    fleet: Fleet, bus: Bus, nats_server: NatsServer
) -> None:
    done = await events(nats_server)
    assert done.returncode == 1
    assert "netsonde nats streams" in done.stderr
    await make_streams(nats_server)
    forged = {"host": "other", "boot": "b", "seq": 1, "kind": "alarm", "event": "x", "time": "t"}
    await bus.client.publish("capture.stream.events.alpha.alarm", json.dumps(forged).encode())

    async def refused() -> bool:
        shown = await events(nats_server)
        return shown.returncode == 1 and "names host other" in shown.stderr and not shown.stdout

    await eventually(refused, "the forged event to be refused")
