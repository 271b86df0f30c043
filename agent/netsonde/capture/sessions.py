"""The one capture session that a host may have, from start to stop.

`Sessions` owns it: state changes take turns under one lock, in the order in which they came.
A start is all or nothing; a stop answers only when every record has been handed over. What
the wire calls a field is filled in here; nothing here knows subjects, headers or codes
other than through the errors it raises.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, cast

import msgspec
import structlog
from msgspec import UNSET

from ..core.capture import Capture, lib
from ..core.packets import leave_clear
from ..core.values import NS_PER_SEC, BackendReport, CollectorSettings, CoreEvent, Stats
from ..errors import (
    Draining,
    EncryptionUnavailable,
    FlowMeteringUnavailable,
    InterfaceShared,
    InvalidInterface,
    NetflowExportUnavailable,
    NoSession,
    SessionActive,
)
from ..recorder.status import buffer_state, retention_sec, usage_percent
from ..service.events import Events
from ..sinks.core_nats import Encoding
from ..wire.buffer import EncryptionReply, EncryptionRequest, EncryptionState
from ..wire.export import ExportReply, ExportRequest
from ..wire.records import rfc3339
from ..wire.replies import (
    BackendName,
    EventKind,
    MeteringState,
    MeterReply,
    MeterRequest,
    MetricsReply,
    StartReply,
    StartRequest,
    StatusReply,
    StopReply,
    StopRequest,
)
from .collectors import Exporting, asked_collector, least_interval_sec
from .plan import Preflight, blaming
from .pump import Pump, Sink
from .rates import COUNTERS, Rates, Window, drop_rate

STOP_FLUSH_SEC = 10.0
EXPORT_FLUSH_MIN_SEC = 3.0  # also when the bus is not worth waiting for

# What the core tells, as (stream, event).
_EVENTS: dict[int, tuple[EventKind, str]] = {
    lib.SONDE_EVENT_FINISHED: ("capture", "finished"),
    lib.SONDE_EVENT_LINK_DOWN: ("capture", "interface_down"),
    lib.SONDE_EVENT_LINK_UP: ("capture", "interface_up"),
    lib.SONDE_EVENT_LINK_DELETED: ("capture", "interface_deleted"),
    lib.SONDE_EVENT_LINK_RETURNED: ("capture", "interface_returned"),
    lib.SONDE_EVENT_BACKEND_ERROR: ("capture", "backend_error"),
    lib.SONDE_EVENT_CLOCK_STEP: ("alarm", "clock_step"),
    lib.SONDE_EVENT_TABLE_FULL: ("alarm", "flow_table_full"),
    lib.SONDE_EVENT_RECORDS_DROPPED: ("alarm", "records_dropped"),
    lib.SONDE_EVENT_FILE_TRUNCATED: ("capture", "file_truncated"),
    lib.SONDE_EVENT_SEAL_FAILED: ("alarm", "seal_failed"),
    lib.SONDE_EVENT_SPILL_FAILED: ("alarm", "spill_failed"),
    lib.SONDE_EVENT_SPILL_RESUMED: ("capture", "spill_resumed"),
}


class Session:
    """A capture that runs, with its pump."""

    def __init__(
        self,
        request: StartRequest,
        capture: Capture,
        report: BackendReport,
        *,
        collectors: Sequence[CollectorSettings],
        sink: Sink,
        encoding: Encoding,
        events: Events,
    ) -> None:
        self.id = secrets.token_hex(8)
        self.request = request
        self.capture = capture
        self.meters = "flow_metering" in report.features
        recorded = request.record or request.encryption is not None
        self.seals = recorded and "buffer_encryption" in report.features
        self.encryption: EncryptionState | None = None
        self.exports = "netflow_export" in report.features
        self._events = events
        self._started_ns = time.monotonic_ns()
        self._window = Window(Stats(), self._started_ns)
        wanted = request.metering or MeterRequest(enable=False)
        self.metering = MeteringState(
            enabled=wanted.enable or bool(collectors),
            flow_timeout_sec=wanted.flow_timeout_sec,
            active_timeout_sec=wanted.active_timeout_sec,
        )
        self.exporting = Exporting(capture, collectors, events, session_id=self.id)
        self.ticking: asyncio.Task[None]
        self.pump = Pump(
            capture, sink, session_id=self.id, encoding=encoding, on_event=self._on_event
        )

    @property
    def uptime_sec(self) -> float:
        return (time.monotonic_ns() - self._started_ns) / NS_PER_SEC

    def counters(self, stats: Stats) -> dict[str, Any]:
        """What every view of the session shows."""
        found: dict[str, Any] = {name: getattr(stats, name) for name in COUNTERS}
        found["records_sent"] = self.pump.records_sent
        found["records_unsent"] = self.pump.records_unsent
        found["packets_records_unsent"] = self.pump.packets_unsent
        found |= self.exporting.sums(self.exporting.stats())
        return found

    async def meter(self, metering: MeteringState) -> None:
        """While the session exports, the export interval is its active timeout."""
        await self.capture.meter(
            on=metering.enabled,
            idle_timeout_sec=metering.flow_timeout_sec,
            active_timeout_sec=self.exporting.interval_sec or metering.active_timeout_sec,
        )
        self.metering = metering

    def status(self) -> StatusReply:
        stats = self.capture.stats()
        return StatusReply(
            running=True,
            interface=self.request.interface,
            backend=self.request.backend,
            uptime_sec=self.uptime_sec,
            session_id=self.id,
            finished=stats.finished,
            link_up=stats.link_up,
            filter=self.request.filter,
            attach=stats.attach,
            active_flows=stats.flows_active,
            flow_table_size=stats.flow_table_size,
            buffer_usage_percent=usage_percent(stats),
            retention_sec=retention_sec(stats, live=self.request.backend != "file"),
            ring_used_percent=stats.ring_used_permille / 10,
            buffer_size_mb=self.request.buffer_size_mb,
            non_flow=dict(stats.non_flow),
            ip_bytes=stats.ip_bytes,
            ip_length_clamped=stats.ip_length_clamped,
            fragments=stats.fragments,
            records_by_reason=dict(stats.records_by_reason),
            metering=self.metering,
            export=self.exporting.state(),
            encryption=self.encryption,
            buffer=buffer_state(stats),
            spool=self.pump.spool,
            **self.counters(stats),
        )

    def metrics(self) -> MetricsReply:
        """Over the last full interval."""
        stats = self.capture.stats()
        return self._metrics(stats, self._window.rates(stats, time.monotonic_ns()))

    def end_interval(self) -> MetricsReply:
        """Over the interval that ends now; alarms when packets or records were lost in it."""
        self.exporting.tell_losses()
        stats = self.capture.stats()
        rates = self._window.advance(stats, time.monotonic_ns())
        if rates.packets_dropped:
            self._events.emit(
                "alarm",
                "packets_dropped",
                f"{rates.packets_dropped} packets in {rates.interval_sec:.1f} s",
                session_id=self.id,
                data={"packets_dropped": rates.packets_dropped},
            )
        return self._metrics(stats, rates)

    def _metrics(self, stats: Stats, rates: Rates) -> MetricsReply:
        return MetricsReply(
            session_id=self.id,
            time=rfc3339(time.time_ns()),
            interval_sec=rates.interval_sec,
            throughput_mbps=rates.throughput_mbps,
            packets_per_sec=rates.packets_per_sec,
            avg_packet_size=rates.avg_packet_size,
            drop_rate_percent=rates.drop_rate_percent,
            buffer_usage_percent=usage_percent(stats),
            active_flows=stats.flows_active,
            spool=self.pump.spool,
            **self.counters(stats),
        )

    def _on_event(self, event: CoreEvent) -> None:
        kind, name = _EVENTS.get(event.kind, ("capture", f"event_{event.kind}"))
        self._events.emit(
            kind,
            name,
            event.detail,
            session_id=self.id,
            time_ns=event.time_ns,
            data={"value": event.value, "interface": self.request.interface},
        )


class Sessions:
    def __init__(
        self,
        preflight: Preflight,
        sink: Sink,
        events: Events,
        tasks: asyncio.TaskGroup,
        *,
        publish_metrics: Callable[[MetricsReply], Awaitable[None]],
    ) -> None:
        self._preflight = preflight
        self._sink = sink
        self._events = events
        self._tasks = tasks
        self._publish_metrics = publish_metrics
        self._turn = asyncio.Lock()
        self._retimed = asyncio.Event()
        self._log = structlog.get_logger()
        self._closing = False
        self.current: Session | None = None

    def require(self) -> Session:
        if self.current is None:
            raise NoSession
        return self.current

    def status(self) -> StatusReply:
        if self.current is not None:
            return self.current.status()
        return StatusReply(spool=self._sink.state() or UNSET)

    async def start(self, request: StartRequest) -> StartReply:
        async with self._turn:
            checked = await self._preflight.check_values(request)
            with checked:
                if self.current is not None:
                    raise SessionActive
                report = await self._preflight.check_available(request)
                collectors = checked.collectors(report)
                settings = checked.settings(least_interval_sec(collectors))
                with blaming("$.interface", InvalidInterface, InterfaceShared):
                    capture = await Capture.open(settings, checked.preparing(collectors))
                if self._closing:  # nobody would stop it any more
                    await capture.close()
                    raise Draining
                capture.select(self._preflight.config.flows.fields)
            session = Session(
                request,
                capture,
                report,
                collectors=collectors,
                sink=self._sink,
                encoding=self._preflight.config.flows.encoding,
                events=self._events,
            )
            session.encryption = checked.sealing.state if checked.sealing else None
            session.pump.start(self._tasks)
            session.ticking = self._tasks.create_task(self._tick(session))
            self.current = session
        self._events.emit(
            "capture",
            "started",
            f"{request.backend} on {request.interface}",
            session_id=session.id,
            data={"interface": request.interface, "backend": request.backend},
        )
        return StartReply(
            session_id=session.id,
            interface=request.interface,
            backend=cast(BackendName, request.backend),  # check_values knows it
            buffer_size_mb=request.buffer_size_mb,
        )

    async def close(self, flush_sec: float) -> None:
        """Ends the session, one that is being started too, and lets no other begin."""
        self._closing = True
        with contextlib.suppress(NoSession):
            await self.stop(StopRequest(reason="shutdown"), flush_sec=flush_sec)

    async def stop(self, request: StopRequest, *, flush_sec: float = STOP_FLUSH_SEC) -> StopReply:
        async with self._turn:
            session = self.require()
            uptime_sec = session.uptime_sec
            try:
                await session.capture.stop()
            finally:
                session.ticking.cancel()
                await _hand_over(session, flush_sec)
                stats = session.capture.stats()
                session.exporting.tell_losses()
                export = session.exporting.state()
                self.current = None
                await session.capture.close()
        reply = _stopped(session, stats, request.reason, uptime_sec)
        reply.export = export
        self._events.emit(
            "capture",
            "stopped",
            request.reason,
            session_id=session.id,
            data={
                "packets_captured": reply.packets_captured,
                "packets_dropped": reply.packets_dropped,
                "records_sent": reply.records_sent,
                "records_unsent": reply.records_unsent,
            },
        )
        return reply

    def retime(self) -> None:
        """Another metrics interval is configured: it begins now."""
        self._retimed.set()

    async def _tick(self, session: Session) -> None:
        """Ends a metrics interval of the session every so often."""
        due_sec = time.monotonic()
        while True:
            due_sec += self._preflight.config.metrics.interval_sec
            try:
                async with asyncio.timeout(due_sec - time.monotonic()):
                    await self._retimed.wait()
            except TimeoutError:
                await self._publish_metrics(session.end_interval())
            else:
                self._retimed.clear()
                due_sec = time.monotonic()

    async def meter(self, request: MeterRequest) -> MeterReply:
        async with self._turn:
            session = self.require()
            if not session.meters:
                raise FlowMeteringUnavailable
            metering = MeteringState(
                enabled=request.enable,
                flow_timeout_sec=request.flow_timeout_sec,
                active_timeout_sec=request.active_timeout_sec,
            )
            await session.meter(metering)
        return MeterReply(
            status="enabled" if request.enable else "disabled",
            flow_timeout_sec=request.flow_timeout_sec,
            active_timeout_sec=request.active_timeout_sec,
            message=(
                "Flow records are published"
                if request.enable
                else "Flow records have ended; flows are still listed"
            ),
        )

    async def encrypt(self, request: EncryptionRequest) -> EncryptionReply:
        async with self._turn:
            session = self.require()
            sealing = self._preflight.sealing(request, "$")
            if not session.seals:
                if sealing is not None:
                    sealing.forget()
                raise EncryptionUnavailable
            await session.capture.lend(sealing.apply_once if sealing else leave_clear)
            session.encryption = sealing.state if sealing else None
        return EncryptionReply(
            status="enabled" if request.enable else "disabled",
            cipher_suite=request.cipher_suite,
            key_file=request.key_file,
            key_id=sealing.state.key_id if sealing else UNSET,
        )

    async def export(self, request: ExportRequest) -> ExportReply:
        """Adds, changes or removes one collector. Metering is on from the first one on, and
        stays on when the last one has gone."""
        async with self._turn:
            session = self.require()
            collector = asked_collector(request, self._preflight.config.export)
            if not session.exports:
                raise NetflowExportUnavailable
            if request.enable:
                await session.exporting.add(collector)
                await session.meter(msgspec.structs.replace(session.metering, enabled=True))
            else:
                await session.exporting.remove(*collector.key)
                await session.meter(session.metering)
        return ExportReply(
            status="enabled" if request.enable else "disabled",
            collector_ip=request.collector_ip,
            collector_port=request.collector_port,
            export_interval_sec=request.export_interval_sec,
        )


async def _hand_over(session: Session, flush_sec: float) -> None:
    """Every record of a stopped capture, to the collectors and to the bus, which take them
    from one ring: a bus that stands still must not keep them from the collectors."""
    export_sec = max(flush_sec, EXPORT_FLUSH_MIN_SEC)
    exported = await session.exporting.flush(export_sec)  # the pump goes on meanwhile
    await session.pump.finish(flush_sec)
    if not exported:
        await session.capture.end_stream()
        if not await session.exporting.flush(export_sec):
            session.exporting.tell_unfinished(export_sec)


def _stopped(session: Session, stats: Stats, reason: str, uptime_sec: float) -> StopReply:
    return StopReply(
        session_id=session.id,
        reason=reason,
        packets_captured=stats.packets_captured,
        packets_dropped=stats.packets_dropped,
        drop_rate=drop_rate(stats.packets_captured, stats.packets_dropped),
        uptime_sec=uptime_sec,
        bytes_captured=stats.bytes_captured,
        packets_recorded=stats.packets_recorded,
        packets_non_flow=stats.packets_non_flow,
        packets_unmetered=stats.packets_unmetered,
        records=stats.records,
        records_sent=session.pump.records_sent,
        records_unsent=max(
            session.pump.records_unsent,
            stats.records - stats.records_dropped - session.pump.records_sent,
        ),
        records_dropped=stats.records_dropped,
    )
