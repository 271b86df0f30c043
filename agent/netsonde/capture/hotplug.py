"""Keeps a session on the interfaces that its patterns match, as interfaces come and go.

An interface that cannot be captured is reported once and tried again later. The others are not
disturbed.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence

import structlog

from ..core.capture import Capture
from ..errors import NetsondeError, NoSession
from ..wire.events import EventLog
from .host_links import read_links
from .interfaces import INTERFACES_MAX, choose
from .links import link_changes

SETTLE_SEC = 0.1  # a new interface changes several times in a row
RETRY_SEC = 10.0


class Hotplug:
    """text: the request's interfaces."""

    def __init__(self, capture: Capture, text: str, events: EventLog, *, session_id: str) -> None:
        self._capture = capture
        self._text = text
        self._events = events
        self._session_id = session_id
        self._failed: dict[str, str] = {}  # the reason by interface
        self._log = structlog.get_logger()

    async def run(self) -> None:
        """Runs until cancelled, or until the session ends."""
        try:
            await self._follow()
        except OSError as error:
            self._log.warning("new interfaces are not captured: no rtnetlink", error=str(error))

    async def _follow(self) -> None:
        changed = asyncio.Event()
        with link_changes(changed.set):
            while True:
                changed.clear()
                try:
                    await self._apply()
                except NoSession:
                    return
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(RETRY_SEC if self._failed else None):
                        await changed.wait()
                await asyncio.sleep(SETTLE_SEC)

    async def _apply(self) -> None:
        """Captures from the interfaces that match now, and from no others."""
        matching = choose(self._text, read_links())
        names = [one.name for one in self._capture.interface_stats() if one.captured]
        kept = [name for name in names if name in matching]
        added = [name for name in matching if name not in kept]
        self._failed = {name: self._failed[name] for name in added if name in self._failed}
        if len(kept) < len(names):
            await self._capture.set_interfaces(kept)
            self._report("interface_removed", [name for name in names if name not in kept])
        for name in added:
            if len(kept) == INTERFACES_MAX:
                self._fail(name, f"a session has at most {INTERFACES_MAX} interfaces")
                continue
            try:
                await self._capture.set_interfaces([*kept, name])
            except NoSession:
                raise
            except NetsondeError as error:
                self._fail(name, error.detail)
                continue
            kept.append(name)
            self._failed.pop(name, None)
            self._report("interface_added", [name])

    def _fail(self, name: str, reason: str) -> None:
        if self._failed.get(name) != reason:
            self._failed[name] = reason
            self._events.emit(
                "alarm",
                "interface_failed",
                f"{name}: {reason}",
                session_id=self._session_id,
                data={"interface": name},
            )

    def _report(self, event: str, names: Sequence[str]) -> None:
        for name in names:
            self._events.emit(
                "capture", event, name, session_id=self._session_id, data={"interface": name}
            )
