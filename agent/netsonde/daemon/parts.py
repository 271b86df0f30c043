"""The parts of a running agent, built once from the configuration."""

from __future__ import annotations

import asyncio
import platform
from dataclasses import dataclass

import msgspec
import structlog
from prometheus_client.registry import CollectorRegistry

from .. import __version__
from ..bus.connection import Connection
from ..bus.nats_client import PermissionDeniedError
from ..bus.objects import Bucket, SiteBucket, bucket_name, site_bucket_name
from ..bus.publisher import Publisher
from ..capture.persisted import PersistedStart
from ..capture.sessions import Sessions
from ..capture.standing import Standing
from ..config.sections import BufferSection, Config, NatsSection
from ..config.state import state_directory
from ..core import library, own_traffic
from ..firmware.verify import Firmware
from ..recorder.retrieval import Retrievals
from ..service.desired import CACHE_NAME, Desired
from ..service.discovery import Discovery
from ..service.events import Events
from ..service.handlers import Features
from ..service.host_entry import HostDescription
from ..service.identity import Identity
from ..service.policy import Policy
from ..service.presence import Presence
from ..service.responder import Responder
from ..service.taps import Taps
from ..sinks.core_nats import FlowStream
from ..sinks.jetstream import JetStreamSink
from ..wire.replies import BusState, MetricsMessage, MetricsReply
from .health import Health
from .metrics.bus import ConnectionMetrics, EventMetrics, RequestMetrics, SpoolMetrics
from .metrics.exporting import ExportMetrics
from .metrics.host import HostMetrics, PolicyMetrics, WantedMetrics
from .metrics.registry import Part, registry_of
from .metrics.session import SessionMetrics
from .metrics.taps import TapMetrics


class Bus:
    """The connections to NATS and the publishers on them.

    Requests and streams have separate connections. With `[flows] servers` flow records have a
    third one, so that requests do not queue behind stored records.
    """

    def __init__(self, settings: Config) -> None:
        self._host = settings.host
        self._jetstream_domain = settings.nats.jetstream_domain
        self.control = self._connection(settings.nats, "control")
        self.data = self._connection(settings.nats, "data")
        self.records = self.data
        if settings.flows.servers:
            nats = msgspec.structs.replace(settings.nats, servers=settings.flows.servers)
            self.records = self._connection(nats, "records")
        self.publisher = Publisher(self.data, root=settings.nats.root, host=settings.host)
        self.record_publisher = self.publisher.with_connection(self.records)
        self._nats = settings.nats
        self._metrics_seq = 0
        self._log = structlog.get_logger()
        self._warned: set[str] = set()  # servers without authentication
        for connection in self.connections:
            connection.notify(self._on_connection)

    def _connection(self, settings: NatsSection, purpose: str) -> Connection:
        """Captures leave its packets out."""
        return Connection(
            settings, host=self._host, purpose=purpose, open_socket=own_traffic.connect
        )

    def tap_connection(self) -> Connection:
        """Makes a connection for taps only: a slow reader may stall it."""
        return self._connection(self._nats, "tap")

    @property
    def connections(self) -> list[Connection]:
        return list(dict.fromkeys((self.control, self.data, self.records)))

    @property
    def authenticated(self) -> bool:
        """False while connected to a server that requires no login."""
        return all(one.authenticated is not False for one in self.connections)

    def state(self) -> BusState:
        connections = self.connections
        return BusState(
            connected=all(one.connected for one in connections),
            denied=sorted({subject for one in connections for subject in one.denied}),
            denials=sum(one.denials for one in connections),
        )

    def _on_connection(self, up: bool) -> None:
        if up:  # the others need not wait for the end of their back-off
            for connection in self.connections:
                connection.hasten()
                self._warn_unauthenticated(connection)

    def _warn_unauthenticated(self, connection: Connection) -> None:
        """Logs each server without authentication once."""
        server = connection.server
        if connection.authenticated is False and server not in self._warned:
            self._warned.add(server)
            self._log.warning(
                "connected without authentication: any program that reaches this NATS server can"
                " control the agent",
                server=server,
            )

    async def publish_metrics(self, reply: MetricsReply) -> None:
        self._metrics_seq += 1
        fields = msgspec.structs.asdict(reply) | {"host": self.publisher.host}
        message = MetricsMessage(**fields, boot=self.publisher.boot, seq=self._metrics_seq)
        await self.publisher.metrics(msgspec.json.encode(message))

    def packets_bucket(self, settings: BufferSection) -> Bucket:
        root, host, bytes_max = self.publisher.root, self.publisher.host, settings.bucket_mb << 20
        return Bucket(
            self.data,
            bucket_name(root, host),
            bytes_max=bytes_max,
            age_max_sec=settings.bucket_hours * 3600,
            domain=self._jetstream_domain,
            site=SiteBucket(
                self.data,
                site_bucket_name(root),
                host,
                bytes_max=bytes_max,
                domain=self._jetstream_domain,
            ),
        )


@dataclass(frozen=True, slots=True)
class Parts:
    """spooled: None without `[flows] jetstream`."""

    bus: Bus
    events: Events
    features: Features
    policy: Policy
    spooled: JetStreamSink | None
    responder: Responder
    presence: Presence
    desired: Desired
    health: Health

    def apply(self, settings: Config) -> None:
        """Hands the parts a configuration whose changed keys can all change live."""
        self.features.sessions.config = settings
        self.features.standing.want("config", settings.session)
        self.features.firmware.settings = settings.firmware
        self.features.retrievals.settings = settings.buffer
        self.policy.settings = settings.policy
        self.features.taps.reload(settings.tap)
        self.presence.description.settings = settings
        self.desired.note_change()


def build(settings: Config, tasks: asyncio.TaskGroup, *, fqdn: str) -> Parts:
    bus = Bus(settings)
    events = Events(bus.publisher)

    def report_denial(error: PermissionDeniedError) -> None:
        data = {"subject": error.subject, "denials": bus.state().denials}
        events.emit("alarm", "permission_denied", str(error), data=data)

    for connection in bus.connections:
        connection.on_denial(report_denial)
    spooled = None
    if settings.flows.jetstream:
        spooled = JetStreamSink(
            bus.records,
            bus.record_publisher,
            events,
            settings.flows,
            domain=settings.nats.jetstream_domain,
        )
    sink = spooled or FlowStream(bus.record_publisher, shards=settings.flows.shards)
    sessions = Sessions(settings, sink, events, tasks, publish_metrics=bus.publish_metrics)
    store = PersistedStart(state_directory())
    standing = Standing(sessions, events, store, settings.session)
    features = Features(
        sessions,
        standing,
        Retrievals(settings.buffer, settings.host, bus.packets_bucket),
        Firmware(settings.firmware),
        Taps(settings.tap, sessions, events, tasks, bus.tap_connection),
        bus,
    )
    policy = Policy(settings.policy)
    discovery = Discovery(identity(settings, fqdn))
    responder = Responder(bus.control, features, events, discovery, policy, tasks)
    description = HostDescription(
        settings,
        boot=bus.publisher.boot,
        version=__version__,
        session=lambda: sessions.current,
        server=lambda: bus.control.server,
    )
    presence = Presence(
        bus.control,
        description,
        events,
        root=settings.nats.root,
        on_name=responder.set_name_taken,
    )
    desired = Desired(
        bus.control,
        description,
        standing,
        events,
        path=state_directory() / CACHE_NAME,
        allowed=policy.allows_policies,
    )
    health = Health(
        settings.http.listen,
        registry=_metrics(bus, events, features, responder, presence, desired),
        session=lambda: sessions.current,
        ready=lambda: bus.control.connected and not responder.draining and standing.satisfied,
        standing=standing,
        connections=lambda: bus.connections,
    )
    description.wanted = desired.state
    events.listener = standing.listener = presence.note_change
    return Parts(bus, events, features, policy, spooled, responder, presence, desired, health)


def _metrics(
    bus: Bus,
    events: Events,
    features: Features,
    responder: Responder,
    presence: Presence,
    desired: Desired,
) -> CollectorRegistry:
    """Returns what /metrics serves."""
    sessions = features.sessions
    parts: list[Part] = [
        HostMetrics(presence.description.host, lambda: sessions.config.agent.labels),
        WantedMetrics(features.standing),
        PolicyMetrics(desired.state, lambda: presence.name_taken),
        ConnectionMetrics(lambda: bus.connections),
        RequestMetrics(responder),
        EventMetrics(events),
        SpoolMetrics(sessions.spool),
        SessionMetrics(lambda: sessions.current, sessions.totals),
        ExportMetrics(lambda: sessions.current, sessions.totals),
        TapMetrics(features.taps),
    ]
    return registry_of(parts)


def identity(settings: Config, fqdn: str) -> Identity:
    return Identity(
        host=settings.host,
        root=settings.nats.root,
        version=__version__,
        fqdn=fqdn,
        labels=settings.agent.labels,
        versions={
            "version.agent": __version__,
            "version.core_abi": str(library.lib.SONDE_ABI),
            "version.python": platform.python_version(),
            "version.kernel": platform.release(),
        },
    )
