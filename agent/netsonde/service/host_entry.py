"""The content of this host's inventory entry, gathered from the agent's parts."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

import msgspec

from ..capture.session import Session
from ..config.sections import Config
from ..core.backends import usable_names
from ..recorder.status import retention_sec
from ..wire.instant import rfc3339
from ..wire.inventory import Chosen, HostEntry, SessionSummary
from .facts import interfaces, read_facts


@dataclass(frozen=True, slots=True)
class WantedState:
    """How far the host is with what is wanted of it."""

    wanted_rev: int | None = None
    applied_rev: int | None = None
    drift: str = ""
    error: str = ""


class HostDescription:
    """settings: replaced when the configuration is read again. session: returns the running one.
    server: returns the NATS server in use. wanted: set when the parts that know it exist."""

    def __init__(
        self,
        settings: Config,
        *,
        boot: str,
        version: str,
        session: Callable[[], Session | None],
        server: Callable[[], str],
    ) -> None:
        self.settings = settings
        self.boot = boot
        self._version = version
        self._session = session
        self._server = server
        self._facts = read_facts()
        self._probing: asyncio.Future[list[str]] | None = None
        self.wanted: Callable[[], WantedState] = WantedState

    @property
    def host(self) -> str:
        return self.settings.host

    async def load_backends(self) -> None:
        """Adds the usable backends to the facts. Probes them once, for about half a second."""
        if self._probing is None:
            self._probing = asyncio.ensure_future(usable_names())
        names = await asyncio.shield(self._probing)
        self._facts = msgspec.structs.replace(self._facts, backends=names)

    def entry(self) -> HostEntry:
        """Returns the entry as of now."""
        session = self._session()
        return HostEntry(
            host=self.host,
            boot=self.boot,
            version=self._version,
            time=rfc3339(time.time_ns()),
            labels=dict(self.settings.agent.labels),
            facts=msgspec.structs.replace(self._facts, interfaces=interfaces()),
            server=self._server(),
            session=None if session is None else _summary(session),
            **asdict(self.wanted()),
        )

    def candidate(self) -> Chosen:
        """Returns this host as selectors see it."""
        return Chosen.of(self.entry())


def _summary(session: Session) -> SessionSummary:
    stats = session.capture.stats()
    return SessionSummary(
        session_id=session.id,
        interface=session.request.interface,
        backend=session.request.backend,
        packets_captured=stats.packets_captured,
        packets_dropped=stats.packets_dropped,
        packets_per_sec=session.metrics().packets_per_sec,
        uptime_sec=round(session.uptime_sec, 3),
        retention_sec=round(retention_sec(stats, live=session.request.backend != "file"), 3),
        link_up=stats.link_up,
        finished=stats.finished,
    )
