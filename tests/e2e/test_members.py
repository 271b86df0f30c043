"""Hosts of a group that join while a client follows them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import msgspec
import pytest

from deadlines import eventually
from netsonde.bus.kv import KeyValue
from netsonde.config.sections import NatsSection
from netsonde.fleet import inventory
from netsonde.fleet import members as module
from netsonde.fleet.client import FleetClient, connect
from netsonde.fleet.members import Members
from netsonde.fleet.targeting import Target
from netsonde.wire.inventory import HostEntry
from servers import NatsServer

pytestmark = pytest.mark.jetstream

Join = Callable[[str, str], Awaitable[None]]


@asynccontextmanager
async def joined(server: NatsServer) -> AsyncIterator[tuple[FleetClient, Join]]:
    """Returns a client, and a function that writes the entry of a host with the label `site`."""
    async with connect(NatsSection(servers=[server.url])) as client:
        bucket = KeyValue(client, "capture-hosts")
        await bucket.ensure()

        async def join(host: str, site: str) -> None:
            entry = HostEntry(
                host=host, boot="b", version="1", time="2026-01-01T00:00:00Z", labels={"site": site}
            )
            await bucket.put(host, msgspec.json.encode(entry))

        yield client, join


async def test_a_host_that_joins_right_after_a_read_belongs_to_its_group(
    nats_server: NatsServer,
) -> None:
    async with joined(nats_server) as (client, join):
        await join("early", "ams")
        members = Members(client, Target(groups=(("site", "ams"),)))
        assert await members.read()
        assert await members.includes("early")
        await join("other", "fra")
        assert not await members.includes("other")
        assert not await members.includes("unknown")
        await join("late", "ams")
        assert await members.includes("late")


async def test_a_message_of_a_known_host_waits_for_no_read(
    nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server is frozen, so a read cannot end."""
    async with joined(nats_server) as (client, join):
        await join("early", "ams")
        members = Members(client, Target(groups=(("site", "ams"),)))
        assert await members.read()
        await join("early", "fra")
        monkeypatch.setattr(inventory, "API_SEC", 600.0)
        monkeypatch.setattr(module, "REFRESH_SEC", 600.0)
        members._read_sec -= 301.0
        nats_server.freeze()
        try:
            for _ in range(1000):
                assert await members.includes("early")
                await asyncio.sleep(0)
        finally:
            nats_server.thaw()

        async def left() -> bool:
            return not await members.includes("early")

        await eventually(left, "the new label to be read")
