"""Prometheus /metrics, /healthz and /readyz, for a scraper on loopback.

A small HTTP/1.1 server: one GET a connection, bounded in bytes and time. /healthz is 200 while
the capture threads' heartbeat moves or no session runs. /readyz is 200 while NATS is connected,
the agent is not draining, and a capture runs if one is wanted. Both bodies say why NATS is not
connected and which subjects it denies, and /readyz why the capture does not run. If the port is
taken the agent runs without HTTP.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterable, Sequence

import structlog
from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector, CollectorRegistry

from .. import __version__
from ..bus.connection import Connection, until_tick
from ..capture.collectors import LOSS_CAUSES
from ..capture.session import Session
from ..capture.standing import Standing
from ..capture.totals import Key, SessionTotals, collector_series, interface_series
from ..config.addresses import endpoint
from ..core.own_traffic import OwnListener

REQUEST_BYTES_MAX = 8192
REQUEST_TIMEOUT_SEC = 5.0
CONNECTIONS_MAX = 16
HEARTBEAT_STALLED_SEC = 5.0
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_GAUGES = frozenset({"packets_active", "records_waiting"})
_EXPORT_COUNTERS = (
    "messages_sent",
    "bytes_sent",
    "collector_records_sent",
    "packets_lost",
    "refusals",
)


class Heartbeat:
    """Watches whether the core's heartbeat counter moves. Time is an argument."""

    def __init__(self) -> None:
        self._session_id = ""
        self._beats = -1
        self._moved_sec = 0.0

    def alive(self, session: Session | None, now_sec: float) -> bool:
        if session is None:
            self._session_id = ""
            return True
        stats = session.capture.stats()
        if session.id != self._session_id or stats.heartbeat != self._beats:
            self._session_id, self._beats, self._moved_sec = session.id, stats.heartbeat, now_sec
        return stats.finished or now_sec - self._moved_sec < HEARTBEAT_STALLED_SEC


class _Exposed(Collector):
    """The metric families of one scrape."""

    def __init__(
        self,
        host: str,
        session: Callable[[], Session | None],
        totals: SessionTotals,
        standing: Standing | None,
    ) -> None:
        self._standing = standing
        self._host = host
        self._session = session
        self._totals = totals

    def collect(self) -> Iterable[Metric]:
        session = self._session()
        build = GaugeMetricFamily(
            "netsonde_build_info", "Version of the running agent", labels=["host", "version"]
        )
        build.add_metric([self._host, __version__], 1)
        yield build
        running = GaugeMetricFamily("netsonde_session_running", "1 while a session is active")
        running.add_metric([], int(session is not None))
        yield running
        if self._standing is not None:
            yield from _capture(self._standing)
        yield from self._counters(session)
        if session is not None:
            yield from _spool(session)
            yield from _gauges(session)
        yield from self._interfaces(session)
        yield from self._exports(session)

    def _counters(self, session: Session | None) -> Iterable[Metric]:
        running: dict[Key, dict[str, int]] = {}
        if session is not None:
            labels = (session.request.interface, session.request.backend)
            running[labels] = session.counters(session.capture.stats())
        series = self._totals.sessions.shown(running)
        for name in sorted({name for values in series.values() for name in values}):
            if name not in _GAUGES:
                family = CounterMetricFamily(
                    f"netsonde_{name}",
                    f"{name.replace('_', ' ')} of all sessions",
                    labels=["interface", "backend"],
                )
                for key, values in series.items():
                    family.add_metric(key, values[name])
                yield family

    def _interfaces(self, session: Session | None) -> Iterable[Metric]:
        stats = session.capture.interface_stats() if session is not None else ()
        backend = session.request.backend if session is not None else ""
        labels = ["interface", "backend"]
        series = self._totals.interfaces.shown(interface_series(stats, backend))
        for name in sorted({name for values in series.values() for name in values}):
            family = CounterMetricFamily(
                f"netsonde_interface_{name}",
                f"{name.replace('_', ' ')} on one interface",
                labels=labels,
            )
            for key, values in series.items():
                family.add_metric(key, values[name])
            yield family
        link_up = GaugeMetricFamily(
            "netsonde_interface_link_up", "1 while the captured interface is up", labels=labels
        )
        for one in stats:
            if one.captured:
                link_up.add_metric([one.name, backend], int(one.link_up))
        if stats:
            yield link_up

    def _exports(self, session: Session | None) -> Iterable[Metric]:
        """The label `collector` is address and port, so that series add up over a fleet."""
        collectors = session.exporting.stats() if session is not None else []
        labels = ["collector", "version"]
        connected = GaugeMetricFamily(
            "netsonde_export_connected", "0 while the collector is unreachable", labels=labels
        )
        for one in collectors:
            who = [endpoint(one.address, one.port), str(one.version)]
            connected.add_metric(who, int(one.connected))
        if collectors:
            yield connected
        series = self._totals.collectors.shown(collector_series(collectors))
        for name in _EXPORT_COUNTERS if series else ():
            family = CounterMetricFamily(
                f"netsonde_export_{name}",
                f"{name.replace('_', ' ')} to the collector",
                labels=labels,
            )
            for (address, port, version), values in series.items():
                who = [endpoint(address, int(port)), version]
                family.add_metric(who, values[name.removeprefix("collector_")])
            yield family
        lost = CounterMetricFamily(
            "netsonde_export_collector_records_lost",
            "records not sent to the collector, by cause",
            labels=[*labels, "cause"],
        )
        for (address, port, version), values in series.items():
            for cause in LOSS_CAUSES:
                who = [endpoint(address, int(port)), version, cause]
                lost.add_metric(who, values[f"records_lost_{cause}"])
        if series:
            yield lost


def _capture(standing: Standing) -> Iterable[Metric]:
    for name, value, what in (
        ("wanted", standing.wanted is not None, "1 while a policy, [session] or persist wants one"),
        ("running", standing.running, "1 while a capture runs"),
    ):
        gauge = GaugeMetricFamily(f"netsonde_capture_{name}", what)
        gauge.add_metric([], int(value))
        yield gauge


def _gauges(session: Session) -> Iterable[Metric]:
    stats = session.capture.stats()
    counters = session.counters(stats)
    values = {name: value for name, value in counters.items() if name in _GAUGES}
    for name, value in (values | {"flows_active": stats.flows_active}).items():
        gauge = GaugeMetricFamily(
            f"netsonde_{name}",
            f"{name.replace('_', ' ')} of the session",
            labels=["interface", "backend"],
        )
        gauge.add_metric([session.request.interface, session.request.backend], value)
        yield gauge


def _spool(session: Session) -> Iterable[Metric]:
    state = session.pump.spool
    if state is None:
        return
    for name in ("bytes_used", "bytes_max", "records_waiting", "messages_in_flight"):
        gauge = GaugeMetricFamily(
            f"netsonde_spool_{name}", f"{name.replace('_', ' ')} of the spool"
        )
        gauge.add_metric([], getattr(state, name))
        yield gauge
    for name in ("records_lost", "packets_lost", "messages_acknowledged", "messages_resent"):
        counter = CounterMetricFamily(f"netsonde_spool_{name}", f"{name.replace('_', ' ')}, spool")
        counter.add_metric([], getattr(state, name))
        yield counter


class _BusExposed(Collector):
    """The connections to NATS."""

    def __init__(self, connections: Callable[[], Sequence[Connection]]) -> None:
        self._connections = connections

    def collect(self) -> Iterable[Metric]:
        connected = GaugeMetricFamily(
            "netsonde_nats_connected", "0 while there is no connection", labels=["connection"]
        )
        denials = CounterMetricFamily(
            "netsonde_nats_denials", "messages and subscriptions denied", labels=["connection"]
        )
        for one in self._connections():
            connected.add_metric([one.purpose], int(one.connected))
            denials.add_metric([one.purpose], one.denials)
        yield from (connected, denials)


class Health:
    def __init__(
        self,
        listen: str,
        *,
        host: str,
        session: Callable[[], Session | None],
        ready: Callable[[], bool],
        totals: SessionTotals | None = None,
        connections: Callable[[], Sequence[Connection]] = tuple,
        standing: Standing | None = None,
    ) -> None:
        self._listen = listen
        self._bus = connections
        self._standing = standing
        self._session = session
        self._ready = ready
        self._heartbeat = Heartbeat()
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(_BusExposed(connections))
        self._registry.register(_Exposed(host, session, totals or SessionTotals(), standing))
        self._connections = 0
        self._log = structlog.get_logger()
        self.address = ""

    async def run(self) -> None:
        """Serves until cancelled. Returns at once if HTTP is off or the port is taken."""
        if not self._listen:
            return
        name, _, port = self._listen.rpartition(":")
        try:
            server = await asyncio.start_server(
                self._serve,
                name.strip("[]"),
                int(port),
                limit=REQUEST_BYTES_MAX,
                start_serving=False,
            )
        except (OSError, OverflowError, ValueError) as error:  # unknown or malformed address
            self._log.warning("cannot listen, HTTP is off", listen=self._listen, error=str(error))
            return
        host, port_number = server.sockets[0].getsockname()[:2]
        self.address = f"{host}:{port_number}"
        self._log.info("http", listen=self.address)
        async with server, contextlib.AsyncExitStack() as stack:
            for one in server.sockets:
                stack.enter_context(OwnListener(one.getsockname()[:2]).followed())
            watcher = asyncio.create_task(self._watch())
            try:
                await server.serve_forever()
            finally:
                watcher.cancel()

    def _troubles(self) -> list[str]:
        found = [f"{one.purpose}: {one.trouble}" for one in self._bus() if one.trouble]
        for one in self._bus():
            found += [f"{one.purpose}: permission denied for {name}" for name in one.denied]
        return found

    async def _watch(self) -> None:
        # Probes may be rare, and a stall is measured since the last move.
        while True:
            self._heartbeat.alive(self._session(), time.monotonic())
            await asyncio.sleep(until_tick(1.0))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections += 1
        try:
            if self._connections <= CONNECTIONS_MAX:
                async with asyncio.timeout(REQUEST_TIMEOUT_SEC):
                    head = await reader.readuntil(b"\r\n\r\n")
                    writer.write(self.answer(head))
                    await writer.drain()
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass
        finally:
            self._connections -= 1
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    def answer(self, head: bytes) -> bytes:
        """Returns the whole response to a request's head."""
        words = head.split(b"\r\n", 1)[0].split()
        if len(words) != 3 or words[0] not in (b"GET", b"HEAD"):
            return _response("405 Method Not Allowed", b"GET only\n")
        path = words[1].split(b"?", 1)[0]
        if path == b"/metrics":
            body = generate_latest(self._registry)
            response = _response("200 OK", body, CONTENT_TYPE)
        elif path == b"/healthz":
            alive = self._heartbeat.alive(self._session(), time.monotonic())
            response = _verdict(alive, "ok", "capture threads do not move", self._troubles())
        elif path == b"/readyz":
            details = self._troubles()
            if self._standing is not None and not self._standing.satisfied:
                details.append(f"capture: {self._standing.reason}")
            response = _verdict(self._ready(), "ready", "not ready", details)
        else:
            response = _response("404 Not Found", b"/metrics, /healthz or /readyz\n")
        return response if words[0] == b"GET" else response.split(b"\r\n\r\n", 1)[0] + b"\r\n\r\n"


def _verdict(good: bool, yes: str, no: str, details: Sequence[str]) -> bytes:
    body = "\n".join([yes if good else no, *details, ""]).encode()
    return _response("200 OK" if good else "503 Service Unavailable", body)


def _response(status: str, body: bytes, content_type: str = "text/plain; charset=utf-8") -> bytes:
    head = (
        f"HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + body
