"""The listing of active flows: pages, cursors, filters and sums."""

from __future__ import annotations

import asyncio
import functools
import json
import os
from pathlib import Path
from typing import Any

import pytest

from agents import COMMAND, Agent, client_flags
from bus import MSGPACK, Bus
from deadlines import eventually
from netsonde.wire.replies import FlowsReply
from packets import SECOND_NS, TCP, UDP, Packet, at, ethernet, ipv4, tcp, udp, write_pcap
from replay import check_conservation, finished
from servers import NatsServer

START_NS = 1_767_225_600 * SECOND_NS
FLOWS = 10_000


@functools.cache
def many_flows() -> list[Packet]:
    """Returns 1 to 3 packets of each of 10,000 flows to 100 servers."""
    made = []
    for number in range(FLOWS):
        source = f"10.{number >> 8}.{number & 255}.1"
        dest = f"192.0.2.{number % 100}"
        segment = tcp(bytes(20), 40_000, 443) if number % 4 == 0 else udp(bytes(20), 5000, 53)
        protocol = TCP if number % 4 == 0 else UDP
        made += [ethernet(ipv4(segment, protocol, source, dest))] * (1 + number % 3)
    return [at(START_NS + n * 1000, frame) for n, frame in enumerate(made)]


@pytest.fixture
async def replayed(alpha: Agent, bus: Bus, tmp_path: Path) -> dict[str, Any]:
    """Starts a session that has all flows in its table."""
    path = write_pcap(tmp_path / "many.pcap", many_flows())
    await bus.ok("start", {"interface": str(path), "backend": "file", "record": False})
    status = await finished(bus)
    assert status["active_flows"] == FLOWS
    return status


async def pages(bus: Bus, body: dict[str, Any], **options: Any) -> list[list[dict[str, Any]]]:
    """Returns the pages up to the one without `next`."""
    found, after = [], None
    while True:
        page = await bus.ok("flows", body | ({"after": after} if after else {}), **options)
        found.append(page["flows"])
        after = page.get("next")
        assert page["truncated"] == (after is not None)
        if after is None:
            return found


@pytest.mark.parametrize("sort", ["bytes", "packets", "recent"])
async def test_pages_list_every_flow_once(replayed: dict[str, Any], bus: Bus, sort: str) -> None:
    large = await pages(bus, {"limit": FLOWS, "sort": sort})
    assert len(large) > 1, "one reply held everything"
    small = await pages(bus, {"limit": 900, "sort": sort})
    binary = await pages(bus, {"limit": FLOWS, "sort": sort}, headers={"Accept": MSGPACK})
    orders = []
    for found in (large, small, binary):
        ids = [flow["flow_id"] for page in found for flow in page]
        assert len(ids) == len(set(ids)) == FLOWS
        orders.append([str(one) for one in ids])
    assert orders[0] == orders[1]


async def test_pages_survive_flows_that_end_meanwhile(
    alpha: Agent, bus: Bus, tmp_path: Path
) -> None:
    """Eight seconds after the flows, one more packet moves the time beyond their timeout."""
    last = at(START_NS + 8 * SECOND_NS, many_flows()[0].data)
    path = write_pcap(tmp_path / "many.pcap", [*many_flows(), last])
    metering = {"enable": True, "flow_timeout_sec": 1}
    request = {"interface": str(path), "backend": "file", "record": False, "metering": metering}
    await bus.ok("start", request | {"replay_speed": 1.0})
    await eventually(lambda: active_flows(bus, FLOWS, FLOWS), "all flows in the table")
    page = await bus.ok("flows", {"limit": FLOWS})
    assert page["truncated"]
    seen = [flow["flow_id"] for flow in page["flows"]]
    await finished(bus)
    await eventually(lambda: active_flows(bus, 0, 1), "the flows to end")
    while page["truncated"]:
        page = await bus.ok("flows", {"limit": FLOWS, "after": page["next"]})
        seen += [flow["flow_id"] for flow in page["flows"]]
    assert len(seen) == len(set(seen)) == FLOWS
    check_conservation(await bus.ok("status"))


async def active_flows(bus: Bus, least: int, most: int) -> bool:
    status = await bus.ok("status")
    return least <= int(status["active_flows"]) <= most


async def test_command_pages_until_it_has_all(
    replayed: dict[str, Any], bus: Bus, nats_server: NatsServer
) -> None:
    command = await asyncio.create_subprocess_exec(
        *(str(COMMAND), "flows", "-n", str(FLOWS), "--json", *client_flags(nats_server.url)),
        stdout=asyncio.subprocess.PIPE,
        env=os.environ | {"HOME": "/nonexistent"},
    )
    out, _ = await command.communicate()
    assert command.returncode == 0
    (line,) = out.splitlines()
    reply = json.loads(line)
    assert len({flow["flow_id"] for flow in reply["flows"]}) == FLOWS
    assert not reply["truncated"]


async def test_filter_takes_networks_and_exclusions(replayed: dict[str, Any], bus: Bus) -> None:
    async def count(**wanted: Any) -> int:
        return sum(map(len, await pages(bus, {"limit": FLOWS, "filter": wanted})))

    assert await count(ip="10.1.0.0/16") == 256
    assert await count(ip="192.0.2.7") == FLOWS // 100
    assert await count(protocol="TCP") == FLOWS // 4
    assert await count(**{"not": {"protocol": "TCP"}}) == FLOWS - FLOWS // 4
    assert await count(**{"not": {"protocol": 6, "ip": "192.0.2.0"}}) == FLOWS - FLOWS // 100
    assert await count(ip="10.1.0.0/16", **{"not": {"ip": "10.1.128.0/17"}}) == 128
    assert await count(**{"not": {}}) == FLOWS
    assert await count(ip="0.0.0.0/0") == FLOWS
    assert await count(ip="::/0") == 0
    # A file has no sockets, so no flow has an owner.
    for key, value in (("unit", "*"), ("container", "a"), ("pod", "*"), ("process", 1)):
        assert await count(**{key: value}) == 0
        assert await count(**{"not": {key: value}}, protocol="TCP") == FLOWS // 4


async def test_by_adds_up_all_flows(replayed: dict[str, Any], bus: Bus) -> None:
    body = await bus.ok("flows", {"by": ["protocol"]})
    rows = {row["protocol"]: row for row in body["flows"]}
    assert (rows["TCP"]["flows"], rows["UDP"]["flows"]) == (FLOWS // 4, FLOWS - FLOWS // 4)
    assert sum(row["packets"] for row in rows.values()) == replayed["packets_captured"]
    assert sum(row["bytes"] for row in rows.values()) == replayed["ip_bytes"]
    assert (body["active_flows"], body["truncated"]) == (FLOWS, False)

    largest = await bus.ok("flows", {"by": ["dest_ip", "dest_port"], "limit": 10})
    assert len(largest["flows"]) == 10
    assert largest["truncated"]
    everything = await pages(bus, {"by": ["dest_ip", "dest_port"], "limit": 30})
    assert len({(row["dest_ip"], row["dest_port"]) for page in everything for row in page}) == 100
    sources = await pages(bus, {"by": ["source_ip"], "limit": FLOWS})
    assert sum(map(len, sources)) == FLOWS
    assert {"flows", "active_flows", "truncated"} <= set(FlowsReply.__struct_fields__)


@pytest.mark.parametrize("after", ["", "x", "AAAA", "kw==", "é", "a" * 500])
async def test_foreign_cursor_is_rejected(replayed: dict[str, Any], bus: Bus, after: str) -> None:
    reply = await bus.request("flows", {"after": after})
    assert (reply.code, reply.body["field"]) == (422, "$.after")


async def test_cursor_of_another_sort_is_rejected(replayed: dict[str, Any], bus: Bus) -> None:
    first = await bus.ok("flows", {"limit": 5})
    reply = await bus.request("flows", {"limit": 5, "sort": "recent", "after": first["next"]})
    assert (reply.code, reply.body["field"]) == (422, "$.after")
