"""Hosts of a group that join while a client follows them."""

from __future__ import annotations

import msgspec
import pytest

from netsonde.bus.kv import KeyValue
from netsonde.config.sections import NatsSection
from netsonde.fleet.client import connect
from netsonde.fleet.members import Members
from netsonde.fleet.targeting import Target
from netsonde.wire.inventory import HostEntry
from servers import NatsServer

pytestmark = pytest.mark.jetstream


async def test_a_host_that_joins_right_after_a_read_belongs_to_its_group(
    nats_server: NatsServer,
) -> None:
    async with connect(NatsSection(servers=[nats_server.url])) as client:
        bucket = KeyValue(client, "capture-hosts")
        await bucket.ensure()

        async def join(host: str, site: str) -> None:
            entry = HostEntry(
                host=host, boot="b", version="1", time="2026-01-01T00:00:00Z", labels={"site": site}
            )
            await bucket.put(host, msgspec.json.encode(entry))

        await join("early", "ams")
        members = Members(client, Target(groups=(("site", "ams"),)))
        assert await members.read()
        assert await members.includes("early")
        await join("other", "fra")
        assert not await members.includes("other")
        assert not await members.includes("unknown")
        await join("late", "ams")
        assert await members.includes("late")
