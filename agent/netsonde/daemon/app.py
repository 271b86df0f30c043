"""The agent as a process: what it is built of, its signals, and its end.

`serve` is the whole life of `netsonde run`; `run` is the same on a running event loop. All
tasks live in one TaskGroup. NATS may come late: the agent is ready when its parts run, not
when the bus answers. SIGTERM and SIGINT drain: new requests get 503, the session is
stopped, its records are handed over, the connections are flushed. SIGHUP reads the
configuration again and applies all of it or nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import platform
import signal
import socket
import time
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any

import msgspec
import structlog
import uvloop

from .. import __version__
from ..bus.connection import Connection
from ..bus.embedded import EmbeddedServer
from ..bus.objects import Bucket, bucket_name
from ..bus.publisher import Publisher
from ..capture.plan import Preflight
from ..capture.sessions import Sessions
from ..config import file
from ..config.changes import LIVE_KEYS, changed_keys
from ..config.sections import BufferSection, Config
from ..core import library as core
from ..errors import EXIT_OK, ConfigError, NetsondeError
from ..firmware.verify import Firmware
from ..recorder.retrieval import Retrievals
from ..service.discovery import Discovery
from ..service.events import Events
from ..service.policy import Policy
from ..service.responder import Service
from ..sinks.core_nats import FlowStream
from ..sinks.jetstream import JetStreamSink, spool_directory
from ..wire.replies import MetricsMessage, MetricsReply
from . import logs, privileges
from .health import Health, Heartbeat
from .supervisor import Supervisor

DRAIN_SEC = 10.0  # for all of it; a supervisor's patience ends sooner or later
DRAIN_REQUESTS_SEC = 3.0
DRAIN_RECORDS_SEC = 4.0
FQDN_TIMEOUT_SEC = 2.0

Ready = Callable[[str], None]
Reload = Callable[[], Config]


def serve(
    path: Path | None = None,
    *,
    overrides: Mapping[str, object] | None = None,
    embedded_nats: bool = False,
    ready: Ready | None = None,
) -> int:
    """Runs the agent until it is told to end; the exit code. ready: called once with the URL
    of the first NATS server, when signals and tasks are in place."""

    def read() -> Config:
        return file.load(path, overrides=overrides)

    settings = read()
    privileges.require_capture(settings.capture)
    privileges.give_up_new()  # before there are threads: it is inherited, not shared
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
    core.check_abi()
    async with contextlib.AsyncExitStack() as stack:
        if embedded_nats:
            server = embedded_server(settings)
            await stack.enter_async_context(server)
            settings = with_server(settings, server.url)
            reload = _reload_with(reload, server.url)
        fqdn = await _fqdn()
        async with asyncio.TaskGroup() as tasks:
            agent = Agent(settings, tasks, fqdn=fqdn)
            await agent.live(ready, reload)
    return EXIT_OK


class Agent:
    """Built once a run; `live` returns when it has drained."""

    def __init__(self, settings: Config, tasks: asyncio.TaskGroup, *, fqdn: str) -> None:
        host, root = settings.host, settings.nats.root
        self._config = settings
        self._tasks = tasks
        self._log = structlog.get_logger()
        self._stopping = asyncio.Event()
        self._metrics_seq = 0
        self._supervisor = Supervisor()
        self._heartbeat = Heartbeat()
        self._control = Connection(settings.nats, host=host, purpose="control")
        self._data = Connection(settings.nats, host=host, purpose="data")
        self._records = self._connect_records(settings)
        self._publisher = Publisher(self._data, root=root, host=host)
        self._record_publisher = self._publisher.over(self._records)
        self._events = Events(self._publisher)
        self._preflight = Preflight(settings)
        self._firmware = Firmware(settings.firmware)
        self._retrievals = Retrievals(settings.buffer, host, self._bucket)
        self._spooled = self._make_spooled(settings)
        self._policy = Policy(settings.policy)
        self._sessions = Sessions(
            self._preflight,
            self._spooled or FlowStream(self._record_publisher),
            self._events,
            tasks,
            publish_metrics=self._publish_metrics,
        )
        discovery = Discovery(
            host=host,
            root=root,
            version=__version__,
            fqdn=fqdn,
            labels=settings.agent.labels,
            versions={
                "version.agent": __version__,
                "version.core_abi": str(core.lib.SONDE_ABI),
                "version.python": platform.python_version(),
                "version.kernel": platform.release(),
            },
        )
        self._service = Service(
            self._control,
            self._sessions,
            self._retrievals,
            self._firmware,
            self._events,
            discovery,
            self._policy,
            tasks,
            root=root,
            host=host,
            labels=settings.agent.labels,
        )
        self._health = Health(
            settings.http.listen,
            host=host,
            session=lambda: self._sessions.current,
            ready=lambda: self._control.connected and not self._service.draining,
        )

    def _connect_records(self, settings: Config) -> Connection:
        """By servers of their own, records do not hold requests up, however much is stored."""
        if not settings.flows.servers:
            return self._data
        nats = msgspec.structs.replace(settings.nats, servers=settings.flows.servers)
        return Connection(nats, host=settings.host, purpose="records")

    def _make_spooled(self, settings: Config) -> JetStreamSink | None:
        if not settings.flows.jetstream:
            return None
        return JetStreamSink(self._records, self._record_publisher, self._events, settings.flows)

    async def live(self, ready: Ready | None, reload: Reload | None) -> None:
        self._take_signals(reload)
        self._data.notify(self._on_connection)
        if self._spooled is not None:
            self._spooled.open()
        works: tuple[Coroutine[Any, Any, None], ...] = (
            self._control.run(),
            *(one.run() for one in {self._data, self._records}),
            self._events.run(),
            self._health.run(),
            self._supervisor.run(self._alive),
        )
        background = [self._tasks.create_task(work) for work in works]
        if self._spooled is not None:
            background.append(self._tasks.create_task(self._spooled.run()))
        self._events.emit("lifecycle", "started", f"netsonde {__version__}")
        if ready is not None:
            ready(self._config.nats.servers[0])
        self._supervisor.ready(f"netsonde {__version__}, host {self._config.host}")
        await self._stopping.wait()
        self._supervisor.stopping()
        try:
            async with asyncio.timeout(DRAIN_SEC):
                await self._drain()
        except TimeoutError:
            self._log.warning("draining took too long", limit_sec=DRAIN_SEC)
        for task in background:
            task.cancel()
        await asyncio.gather(*background, return_exceptions=True)
        if self._spooled is not None:
            self._spooled.close()

    # ---- signals ------------------------------------------------------------------------------

    def _take_signals(self, reload: Reload | None) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stopping.set)
        if reload is not None:
            loop.add_signal_handler(signal.SIGHUP, self._reload, reload)

    def _reload(self, reload: Reload) -> None:
        """All that changed can change live, or nothing is applied."""
        try:
            new = reload()
            changed = changed_keys(self._config, new)
            fixed = [key for key in changed if key not in LIVE_KEYS]
            if fixed:
                raise ConfigError(f"{', '.join(fixed)} can change only with a restart")
        except ConfigError as error:
            self._log.error("configuration refused, the old one stays", error=error.detail)
            self._events.emit("lifecycle", "reload_refused", error.detail)
            return
        self._config = self._preflight.config = new
        self._firmware.settings = new.firmware
        self._retrievals.settings = new.buffer
        self._policy.settings = new.policy
        if "metrics.interval_sec" in changed:
            self._sessions.retime()
        logs.configure(new.log)
        self._events.emit("lifecycle", "reloaded", data={"changed": changed})

    # ---- the end --------------------------------------------------------------------------------

    async def _drain(self) -> None:
        self._events.emit("lifecycle", "stopping")
        await self._service.drain(DRAIN_REQUESTS_SEC)
        taken = self._records.connected or self._spooled is not None
        with contextlib.suppress(NetsondeError):
            await self._sessions.close(DRAIN_RECORDS_SEC if taken else 0.0)
        if self._data.connected:
            await self._events.flushed(1.0)
            await self._data.drain(1.0)
        if self._control.connected:
            await self._control.drain(1.0)

    # ---- small links between the parts -----------------------------------------------------------

    def _alive(self) -> bool:
        return self._heartbeat.alive(self._sessions.current, time.monotonic())

    def _bucket(self, settings: BufferSection) -> Bucket:
        return Bucket(
            self._data,
            bucket_name(self._publisher.root, self._publisher.host),
            bytes_max=settings.bucket_mb << 20,
            age_max_sec=settings.bucket_hours * 3600,
        )

    def _on_connection(self, up: bool) -> None:
        if up and self._data.connects > 1:
            self._events.emit("lifecycle", "nats_reconnected", self._data.server)

    async def _publish_metrics(self, reply: MetricsReply) -> None:
        self._metrics_seq += 1
        fields = msgspec.structs.asdict(reply) | {"host": self._publisher.host}
        message = MetricsMessage(**fields, boot=self._publisher.boot, seq=self._metrics_seq)
        await self._publisher.metrics(msgspec.json.encode(message))


def embedded_server(settings: Config) -> EmbeddedServer:
    """With JetStream, for packets that are asked for. Records that go there must not be gone
    with the agent: the spool forgets what the stream has acknowledged."""
    flows = settings.flows
    streams_dir = spool_directory(flows) / "nats" if flows.jetstream else None
    return EmbeddedServer(
        port=_port(settings.nats.servers[0]), jetstream=True, streams_dir=streams_dir
    )


def with_server(settings: Config, url: str) -> Config:
    nats = msgspec.structs.replace(settings.nats, servers=[url])
    return msgspec.structs.replace(settings, nats=nats)


def _reload_with(reload: Reload | None, url: str) -> Reload | None:
    """The embedded server is not in the file: what is read again must get it too."""
    if reload is None:
        return None
    return lambda: with_server(reload(), url)


def _port(server: str) -> int:
    """Of a server's URL; 0 there means a free one, which nats-server calls -1."""
    _, _, port = server.rstrip("/").rpartition(":")
    return (int(port) or -1) if port.isdigit() else 4222


async def _fqdn() -> str:
    """For people to read; a resolver that does not answer must not hold up the start."""
    try:
        async with asyncio.timeout(FQDN_TIMEOUT_SEC):
            return await asyncio.to_thread(socket.getfqdn)
    except TimeoutError:
        return socket.gethostname()
