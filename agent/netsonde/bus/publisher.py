"""Publishes to this host's stream subjects by core NATS.

Owns the subjects and the run's `boot`, which sorts by time and makes (host, boot, seq) unique.
Without a connection nothing is sent, and the caller waits, keeps the message or counts a loss.
"""

from __future__ import annotations

import hashlib
import secrets
import time

from ..wire.events import EventKind
from .connection import Connection, PayloadTooLargeError
from .nats_client import Denial

ENVELOPE_BYTES_MAX = 2048  # a batch's bytes around its records, headers included


class Publisher:
    def __init__(
        self,
        connection: Connection,
        *,
        root: str,
        host: str,
        boot: str | None = None,
        key: bytes | None = None,
    ) -> None:
        self._connection = connection
        self.root = root
        self.host = host
        self.boot = boot or f"{time.time_ns():016x}"
        self._key = key or secrets.token_bytes(32)

    def with_connection(self, connection: Connection) -> Publisher:
        """Returns a publisher of the same run on another connection."""
        return Publisher(connection, root=self.root, host=self.host, boot=self.boot, key=self._key)

    def message_id(self, number: str | int) -> str:
        """Returns the Nats-Msg-Id of a message. Its suffix is a MAC under a key of this run, so no
        other client can use the id first and have this message dropped as a duplicate."""
        name = f"{self.host}:{self.boot}:{number}"
        suffix = hashlib.blake2b(name.encode(), key=self._key, digest_size=8).hexdigest()
        return f"{name}:{suffix}"

    @property
    def connected(self) -> bool:
        return self._connection.connected

    @property
    def payload_bytes_max(self) -> int:
        """Limit for the rendered records in one message."""
        return max(self._connection.max_payload - ENVELOPE_BYTES_MAX, 1)

    @property
    def connects(self) -> int:
        """Number of the present connection."""
        return self._connection.connects

    def on_denial(self, notice: Denial) -> None:
        self._connection.on_denial(notice)

    async def wait_connected(self) -> None:
        await self._connection.wait_connected()

    async def flows(self, subject: bytes, head: bytes, payload: bytes) -> bool:
        """head: an encoded NATS header block."""
        try:
            return await self._connection.publish_ready(subject, head, payload)
        except PayloadTooLargeError:
            return False

    async def metrics(self, payload: bytes) -> bool:
        try:
            return await self._connection.publish(
                f"{self.root}.stream.metrics.{self.host}", payload
            )
        except PayloadTooLargeError:
            return False

    async def event(self, kind: EventKind, payload: bytes, *, seq: int) -> bool:
        """Raises PayloadTooLargeError."""
        headers = {"Nats-Msg-Id": self.message_id(f"{kind}:{seq}")}
        subject = f"{self.root}.stream.events.{self.host}.{kind}"
        return await self._connection.publish(subject, payload, headers)

    async def barrier(self, timeout_sec: float = 5.0) -> bool:
        """Returns True if the server has received everything published before."""
        return await self._connection.barrier(timeout_sec)
