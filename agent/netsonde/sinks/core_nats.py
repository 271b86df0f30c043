"""The flow stream over core NATS: at most once.

A batch waits for a connection until the caller cancels. A dropped batch is counted, not resent.
"""

from __future__ import annotations

from ..bus.publisher import Publisher
from ..core.values import Batch, Stats
from .composer import Composer, Encoding


class FlowStream:
    lasting = False  # batches sent just before a disconnect are lost

    def __init__(self, publisher: Publisher) -> None:
        self._publisher = publisher
        self._composer = Composer(publisher)

    @property
    def bytes_max(self) -> int:
        """Limit for the rendered records in one batch."""
        return self._publisher.payload_bytes_max

    async def send(self, session_id: str, encoding: Encoding, batch: Batch) -> bool:
        """Waits for a connection. Returns False if the server rejects the message's size."""
        message = self._composer.compose(session_id, encoding, batch)
        while True:
            await self._publisher.wait_connected()
            if await self._publisher.flows(message.subject, message.head, message.payload):
                return True
            if self._publisher.connected:
                return False

    def mark(self, session_id: str, stats: Stats) -> None:
        """Does nothing: this sink keeps no state between runs."""

    def unmark(self) -> None: ...

    def state(self) -> None: ...

    async def barrier(self) -> bool:
        """Returns True if the server has received every batch."""
        return await self._publisher.barrier()
