"""The flow stream over core NATS, on a real server: batches arrive, and a denial is reported."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from deadlines import TIMEOUT_SEC
from netsonde.bus.connection import Connection
from netsonde.bus.nats_client import GuardedClient
from netsonde.bus.publisher import Publisher
from netsonde.config.sections import NatsSection
from netsonde.core.values import Batch
from netsonde.sinks.core_nats import FlowStream
from servers import NatsServer

DENYING = 'authorization { users = [{user: a, password: a, permissions: {publish: "ok.>"}}] }'


@asynccontextmanager
async def sink_on(settings: NatsSection) -> AsyncIterator[FlowStream]:
    connection = Connection(settings, host="alpha", purpose="data")
    run = asyncio.create_task(connection.run())
    try:
        async with asyncio.timeout(TIMEOUT_SEC):
            await connection.wait_connected()
            yield FlowStream(Publisher(connection, root="capture", host="alpha"))
    finally:
        run.cancel()
        await asyncio.gather(run, return_exceptions=True)


def batch() -> Batch:
    return Batch(data=memoryview(b'[{"flow_id":"1"}]'), records=1, packets=1, first_ns=1, last_ns=2)


async def test_batches_arrive(nats_server: NatsServer) -> None:
    client = GuardedClient()
    await client.connect([nats_server.url])
    received = await client.subscribe("capture.stream.flows.alpha")
    await client.flush()
    async with sink_on(NatsSection(servers=[nats_server.url])) as sink:
        assert await sink.send("s", "json", batch()) is True
        assert await sink.send("s", "json", batch()) is True
        found = [json.loads((await received.next_msg(TIMEOUT_SEC)).data) for _ in range(2)]
    assert [one["seq"] for one in found] == [1, 2]
    assert [one["records"] for one in found] == [[{"flow_id": "1"}]] * 2
    await client.close()


async def test_a_denied_batch_is_unsent(tmp_path: Path) -> None:
    server = NatsServer(tmp_path / "denying", config=DENYING).start()
    password = tmp_path / "password"
    password.write_text("a")
    password.chmod(0o600)
    settings = NatsSection(servers=[server.url], user="a", password_file=str(password))
    try:
        async with sink_on(settings) as sink:
            assert await sink.send("s", "json", batch()) is False
    finally:
        server.kill()
