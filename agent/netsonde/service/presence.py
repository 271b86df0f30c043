"""This host's entry in the inventory, and the ownership of its name.

The entry is written on change, and every 30 seconds. Two agents under one name find each other
there: both receive each write of the name's key, and one with a foreign boot is a contest. The
agent that started first (the smaller boot) writes again at once. The other one stops writing and
refuses requests (409 `name_taken`) until the first has been silent for LOST_AFTER_SEC. An agent
that has just started writes without asking, because a foreign boot is usually its predecessor.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable

import msgspec
import structlog
from nats.aio.msg import Msg

from ..bus.connection import Connection
from ..bus.kv import KeyValue, KeyValueError, WrongRevisionError
from ..bus.waits import Waits
from ..wire.events import EventLog
from ..wire.inventory import (
    LOST_AFTER_SEC,
    WRITE_INTERVAL_SEC,
    changes_subject,
    hosts_bucket,
    lasting_fields,
)
from .host_entry import HostDescription

GATHER_SEC = 0.2  # changes of this time are written together
CLOSE_SEC = 1.0
RETRY_SEC, RETRY_SEC_MAX = 0.5, 120.0  # after failed writes, doubled each time


class _Written(msgspec.Struct):
    boot: str = ""


class Presence:
    def __init__(
        self,
        connection: Connection,
        description: HostDescription,
        events: EventLog,
        *,
        root: str,
        on_name: Callable[[bool], None],
    ) -> None:
        """on_name: called with True when another agent owns the name, with False when this one
        owns it again."""
        self.name_taken = False
        self._on_name = on_name
        self._connection = connection
        self.description = description
        self._events = events
        self._bucket = KeyValue(
            connection,
            hosts_bucket(root),
            domain=description.settings.nats.jetstream_domain,
            copied_to=changes_subject(root, ""),
        )
        self._revision: int | None = None  # last write; None before the first
        self._foreign_sec = 0.0  # when another boot wrote last, by the monotonic clock
        self._contested = False
        self._wake = asyncio.Event()
        self._written: dict[str, object] = {}
        self._reported = ""
        self._waits = Waits(RETRY_SEC, RETRY_SEC_MAX)
        self._retries_now = False  # a connection has come up since the last failed write
        self._log = structlog.get_logger()
        connection.listen(changes_subject(root, self.description.host), self._on_write)
        connection.notify(self._on_connection)

    def note_change(self) -> None:
        """Writes the entry soon if it has changed."""
        self._wake.set()

    async def run(self) -> None:
        """Writes until cancelled."""
        due_sec = 0.0
        await self.description.load_backends()
        while True:
            await self._connection.wait_connected()
            if self._must_write(due_sec):
                due_sec = time.monotonic() + await self._try_to_write()
            await self._sleep(due_sec)

    async def close(self) -> None:
        """Writes that the agent has stopped. Waits at most CLOSE_SEC."""
        if self._revision is None or self.name_taken or not self._connection.connected:
            return
        entry = msgspec.structs.replace(self.description.entry(), stopped=True, session=None)
        with contextlib.suppress(KeyValueError, TimeoutError):
            async with asyncio.timeout(CLOSE_SEC):
                await self._bucket.put(entry.host, msgspec.json.encode(entry), last=self._revision)

    def _must_write(self, due_sec: float) -> bool:
        now_sec = time.monotonic()
        if self.name_taken:
            return now_sec - self._foreign_sec >= LOST_AFTER_SEC
        if now_sec >= due_sec or self._contested or self._retries_now:
            return True
        return (
            self._revision is not None and lasting_fields(self.description.entry()) != self._written
        )

    async def _sleep(self, due_sec: float) -> None:
        if self.name_taken:
            due_sec = self._foreign_sec + LOST_AFTER_SEC
        try:
            async with asyncio.timeout(max(due_sec - time.monotonic(), 0.0)):
                await self._wake.wait()
        except TimeoutError:
            return
        if not self._contested:
            await asyncio.sleep(GATHER_SEC)
        self._wake.clear()

    async def _try_to_write(self) -> float:
        """Returns how long the entry may stay as it is, in seconds."""
        try:
            await self._write()
        except KeyValueError as error:
            if error.detail != self._reported:  # once, not at each retry
                self._reported = error.detail
                self._log.warning("cannot write the inventory; retrying", error=error.detail)
            wait_sec = self._waits.next()
            # A host that was in the inventory would be lost after a longer wait.
            return wait_sec if self._revision is None else min(wait_sec, WRITE_INTERVAL_SEC)
        self._reported = ""
        self._waits.reset()
        return WRITE_INTERVAL_SEC

    async def _write(self) -> None:
        self._contested = self._retries_now = False
        host, heard_sec = self.description.host, self._foreign_sec
        claims = self._revision is None or self.name_taken
        returns = self.name_taken
        last = await self._claim(host) if claims else self._revision
        entry = self.description.entry()
        value = msgspec.json.encode(entry)
        try:
            self._revision = await self._bucket.put(host, value, last=last)
        except WrongRevisionError:
            await self._settle(host, value)
            if self.name_taken:
                return
        self._written = lasting_fields(entry)
        # The first agent may have written while this write was on its way.
        if returns and self._foreign_sec == heard_sec:
            self.name_taken = False
            self._on_name(False)
            self._events.emit("lifecycle", "name_free", f"{host} is this agent's name again")

    async def _claim(self, key: str) -> int:
        """Returns the revision to write over: a predecessor's, or that of a silent agent."""
        try:
            found = await self._bucket.get(key)
        except KeyValueError:
            await self._bucket.ensure()
            found = await self._bucket.get(key)
        return found.revision if found is not None else 0

    async def _settle(self, key: str, value: bytes) -> None:
        """Writes over a newer entry, unless its agent started first."""
        found = await self._bucket.get(key)
        boot = _boot(found.value) if found is not None else ""
        if boot not in ("", self.description.boot):
            self._note_foreign(boot)
            if self.name_taken:
                return
        last = found.revision if found is not None else 0
        self._revision = await self._bucket.put(key, value, last=last)

    def _on_connection(self, up: bool) -> None:
        if up and self._reported:
            self._retries_now = True
            self._waits.reset()
            self._wake.set()

    async def _on_write(self, message: Msg) -> None:
        """Reads the key after a foreign write. The message alone proves nothing: JetStream sends
        its replies to whatever subject a request names."""
        if _boot(message.data) in ("", self.description.boot):
            return
        with contextlib.suppress(KeyValueError):
            found = await self._bucket.get(self.description.host)
            boot = _boot(found.value) if found is not None else ""
            if boot not in ("", self.description.boot):
                self._note_foreign(boot)

    def _note_foreign(self, boot: str) -> None:
        self._foreign_sec = time.monotonic()
        if not self.name_taken:
            self._events.emit(
                "alarm",
                "name_taken",
                f"another agent is named {self.description.host}; set [agent] host on one of them",
                data={"boot": self.description.boot, "other_boot": boot},
            )
        if boot < self.description.boot:
            self.name_taken = True
            self._on_name(True)
        elif self._revision is not None:
            self._contested = True
            self._wake.set()


def _boot(value: bytes) -> str:
    """Returns the boot of an entry; "" for a deletion or a malformed entry."""
    try:
        return msgspec.json.decode(value, type=_Written).boot
    except msgspec.DecodeError:
        return ""
