"""The flow stream over core NATS: at most once.

A batch waits for the bus as long as its caller allows; a dropped one is counted, never resent.
"""

from __future__ import annotations

from ..bus.publisher import Publisher
from ..core.values import Batch, Stats
from .composer import Composer, Encoding


class FlowStream:
    """By core NATS, at most once."""

    lasting = False  # without the bus, what is handed over last is lost

    def __init__(self, publisher: Publisher) -> None:
        self._publisher = publisher
        self._composer = Composer(publisher)

    @property
    def bytes_max(self) -> int:
        """Room for rendered records in one batch."""
        return self._publisher.payload_bytes_max

    async def send(self, session_id: str, encoding: Encoding, batch: Batch) -> bool:
        """Waits for the bus. False: the server takes no message of this size."""
        message = self._composer.compose(session_id, encoding, batch)
        while True:
            await self._publisher.wait_connected()
            if await self._publisher.flows(message.subject, message.head, message.payload):
                return True
            if self._publisher.connected:
                return False

    def mark(self, session_id: str, stats: Stats) -> None:
        """Nothing outlives this run that a mark could be for."""

    def unmark(self) -> None: ...

    def state(self) -> None: ...

    async def barrier(self) -> bool:
        """True when the server has taken every batch sent before."""
        return await self._publisher.barrier()
