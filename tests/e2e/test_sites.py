"""An agent behind a leaf node uses the JetStream of the hub, by the hub's domain."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import nats
import pytest
import pytest_asyncio
from nats.aio.client import Client
from nats.js import JetStreamContext
from nats.js.api import DiscardPolicy, StreamConfig

from agents import Fleet, client_flags
from bus import Bus
from deadlines import eventually
from netsonde.config.sections import NatsSection
from netsonde.fleet import connect, read_hosts
from packets import SECOND_NS, UDP, at, ethernet, ipv4, udp, write_pcap
from replay import check_conservation, finished
from servers import NatsServer, free_port
from stored import drained

FLOWS = 300
STREAM = "CAPTURE_FLOWS"


def jetstream(directory: Path, domain: str) -> str:
    return f'server_name: {domain}\njetstream {{ store_dir: "{directory}", domain: {domain} }}\n'


@pytest.fixture
def leaf_port() -> int:
    return free_port()


@pytest.fixture
def hub(tmp_path: Path, leaf_port: int) -> Iterator[NatsServer]:
    directory = tmp_path / "hub"
    config = jetstream(directory, "hub")
    config += f'leafnodes {{ listen: "127.0.0.1:{leaf_port}" }}\n'
    server = NatsServer(directory, config=config).start()
    yield server
    server.kill()


@pytest.fixture
def nats_server(tmp_path: Path, hub: NatsServer, leaf_port: int) -> Iterator[NatsServer]:
    """The leaf: agents and clients connect to it."""
    directory = tmp_path / "leaf"
    config = jetstream(directory, "edge")
    config += f'leafnodes {{ remotes: [ {{ url: "nats://127.0.0.1:{leaf_port}" }} ] }}\n'
    server = NatsServer(directory, config=config).start()
    yield server
    server.kill()


@pytest_asyncio.fixture
async def leaf(nats_server: NatsServer) -> AsyncIterator[Client]:
    connection = await nats.connect(nats_server.url)
    hub = connection.jetstream(domain="hub")

    async def linked() -> bool:
        try:
            await hub.account_info()
        except nats.errors.Error:
            return False
        return True

    await eventually(linked, "the leaf to reach the hub")
    yield connection
    await connection.close()


@pytest.fixture
def capture(tmp_path: Path) -> Path:
    def frame(number: int) -> bytes:
        source = f"10.0.{number >> 8}.{number & 255}"
        return ethernet(ipv4(udp(b"", 1000, 53), UDP, source, "10.1.0.1"))

    start_ns = 1_767_225_600 * SECOND_NS
    return write_pcap(
        tmp_path / "many.pcap", [at(start_ns + n * 1000, frame(n)) for n in range(FLOWS)]
    )


async def stored(context: JetStreamContext) -> list[dict[str, Any]]:
    """Returns the records of a flow stream."""
    state = (await context.stream_info(STREAM)).state
    sequence = range(state.first_seq, state.last_seq + 1)
    messages = [await context.get_msg(STREAM, seq=number) for number in sequence]
    return [one for message in messages for one in json.loads(message.data or b"")["records"]]


def options(tmp_path: Path, domain: str) -> dict[str, Any]:
    return {
        "nats": {"jetstream_domain": domain},
        "flows": {"jetstream": True, "spool_dir": str(tmp_path / "spool")},
    }


async def test_an_agent_on_a_leaf_stores_at_the_hub(
    fleet: Fleet, bus: Bus, leaf: Client, capture: Path, tmp_path: Path
) -> None:
    fleet.start(**options(tmp_path, "hub"))
    metering = {"enable": True}
    await bus.ok("start", {"interface": str(capture), "backend": "file", "metering": metering})
    check_conservation(await finished(bus))
    out = tmp_path / "out.pcapng"
    flags = client_flags(fleet.server.url)  # the reply names the domain
    command = (sys.executable, "-m", "netsonde", "packets", "-w", str(out), *flags)
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert out.stat().st_size > FLOWS * 42
    await bus.ok("stop")
    await drained(bus)

    hub, edge = leaf.jetstream(domain="hub"), leaf.jetstream(domain="edge")
    records = await stored(hub)
    assert len({record["source_ip"] for record in records}) == len(records) == FLOWS

    async def stores() -> bool:
        names = {str(info.config.name) for info in await hub.streams_info()}
        packets = any(name.startswith("OBJ_") for name in names)
        return packets and {"CAPTURE_FLOWS", "KV_capture-hosts"} <= names

    await eventually(stores, "the streams and buckets at the hub")
    assert (await edge.account_info()).streams == 0
    address = NatsSection(servers=[fleet.server.url], jetstream_domain="hub")
    async with connect(address) as client:

        async def listed() -> list[str]:  # the entry comes after its bucket
            return list((await read_hosts(client)).hosts)

        assert await eventually(listed, "the host's entry") == ["alpha"]


async def test_an_ack_of_another_domain_does_not_count(
    fleet: Fleet, bus: Bus, leaf: Client, capture: Path, tmp_path: Path
) -> None:
    """The leaf stores the records too, and the hub's stream is full. The records stay in the
    spool until the hub stores them."""
    hub, edge = leaf.jetstream(domain="hub"), leaf.jetstream(domain="edge")
    await edge.add_stream(name=STREAM, subjects=["capture.stream.flows.>"])
    full = StreamConfig(
        name=STREAM,
        subjects=["capture.stream.flows.>"],
        max_msgs=1,
        discard=DiscardPolicy.NEW,
        duplicate_window=600.0,
    )
    await hub.add_stream(full)
    await hub.publish("capture.stream.flows.other", b"{}")
    alarms = await bus.messages("capture.stream.events.alpha.alarm")
    fleet.start(**options(tmp_path, "hub"))
    metering = {"enable": True}
    await bus.ok("start", {"interface": str(capture), "backend": "file", "metering": metering})
    await finished(bus)
    await bus.ok("stop")

    async def refused() -> bool:
        return any("domain 'edge'" in json.loads(one.data).get("detail", "") for one in alarms)

    await eventually(refused, "the alarm about the leaf's ack")
    assert (await edge.stream_info(STREAM)).state.messages
    spool = (await bus.ok("status"))["spool"]
    assert spool["records_waiting"] == FLOWS
    await edge.delete_stream(STREAM)
    await hub.update_stream(full.evolve(max_msgs=-1))
    await hub.delete_msg(STREAM, 1)

    await drained(bus)
    records = await stored(hub)
    assert len({record["source_ip"] for record in records}) == len(records) == FLOWS
