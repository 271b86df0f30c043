"""The agent's messages on a real server: metrics with their sequence numbers."""

from __future__ import annotations

import asyncio
import json

from deadlines import TIMEOUT_SEC
from netsonde.bus.embedded import EmbeddedServer
from netsonde.bus.nats_client import GuardedClient
from netsonde.config.sections import AgentSection, Config, NatsSection
from netsonde.daemon.parts import Bus
from netsonde.wire.replies import MetricsReply

METRICS = MetricsReply(
    session_id="s",
    time="2026-01-01T00:00:00.000000000Z",
    interval_sec=1.0,
    throughput_mbps=0.0,
    packets_per_sec=0,
    avg_packet_size=0.0,
    drop_rate_percent=0.0,
    buffer_usage_percent=0.0,
    active_flows=0,
)


async def test_metrics_are_numbered_from_one() -> None:
    async with asyncio.timeout(TIMEOUT_SEC), EmbeddedServer(jetstream=False) as server:
        bus = Bus(Config(agent=AgentSection(host="alpha"), nats=NatsSection(servers=[server.url])))
        running = [asyncio.create_task(one.run()) for one in bus.connections]
        client = GuardedClient()
        await client.connect([server.url])
        try:
            received = await client.subscribe("capture.stream.metrics.alpha")
            await client.flush()
            await bus.data.wait_connected()
            for expected in (1, 2):
                await bus.publish_metrics(METRICS)
                message = json.loads((await received.next_msg(TIMEOUT_SEC)).data)
                assert (message["host"], message["seq"]) == ("alpha", expected)
                assert message["boot"] == bus.publisher.boot
        finally:
            await client.close()
            for one in running:
                one.cancel()
            await asyncio.gather(*running, return_exceptions=True)
