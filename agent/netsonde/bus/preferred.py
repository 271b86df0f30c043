"""The way back to a host's preferred server.

The servers of a host have an order (`order_servers`), so that a fleet spreads over them. When a
server dies, its hosts move to others. This task brings each of them back after a time between
RETURN_SEC_MIN and RETURN_SEC_MAX that depends on the host: a server that has just started does not
get all its hosts at once. The server must accept a login first.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import Awaitable, Callable
from urllib.parse import urlsplit

import nats.errors

from ..config.addresses import endpoint
from .nats_client import GuardedClient
from .nats_transport import DEFAULT_PORT

RETURN_SEC_MIN, RETURN_SEC_MAX = 60.0, 600.0
BUSY_SEC = 1.0  # between two looks at a connection that may not move


def return_sec(host: str) -> float:
    """Returns the time on another server. All connections of a host have the same, so they return
    together."""
    digest = hashlib.sha256(host.encode()).digest()
    share = int.from_bytes(digest[:4]) / (1 << 32)
    return RETURN_SEC_MIN + share * (RETURN_SEC_MAX - RETURN_SEC_MIN)


class Preferred:
    """accepts: returns whether the server accepts a login. may_move: whether a connection may
    move now."""

    def __init__(
        self,
        url: str,
        host: str,
        accepts: Callable[[], Awaitable[bool]],
        may_move: Callable[[], bool],
    ) -> None:
        parts = urlsplit(url)
        self.server = endpoint(parts.hostname or "", parts.port or DEFAULT_PORT)
        self._host = host
        self._accepts = accepts
        self._may_move = may_move
        self._away = asyncio.Event()

    def note(self, server: str) -> None:
        """Notes the server in use."""
        if server == self.server:
            self._away.clear()
        else:
            self._away.set()

    async def follow(self, client: GuardedClient) -> None:
        """Brings the client back whenever it is on another server, until cancelled."""
        while True:
            await self._away.wait()
            await asyncio.sleep(return_sec(self._host))
            if not (client.is_connected and self._away.is_set() and await self._accepts()):
                continue
            while not self._may_move():  # noqa: ASYNC110 - a rare look; no event for each request
                await asyncio.sleep(BUSY_SEC)
            if client.is_connected and self._away.is_set():
                with contextlib.suppress(nats.errors.Error, OSError):  # it broke meanwhile
                    await client.move_to(self.server)
