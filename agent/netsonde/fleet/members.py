"""The hosts of a group or selector, as the inventory has them now. Hosts may join at any time."""

from __future__ import annotations

import asyncio
import time

from nats.errors import Error as NatsError

from ..wire.inventory import Chosen
from .client import FleetClient
from .inventory import InventoryError, read_inventory
from .targeting import Target

REFRESH_SEC = 30.0  # maximum age of what is known; the next read begins at half of it
UNKNOWN_SEC = 2.0  # one unknown host has the inventory read again, at most this often
READ_INTERVAL_SEC = 0.2  # between two reads for unknown hosts
MISSED_MAX = 65_536


class Members:
    """client: may be replaced after a reconnect. first: hosts that belong to the target whatever
    the inventory says, for example because discovery found them."""

    def __init__(self, client: FleetClient, target: Target) -> None:
        self.client = client
        self.first: frozenset[str] = frozenset()
        self._target = target
        self._known: dict[str, bool] = {}
        self._missed: set[str] = set()  # unknown hosts that a read did not have
        self._read_sec = float("-inf")
        self._lock = asyncio.Lock()
        self._reading: asyncio.Task[None] | None = None

    async def read(self) -> bool:
        """Reads the inventory. Returns False without one, or if it has no host of the target."""
        await self._refresh()
        return any(self._known.values())

    async def includes(self, host: str) -> bool:
        """Returns whether the host belongs to the target. A host that is not in the inventory does
        not."""
        if host in self.first:
            return True
        age_sec = time.monotonic() - self._read_sec
        if host in self._known:
            if age_sec > REFRESH_SEC:
                await self._refresh()
            elif age_sec > REFRESH_SEC / 2 and (self._reading is None or self._reading.done()):
                # No message of a known host waits for this read.
                self._reading = asyncio.create_task(self._refresh())
        elif host not in self._missed or age_sec > UNKNOWN_SEC:
            # It may have joined since the last read, and no message of a member may be left out.
            await asyncio.sleep(max(READ_INTERVAL_SEC - age_sec, 0))
            await self._refresh()
            if len(self._missed) >= MISSED_MAX:
                self._missed.clear()
            self._missed.add(host)
        return self._known.get(host, False)

    async def _refresh(self) -> None:
        async with self._lock:  # a read that began earlier must not end later
            begun_sec = time.monotonic()
            address = self.client.address
            try:
                found = await read_inventory(
                    self.client.connection, address.root, domain=address.jetstream_domain
                )
            except (InventoryError, NatsError):
                found = None  # the hosts that were known stay known
            self._read_sec = begun_sec
            if found is not None:
                self._known = {
                    name: self._target.matches(name, host.entry.labels, Chosen.of(host.entry).facts)
                    for name, host in found.hosts.items()
                }


def joins_late(target: Target) -> bool:
    """Returns whether hosts may join the target later: labels, facts or patterns choose them."""
    return target.expected is None and bool(target.by_label or target.patterns)
