"""The agent as a process: its tasks, its signals and its end.

`serve` is the whole life of `netsonde run`; `run` is the same on a running event loop. All
tasks live in one TaskGroup. The agent is ready when its parts and the wanted capture run, or
after a time without the capture; with or without NATS.
SIGTERM and SIGINT drain (drain.py). SIGHUP reads the configuration again and applies all
changes or none.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import time
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any

import structlog
import uvloop

from .. import __version__
from ..config import file
from ..config.changes import LIVE_KEYS, changed_keys
from ..config.sections import Config
from ..core.library import check_abi
from ..errors import EXIT_OK, ConfigError
from . import logs, privileges
from .drain import cancel_tasks, drain, exit_now, threads_ended, use_own_threads
from .embedded import Reload, embedded_server, reload_with
from .health import Heartbeat
from .parts import Parts, build
from .supervisor import Supervisor

FQDN_TIMEOUT_SEC = 2.0
READY_SEC = 10.0  # for the wanted capture to start

Ready = Callable[[str], None]


def serve(
    path: Path | None = None,
    *,
    overrides: Mapping[str, object] | None = None,
    embedded_nats: bool = False,
    ready: Ready | None = None,
) -> int:
    """Runs the agent until a signal ends it; returns the exit code. ready: called once with the
    URL of the first NATS server, when signals and tasks are in place."""

    def read() -> Config:
        return file.load(path, overrides=overrides)

    settings = read()
    privileges.require_capture(settings.capture)
    privileges.forbid_new()  # before threads start, which inherit it
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(run(settings, embedded_nats=embedded_nats, ready=ready, reload=read))


async def run(
    settings: Config,
    *,
    embedded_nats: bool = False,
    ready: Ready | None = None,
    reload: Reload | None = None,
) -> int:
    logs.configure(settings.log)
    check_abi()
    threads = use_own_threads()
    async with contextlib.AsyncExitStack() as stack:
        if embedded_nats:
            adapt = await stack.enter_async_context(embedded_server(settings))
            settings = adapt(settings)
            reload = reload_with(reload, adapt)
        name = readable_name(socket.gethostname(), settings.host)
        async with asyncio.TaskGroup() as tasks:
            agent = Agent(settings, build(settings, tasks, fqdn=name), tasks)
            await agent.live(ready, reload)
            if not (await cancel_tasks() and await threads_ended(threads)):
                exit_now()
    return EXIT_OK


class Agent:
    """One run of the agent's parts; `live` returns when it has drained."""

    def __init__(self, settings: Config, parts: Parts, tasks: asyncio.TaskGroup) -> None:
        self._config = settings
        self._parts = parts
        self._tasks = tasks
        self._log = structlog.get_logger()
        self._stopping = asyncio.Event()
        self._supervisor = Supervisor()
        self._heartbeat = Heartbeat()

    async def live(self, ready: Ready | None, reload: Reload | None) -> None:
        parts = self._parts
        self._handle_signals(reload)
        parts.bus.data.notify(self._on_connection)
        if parts.spooled is not None:
            parts.spooled.open()
        await parts.desired.load()
        for work in self._works():
            self._tasks.create_task(work)
        parts.events.emit("lifecycle", "started", f"netsonde {__version__}")
        if ready is not None:
            ready(self._config.nats.servers[0])
        announcing = self._tasks.create_task(self._announce())
        await self._stopping.wait()
        announcing.cancel()
        self._supervisor.stopping()
        await drain(parts)
        await cancel_tasks()
        if parts.spooled is not None:
            parts.spooled.close()

    def _works(self) -> list[Coroutine[Any, Any, None]]:
        parts = self._parts
        works = [connection.run() for connection in parts.bus.connections]
        works += [parts.events.run(), parts.health.run(), self._supervisor.run(self._alive)]
        works += [parts.presence.run(), parts.desired.run()]
        works += [parts.features.standing.run(), self._learn_name()]
        if parts.spooled is not None:
            works.append(parts.spooled.run())
        return works

    async def _announce(self) -> None:
        """Reports readiness when the wanted capture runs. If it does not within READY_SEC, the
        agent is ready without it and says why."""
        standing = self._parts.features.standing
        status = f"netsonde {__version__}, host {self._config.host}"
        try:
            async with asyncio.timeout(READY_SEC):
                await standing.wait_satisfied()
        except TimeoutError:
            self._supervisor.ready(f"{status}; the capture does not run: {standing.reason}")
            await standing.wait_satisfied()
            self._supervisor.status(status)
        else:
            self._supervisor.ready(status)

    async def _learn_name(self) -> None:
        """Asks the resolver, which may take seconds. The capture does not wait for that."""
        self._parts.responder.rename(
            readable_name(await _fqdn(), socket.gethostname(), self._config.host)
        )

    def _handle_signals(self, reload: Reload | None) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stopping.set)
        if reload is not None:
            loop.add_signal_handler(signal.SIGHUP, self._reload, reload)

    def _reload(self, reload: Reload) -> None:
        """Applies every changed key, or none if one of them needs a restart."""
        try:
            new = reload()
            changed = changed_keys(self._config, new)
            fixed = [key for key in changed if key not in LIVE_KEYS]
            if fixed:
                raise ConfigError(f"{', '.join(fixed)} can change only with a restart")
        except ConfigError as error:
            self._log.error("configuration rejected, keeping the old one", error=error.detail)
            self._parts.events.emit("lifecycle", "reload_refused", error.detail)
            return
        self._config = new
        self._parts.apply(new)
        if "agent.labels" in changed:
            self._tasks.create_task(self._parts.responder.relabel(new.agent.labels))
        if "metrics.interval_sec" in changed:
            self._parts.features.sessions.retime()
        logs.configure(new.log)
        self._parts.events.emit("lifecycle", "reloaded", data={"changed": changed})

    def _alive(self) -> bool:
        return self._heartbeat.alive(self._parts.features.sessions.current, time.monotonic())

    def _on_connection(self, up: bool) -> None:
        data = self._parts.bus.data
        if up and data.connects > 1:
            self._parts.events.emit("lifecycle", "nats_reconnected", data.server)


async def _fqdn() -> str:
    """Returns the full host name for people to read, without waiting long for a resolver."""
    try:
        async with asyncio.timeout(FQDN_TIMEOUT_SEC):
            name = await asyncio.to_thread(socket.getfqdn)
    except TimeoutError:
        return socket.gethostname()
    return name


def readable_name(*names: str) -> str:
    """Returns the first name that is not localhost. Many hosts map their own name to localhost in
    /etc/hosts, and some containers have no other name."""
    return next((name for name in names if "localhost" not in name.lower()), names[-1])
