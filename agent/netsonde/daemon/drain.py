"""The orderly end of an agent: requests, then records, then connections, each with a deadline."""

from __future__ import annotations

import asyncio
import contextlib

import structlog

from ..errors import NetsondeError
from .parts import Parts

DRAIN_SEC = 10.0  # for everything; systemd's TimeoutStopSec is longer
REQUESTS_SEC = 3.0
RECORDS_SEC = 4.0
CONNECTION_SEC = 1.0


async def drain(parts: Parts) -> None:
    """Refuses new requests with 503, stops the session, sends its records, flushes."""
    try:
        async with asyncio.timeout(DRAIN_SEC):
            await _drain(parts)
    except TimeoutError:
        structlog.get_logger().warning("draining took too long", limit_sec=DRAIN_SEC)


async def _drain(parts: Parts) -> None:
    bus = parts.bus
    parts.events.emit("lifecycle", "stopping")
    await parts.responder.drain(REQUESTS_SEC)
    deliverable = bus.records.connected or parts.spooled is not None
    with contextlib.suppress(NetsondeError):
        await parts.features.sessions.close(RECORDS_SEC if deliverable else 0.0)
    if bus.data.connected:
        await parts.events.flushed(CONNECTION_SEC)
        await bus.data.drain(CONNECTION_SEC)
    if bus.control.connected:
        await bus.control.drain(CONNECTION_SEC)
