"""The metrics of the bus: connections, spool, requests, events."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from prometheus_client.metrics_core import HistogramMetricFamily, Metric

from ...bus.connection import Connection
from ...service.discovery import DURATION_BUCKETS_SEC, EndpointStats
from ...service.events import Events
from ...service.responder import Responder
from ...wire.instant import NS_PER_SEC
from ...wire.records import SpoolState
from .families import Sample, counter, gauge, single

SPOOL_GAUGE_TEXTS = {
    "bytes_used": "Bytes in the spool",
    "bytes_max": "Limit for the bytes in the spool",
    "records_waiting": "Flow records in the spool that JetStream has not acknowledged",
    "messages_in_flight": "Messages sent to JetStream and not yet acknowledged",
}
SPOOL_COUNTER_TEXTS = {
    "records_lost": "Flow records that the spool dropped",
    "packets_lost": "Packets in flow records that the spool dropped",
    "messages_acknowledged": "Messages that JetStream acknowledged",
    "messages_resent": "Messages sent to JetStream again",
}


class ConnectionMetrics:
    def __init__(self, connections: Callable[[], Sequence[Connection]]) -> None:
        self._connections = connections

    def collect(self) -> Iterable[Metric]:
        found = list(self._connections())

        def samples(value: Callable[[Connection], float]) -> list[Sample]:
            return [((one.purpose,), value(one)) for one in found]

        for name, text, value in _CONNECTION_GAUGES:
            yield gauge(name, text, samples(value), "connection")
        for name, text, value in _CONNECTION_COUNTERS:
            yield counter(name, text, samples(value), "connection")


_CONNECTION_GAUGES: tuple[tuple[str, str, Callable[[Connection], float]], ...] = (
    ("nats_connected", "0 while there is no connection to NATS", lambda one: int(one.connected)),
    (
        "nats_unauthenticated",
        "1 while connected to a NATS server that requires no login",
        lambda one: int(one.authenticated is False),
    ),
    (
        "nats_pending_bytes",
        "Bytes published and not yet with the kernel",
        lambda one: one.unsent_bytes,
    ),
)
_CONNECTION_COUNTERS: tuple[tuple[str, str, Callable[[Connection], float]], ...] = (
    ("nats_denials", "Messages and subscriptions that NATS denied", lambda one: one.denials),
    (
        "nats_reconnects",
        "Connections to NATS after the first one",
        lambda one: max(one.connects - 1, 0),
    ),
    (
        "nats_messages_received",
        "Messages received from NATS",
        lambda one: one.traffic.messages_received,
    ),
    (
        "nats_bytes_received",
        "Payload bytes received from NATS",
        lambda one: one.traffic.bytes_received,
    ),
    ("nats_messages_sent", "Messages sent to NATS", lambda one: one.traffic.messages_sent),
    ("nats_bytes_sent", "Payload bytes sent to NATS", lambda one: one.traffic.bytes_sent),
)


class SpoolMetrics:
    """state: returns None without a spool."""

    def __init__(self, state: Callable[[], SpoolState | None]) -> None:
        self._state = state

    def collect(self) -> Iterable[Metric]:
        state = self._state()
        if state is None:
            return
        for name, text in SPOOL_GAUGE_TEXTS.items():
            yield gauge(f"spool_{name}", text, single(getattr(state, name)))
        for name, text in SPOOL_COUNTER_TEXTS.items():
            yield counter(f"spool_{name}", text, single(getattr(state, name)))


class RequestMetrics:
    """Requests by verb. A verb that nobody used has no series."""

    def __init__(self, responder: Responder) -> None:
        self._responder = responder

    def collect(self) -> Iterable[Metric]:
        used = {name: one for name, one in self._responder.statistics().items() if one.requests}
        handled = [
            ((name, str(code)), count)
            for name, one in used.items()
            for code, count in sorted(one.codes.items())
        ]
        yield counter("requests", "Requests, by verb and reply code", handled, "verb", "code")
        durations = HistogramMetricFamily(
            "netsonde_request_duration_seconds",
            "Time from the arrival of a request to its reply",
            labels=["verb"],
        )
        for name, one in used.items():
            durations.add_metric([name], _buckets(one), one.processing_ns / NS_PER_SEC)
        yield durations
        running = single(self._responder.in_flight)
        yield gauge("requests_in_flight", "Requests without a reply so far", running)
        text = "Replies dropped because of too many requests, or because NATS took no more"
        yield counter("replies_dropped", text, single(self._responder.outbox.dropped))


def _buckets(stats: EndpointStats) -> list[tuple[str, float]]:
    """Returns cumulative counts by upper limit."""
    limits = [*map(str, DURATION_BUCKETS_SEC), "+Inf"]
    counts = [sum(stats.durations[: n + 1]) for n in range(len(limits))]
    return list(zip(limits, counts, strict=True))


class EventMetrics:
    def __init__(self, events: Events) -> None:
        self._events = events

    def collect(self) -> Iterable[Metric]:
        counts = sorted(self._events.counts.items())
        text = "Events, by stream and name"
        yield counter("events", text, counts, "kind", "event")
        alarms = [((name,), at) for name, at in sorted(self._events.alarm_times.items())]
        text = "Time of the last alarm of this name, in seconds since the epoch"
        yield gauge("alarm_timestamp_seconds", text, alarms, "event")
        dropped = single(self._events.dropped)
        yield counter("events_dropped", "Events that were not published", dropped)
