"""Filters of flows by owner, and owners in IPFIX. Real processes run in a unit and a container."""

from __future__ import annotations

import asyncio
import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import owners
import pytest
from owners import Stage

import capturing
import netns
from agents import COMMAND, Fleet, client_flags
from bus import Bus, settled
from collectors import HOST, Inbox
from deadlines import eventually
from netsonde.core.ipfix import ExportDecoder
from replay import check_conservation
from servers import NatsServer

LOOPBACK = "127.0.0.9"  # NATS has 127.0.0.1
CONTAINER = f"docker-{owners.CONTAINER_ID}.scope"


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    with owners.staged(tmp_path) as stage:
        yield stage


async def printed(url: str, *flags: str) -> list[dict[str, Any]]:
    """Returns the lines of JSON that `netsonde flows` prints."""
    command = [str(COMMAND), "flows", "--json", *flags, *client_flags(url)]
    done = await asyncio.to_thread(
        lambda: subprocess.run(command, capture_output=True, text=True, check=True)
    )
    return [json.loads(line) for line in done.stdout.splitlines()]


async def test_flows_are_selected_by_owner(
    fleet: Fleet, bus: Bus, wire: netns.Wire, nats_server: NatsServer, stage: Stage
) -> None:
    """Clients run in a container, servers in a unit. Four connections stay open."""
    here, there = stage.groups.add(CONTAINER), stage.groups.add("server.service")
    inbox = Inbox()
    standing = [{"ip": HOST, "port": inbox.port, "version": 10}]
    fleet.start(export={"profile": "full", "collectors": standing})
    await capturing.start(bus, interface="lo", filter=f"host {LOOPBACK}", metering={"enable": True})
    _, ports = stage.servers(there, (), LOOPBACK)
    clients = await asyncio.to_thread(stage.clients, here, wire.prefix, LOOPBACK, ports)
    long = {end["port"]: end["pid"] for end in clients.ends if end["case"] == "long"}

    async def selected(**wanted: Any) -> set[int]:
        """Returns the source ports of the open connections that match."""
        rows = (await bus.ok("flows", {"limit": 1000, "filter": wanted}))["flows"]
        return {row["source_port"] for row in rows} & long.keys()

    async def known() -> bool:
        return await selected(unit="server", protocol="TCP") == set(long)

    await eventually(known, "the owners of the open connections")
    for wanted in (
        {"unit": "SERVER.service"},
        {"container": owners.CONTAINER_ID[:12]},
        {"unit": CONTAINER, "container": owners.CONTAINER_ID},
        {"process": "python*"},
        {"process": "*", "not": {"process": "no-such"}},
    ):
        assert await selected(**wanted) == set(long), wanted
    for nothing in (
        {"unit": "server", "container": owners.CONTAINER_ID},  # they are two owners
        {"pod": "*"},
        {"container": owners.CONTAINER_ID[1:]},
        {"not": {"unit": "server"}},
    ):
        assert await selected(**nothing) == set(), nothing
    one, pid = next(iter(long.items()))
    same = {port for port, other in long.items() if other == pid}
    assert one in await selected(process=pid) <= same
    assert await selected(process=pid, unit="server") == set()
    sums = await bus.ok("flows", {"by": ["protocol"], "filter": {"unit": "server"}})
    assert {row["protocol"] for row in sums["flows"]} == {"TCP", "UDP"}

    (listed,) = await printed(nats_server.url, "-n", "1000", "--process", str(pid))
    assert one in {row["source_port"] for row in listed["flows"]}
    assert {row["process"]["pid"] for row in listed["flows"]} == {pid}
    following = asyncio.create_task(
        printed(nats_server.url, "--follow", "-n", "4", "--unit", "server", "--not-process", "0x*")
    )
    await eventually(lambda: is_followed(bus), "the command to subscribe")
    check_conservation(await bus.ok("status"))
    await bus.ok("stop")
    records = await following
    assert {record["peer_process"]["unit"] for record in records} == {"server.service"}
    check_exported(inbox.take(), long)
    inbox.close()


def check_exported(datagrams: list[bytes], pids: dict[int, int]) -> None:
    """IPFIX has the same owners, and the end of `process` in each direction."""
    decoder, seen = ExportDecoder(), set()
    for datagram in datagrams:
        message = decoder.decode(0, datagram)
        assert message is not None
        assert message.malformed == 0
        for row in map(json.loads, message.text.splitlines()):
            port = row.get("source_port") if row.get("process_side") == "source" else None
            port = row.get("dest_port") if row.get("process_side") == "dest" else port
            if port in pids:
                assert row["process_pid"] == pids[port]
                assert row["process_container"] == owners.CONTAINER_ID
                assert row["peer_process_unit"] == "server.service"
                seen.add((port, row["process_side"]))
    assert seen == {(port, side) for port in pids for side in ("source", "dest")}


async def is_followed(bus: Bus) -> bool:
    """Returns whether the host's flows have a subscriber; else NATS refuses at once."""
    empty = {"host": "alpha", "boot": "1", "seq": time.time_ns(), "session_id": "s", "records": []}
    inbox = bus.client.new_inbox()
    refusals = await bus.client.subscribe(inbox)
    await bus.client.publish("capture.stream.flows.alpha", json.dumps(empty).encode(), reply=inbox)
    await settled(bus.client)
    followed = refusals.pending_msgs == 0
    await refusals.unsubscribe()
    return followed
