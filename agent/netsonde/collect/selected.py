"""A source whose messages are limited to the hosts of a group or selector.

The consumer delivers the messages of all hosts. So a host that joins the fleet later is collected
from its first batch, and the consumer keeps its subjects. Messages of other hosts are acked and
counted nowhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from nats.aio.msg import Msg

from ..wire.subjects import stream_host
from .source import Source


class Members(Protocol):
    async def includes(self, host: str) -> bool:
        """Returns whether the host is selected, as far as is known now."""


class SelectedSource:
    def __init__(self, source: Source, members: Members) -> None:
        self._source = source
        self._members = members

    @property
    def window(self) -> int:
        return self._source.window

    async def open(self) -> None:
        await self._source.open()

    async def fetch(self) -> list[Msg]:
        kept: list[Msg] = []
        others: list[Msg] = []
        for message in await self._source.fetch():
            host = stream_host(message.subject)
            selected = host is None or await self._members.includes(host)
            (kept if selected else others).append(message)
        if others:
            await self._source.acknowledge(others)
        return kept

    async def acknowledge(self, messages: Sequence[Msg]) -> None:
        await self._source.acknowledge(messages)

    async def drained(self) -> bool:
        return await self._source.drained()
