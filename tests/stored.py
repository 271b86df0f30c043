"""Flow records of a replayed file, stored in JetStream by a real agent."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from nats.errors import TimeoutError as NatsTimeoutError

from agents import Fleet
from bus import Bus
from deadlines import eventually


async def store_flows(fleet: Fleet, bus: Bus, trace: Path, host: str = "alpha") -> dict[str, Any]:
    """Replays the file until the stream has each record. Returns the reply of `stop`."""
    spool = str(fleet.directory / "spool")
    fleet.start(host, flows={"jetstream": True, "spool_dir": spool})
    session = {"interface": str(trace), "backend": "file", "metering": {"enable": True}}
    await bus.ok("start", session, host=host)

    async def finished() -> bool:
        return bool((await bus.ok("status", host=host))["finished"])

    await eventually(finished, "the end of the file")
    stopped = await bus.ok("stop", host=host)
    await drained(bus, host)
    return stopped


async def drained(bus: Bus, host: str = "alpha") -> None:
    """Returns when the stream has acknowledged each record of the host's spool."""

    async def acknowledged() -> bool:
        status = await bus.request("status", host=host)
        return bool(status.body["spool"]["records_waiting"] == 0)

    await eventually(acknowledged, "the stream to have each record")


async def batches(bus: Bus, stream: str, consumer: str) -> list[dict[str, Any]]:
    """Returns the batches that an existing pull consumer of the stream still has."""
    subscription = await bus.client.jetstream().pull_subscribe_bind(consumer, stream)
    found = []
    while (info := await subscription.consumer_info()).num_pending or info.num_ack_pending:
        try:
            messages = await subscription.fetch(100, timeout=1)
        except NatsTimeoutError:
            continue
        for message in messages:
            found.append(json.loads(message.data) | {"subject": message.subject})
            await message.ack()
    return found
