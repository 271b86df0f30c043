"""The one session that a host may have, from start to stop.

State changes run one at a time under a lock, in order of arrival. A start with a filter waits for
its check first, without the lock. A start takes effect whole or not at all. A stop replies when
every record has been delivered.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from typing import cast

import msgspec
import structlog
from msgspec import UNSET

from ..config.sections import Config
from ..core.capture import Capture
from ..core.filters import FilterChecks
from ..core.packets import leave_clear
from ..core.values import Stats
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
from ..recorder.sealing import read_sealing
from ..wire.events import EventLog
from ..wire.records import SpoolState
from ..wire.replies import (
    EncryptionReply,
    ExportReply,
    MeteringState,
    MeterReply,
    MetricsReply,
    StartReply,
    StatusReply,
    StopReply,
)
from ..wire.requests import (
    BackendName,
    CaptureOptions,
    EncryptionOptions,
    EncryptionRequest,
    ExportRequest,
    MeterRequest,
    StopRequest,
)
from .checks import Resources, blaming, check_request, make_buffer_directory, require_backend
from .collectors import requested_collector
from .plan import CapturePlan, check_features, first_streams, plan
from .pump import Sink
from .rates import drop_rate, next_tick
from .session import Session
from .source import file_state
from .totals import SessionTotals

STOP_FLUSH_SEC = 10.0
REPLACED_FLUSH_SEC = 2.0  # the next session waits for it
EXPORT_FLUSH_MIN_SEC = 3.0  # also when the bus is down


class Sessions:
    def __init__(
        self,
        config: Config,
        sink: Sink,
        events: EventLog,
        tasks: asyncio.TaskGroup,
        *,
        publish_metrics: Callable[[MetricsReply], Awaitable[None]],
    ) -> None:
        self.config = config  # replaced when the configuration is read again
        self._sink = sink
        self._events = events
        self._tasks = tasks
        self._publish_metrics = publish_metrics
        self._turn = asyncio.Lock()
        self._retimed = asyncio.Event()
        self._log = structlog.get_logger()
        self._closing = False
        self.filters = FilterChecks()
        self.totals = SessionTotals()
        self.current: Session | None = None

    def require(self) -> Session:
        if self.current is None:
            raise NoSession
        return self.current

    def status(self) -> StatusReply:
        if self.current is not None:
            return self.current.status()
        return StatusReply(spool=self.spool() or UNSET)

    def spool(self) -> SpoolState | None:
        """Returns the state of the spool. None without one."""
        return self._sink.state()

    async def start(self, request: CaptureOptions, *, replacing: str = "") -> StartReply:
        """replacing: first stops the session that runs, with this reason."""
        if request.filter:  # compiling takes up to two seconds; no other change waits for that
            with await check_request(request, self.config, self.filters) as resources:
                async with self._turn:
                    session = await self._begin(request, resources, replacing)
        else:
            async with self._turn:
                with await check_request(request, self.config, self.filters) as resources:
                    session = await self._begin(request, resources, replacing)
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
            backend=cast(BackendName, request.backend),  # checked by check_request
            buffer_size_mb=request.buffer_size_mb,
            file=file_state(session.capture.stats(), request.backend),
        )

    async def _begin(
        self, request: CaptureOptions, resources: Resources, replacing: str
    ) -> Session:
        if self.current is not None and not replacing:
            raise SessionActive
        if self._closing:
            raise Draining
        report = await require_backend(request.backend)
        planned = plan(request, self.config, report)
        old = self.current
        if old is not None:
            await self._end(old, replacing, REPLACED_FLUSH_SEC)
        session = await self._open(planned, resources)
        if old is not None:
            session.replace(old)
        session.pump.start(self._tasks)
        session.ticking = self._tasks.create_task(self._tick(session))
        session.follow_links(self._tasks)
        self.current = session
        return session

    async def _open(self, planned: CapturePlan, resources: Resources) -> Session:
        make_buffer_directory(planned.settings.buffer_dir)
        settings = resources.settings(planned)
        with blaming("$.interface", InvalidInterface, InterfaceShared):
            capture = await Capture.open(settings, resources.preparing(planned))
        if self._closing:  # `close` has run already and would not stop this session
            await capture.close()
            raise Draining
        capture.select(planned.record_fields)
        session = Session(planned, capture, sink=self._sink, events=self._events)
        session.encryption = resources.encryption
        session.link_types = resources.link_types
        return session

    async def close(self, flush_sec: float) -> None:
        """Stops the session, also one that is still starting, and rejects new ones."""
        self._closing = True
        with contextlib.suppress(NoSession):
            await self.stop(StopRequest(reason="shutdown"), flush_sec=flush_sec)

    def abandon(self) -> None:
        """Counts what the session has not sent as lost, when the agent must exit. A sink with a
        spool leaves its mark, from which the next run counts."""
        session = self.current
        if session is None:
            return
        session.ticking.cancel()
        lost = session.pump.abandon()
        self._log.warning("the session did not end in time", session_id=session.id, **lost)
        if not self._sink.lasting:
            self._events.emit(
                "alarm",
                "unclean_end",
                "the session did not end in time; its remaining records are lost",
                session_id=session.id,
                data=lost,
            )

    async def stop(self, request: StopRequest, *, flush_sec: float = STOP_FLUSH_SEC) -> StopReply:
        async with self._turn:
            return await self._end(self.require(), request.reason, flush_sec)

    async def _end(self, session: Session, reason: str, flush_sec: float) -> StopReply:
        uptime_sec = session.uptime_sec
        try:
            await session.capture.stop()
        finally:
            session.ticking.cancel()
            await _deliver_rest(session, flush_sec)
            stats = session.capture.stats()
            session.exporting.report_losses()
            export = session.exporting.state()
            self.totals.add(
                (session.request.interface, session.request.backend),
                session.counters(stats),
                session.exporting.stats(),
                session.capture.interface_stats(),
            )
            self.current = None
            await session.capture.close()
        reply = _stop_reply(session, stats, reason, uptime_sec)
        reply.export = export
        self._events.emit(
            "capture",
            "stopped",
            reason,
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
        """Starts the newly configured metrics interval now."""
        self._retimed.set()

    async def _tick(self, session: Session) -> None:
        """Publishes the session's metrics at the end of each interval."""
        due_sec = time.monotonic()
        while True:
            interval_sec = self.config.metrics.interval_sec
            due_sec = next_tick(due_sec, interval_sec, time.monotonic())
            try:
                async with asyncio.timeout(due_sec - time.monotonic()):
                    await self._retimed.wait()
            except TimeoutError:
                await self._publish_metrics(session.end_interval())
            else:
                self._retimed.clear()
                due_sec = time.monotonic()

    async def adjust(self, options: CaptureOptions) -> None:
        """Gives the running session the metering, collectors and encryption of `options`. Only
        what differs is changed."""
        async with self._turn:
            session = self.require()
            check_features(options, session.plan)
            collectors, metering = first_streams(
                options, self.config, can_export=session.plan.can_export
            )
            await session.exporting.replace(collectors)
            await session.meter(metering)
            await self._seal(session, options.encryption)

    async def _seal(self, session: Session, wanted: EncryptionOptions | None) -> None:
        sealing = None
        if wanted is not None:
            sealing = read_sealing(self.config.encryption.key_dirs, wanted, "$.encryption")
        state = sealing.state if sealing is not None else None
        if state == session.encryption:
            if sealing is not None:
                sealing.forget()
            return
        await session.capture.lend(sealing.apply_once if sealing else leave_clear)
        session.encryption = state

    async def meter(self, request: MeterRequest) -> MeterReply:
        async with self._turn:
            session = self.require()
            if not session.plan.can_meter:
                raise FlowMeteringUnavailable
            now = session.metering
            metering = MeteringState(
                enabled=request.enable,
                flow_timeout_sec=request.flow_timeout_sec or now.flow_timeout_sec,
                active_timeout_sec=request.active_timeout_sec or now.active_timeout_sec,
            )
            await session.meter(metering)
        return MeterReply(
            status="enabled" if request.enable else "disabled",
            flow_timeout_sec=metering.flow_timeout_sec,
            active_timeout_sec=metering.active_timeout_sec,
            message=(
                "Flow records are published"
                if request.enable
                else "Flow records have ended; flows are still listed"
            ),
        )

    async def encrypt(self, request: EncryptionRequest) -> EncryptionReply:
        async with self._turn:
            session = self.require()
            sealing = read_sealing(self.config.encryption.key_dirs, request, "$")
            if not session.plan.can_seal:
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
        """Adds, changes or removes one collector. The first one turns metering on; metering
        stays on after the last one is removed."""
        async with self._turn:
            session = self.require()
            collector = requested_collector(request, self.config.export)
            if not session.plan.can_export:
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


async def _deliver_rest(session: Session, flush_sec: float) -> None:
    """Delivers every record of a stopped capture. Collectors and the bus read one ring, so a
    stalled bus must not keep records from the collectors."""
    export_sec = max(flush_sec, EXPORT_FLUSH_MIN_SEC)
    exported = await session.exporting.flush(export_sec)  # the pump keeps running
    await session.pump.finish(flush_sec)
    if not exported:
        await session.capture.end_stream()
        if not await session.exporting.flush(export_sec):
            session.exporting.report_unfinished(export_sec)


def _stop_reply(session: Session, stats: Stats, reason: str, uptime_sec: float) -> StopReply:
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
        file=file_state(stats, session.request.backend),
    )
