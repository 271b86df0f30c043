"""Sends replies, and bounds the bytes that wait for the bus.

A caller or a server that reads slowly must not fill the agent's memory. A small reply leaves at
once while SMALL_UNSENT_MAX bytes are unsent at most, so that a `status` does not wait behind
large replies. A large reply waits its turn below UNSENT_MAX, in order. A reply that finds no room
within SEND_TIMEOUT_SEC is dropped and counted.
"""

from __future__ import annotations

import asyncio
import time

import structlog

from ..bus.connection import Connection

UNSENT_MAX = 4 << 20
SMALL_UNSENT_MAX = 8 << 20
SMALL_REPLY_MAX = 16 << 10
SEND_TIMEOUT_SEC = 5.0
POLL_SEC = 0.002  # nats-py has no event for sent bytes
WARNING_INTERVAL_SEC = 60.0


class Outbox:
    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._turn = asyncio.Lock()
        self._warned_sec = -WARNING_INTERVAL_SEC
        self._log = structlog.get_logger()
        self.dropped = 0

    @property
    def full(self) -> bool:
        """Whether a large reply would wait."""
        return self._connection.unsent_bytes >= UNSENT_MAX

    @property
    def blocked(self) -> bool:
        """Whether even a small reply would wait."""
        return self._connection.unsent_bytes >= SMALL_UNSENT_MAX

    async def send(self, subject: str, payload: bytes, headers: dict[str, str]) -> None:
        """Returns when the reply is with the connection or was dropped. Raises
        PayloadTooLargeError."""
        if len(payload) > SMALL_REPLY_MAX or self.blocked:
            try:
                async with asyncio.timeout(SEND_TIMEOUT_SEC), self._turn:
                    while self.full:  # noqa: ASYNC110 - nats-py has no event
                        await asyncio.sleep(POLL_SEC)
                    await self._publish(subject, payload, headers)
            except TimeoutError:
                self.drop("the bus takes no more")
        else:
            await self._publish(subject, payload, headers)

    def drop(self, reason: str) -> None:
        """Counts a reply that is not sent; warns once a minute."""
        self.dropped += 1
        now = time.monotonic()
        if now - self._warned_sec >= WARNING_INTERVAL_SEC:
            self._warned_sec = now
            self._log.warning("replies dropped", reason=reason, dropped=self.dropped)

    async def _publish(self, subject: str, payload: bytes, headers: dict[str, str]) -> None:
        if not await self._connection.publish(subject, payload, headers or None):
            self.drop("cannot publish")
