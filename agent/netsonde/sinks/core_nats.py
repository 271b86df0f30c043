"""The flow stream over core NATS: at most once.

A batch waits for a connection until the caller cancels. A dropped batch is counted, not resent.
The first batch of each connection waits until the server has accepted or denied it. A denied
batch is unsent. Later batches do not wait, unless the server denies one of them.
"""

from __future__ import annotations

from ..bus.nats_client import PermissionDeniedError
from ..bus.publisher import Publisher
from ..core.values import Batch, Stats
from .composer import Composer, Encoding


class FlowStream:
    lasting = False  # batches sent just before a disconnect are lost

    def __init__(self, publisher: Publisher, *, shards: int = 1) -> None:
        self._publisher = publisher
        self._composer = Composer(publisher, shards=shards)
        self._accepted_on = 0  # the connection whose server accepted a batch
        self._denied = False
        publisher.on_denial(self._on_denial)

    @property
    def bytes_max(self) -> int:
        """Limit for the rendered records in one batch."""
        return self._publisher.payload_bytes_max

    async def send(self, session_id: str, encoding: Encoding, batch: Batch) -> bool:
        """Waits for a connection. Returns False if the server rejects the message."""
        message = self._composer.compose(session_id, encoding, batch)
        while True:
            await self._publisher.wait_connected()
            connects, self._denied = self._publisher.connects, False
            if await self._publisher.flows(message.subject, message.head, message.payload):
                return connects == self._accepted_on or await self._accepted(connects)
            if self._publisher.connected:
                return False

    async def _accepted(self, connects: int) -> bool:
        confirmed = await self._publisher.barrier()
        if confirmed and not self._denied:
            self._accepted_on = connects
        return not self._denied

    def _on_denial(self, error: PermissionDeniedError) -> None:
        if error.subject == self._composer.subject:
            self._denied = True
            self._accepted_on = 0

    def mark(self, session_id: str, stats: Stats) -> None:
        """Does nothing: this sink keeps no state between runs."""

    def unmark(self) -> None: ...

    def state(self) -> None: ...

    async def barrier(self) -> bool:
        """Returns True if the server has received every batch."""
        return await self._publisher.barrier()
