"""One running capture: its counters, status, metrics and events."""

from __future__ import annotations

import asyncio
import secrets
import time
from dataclasses import asdict
from typing import Any

from ..core.capture import Capture
from ..core.library import lib
from ..core.values import CoreEvent, PacketGap, Stats
from ..recorder.status import buffer_state, retention_sec, usage_percent
from ..wire.counters import CORE_COUNTERS, Counters
from ..wire.events import EventKind, EventLog
from ..wire.instant import NS_PER_SEC, rfc3339
from ..wire.quantity import counted
from ..wire.replies import EncryptionState, MeteringState, MetricsReply, OwnersState, StatusReply
from .collectors import Exporting
from .hotplug import Hotplug
from .interfaces import follows_changes
from .plan import CapturePlan
from .pump import Pump, Sink
from .rates import Rates, Window
from .source import file_state, interface_states, undecoded_states

# Events of the core: (stream, event).
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

# Events whose detail is an interface's name.
_OF_ONE_INTERFACE = frozenset(
    {
        lib.SONDE_EVENT_LINK_DOWN,
        lib.SONDE_EVENT_LINK_UP,
        lib.SONDE_EVENT_LINK_DELETED,
        lib.SONDE_EVENT_LINK_RETURNED,
    }
)


class Session:
    """A running capture and its pump."""

    def __init__(
        self, plan: CapturePlan, capture: Capture, *, sink: Sink, events: EventLog
    ) -> None:
        self.id = secrets.token_hex(8)
        self.plan = plan
        self.request = plan.request
        self.capture = capture
        self.metering = plan.metering
        self.encryption: EncryptionState | None = None
        self._events = events
        self._started_ns = time.monotonic_ns()
        self.since_ns = time.time_ns()
        self.replaced: PacketGap | None = None  # the time of sessions whose buffers are gone
        self._window = Window(Stats(), self._started_ns)
        self.exporting = Exporting(capture, plan.collectors, events, session_id=self.id)
        self.ticking: asyncio.Task[None]
        self.link_types: tuple[int, ...] = ()  # the source's
        self.pump = Pump(
            capture, sink, session_id=self.id, encoding=plan.encoding, on_event=self._on_event
        )

    def replace(self, old: Session) -> None:
        """Notes that the packets of `old` are no longer in a buffer."""
        since_ns = old.replaced.from_ns if old.replaced else old.since_ns
        self.replaced = PacketGap(since_ns, self.since_ns, "replaced")

    def follow_links(self, tasks: asyncio.TaskGroup) -> None:
        """Captures from new interfaces too, if the request has patterns. Ends with `ticking`."""
        if follows_changes(self.request.backend, self.request.interface):
            hotplug = Hotplug(
                self.capture, self.request.interface, self._events, session_id=self.id
            )
            following = tasks.create_task(hotplug.run())
            self.ticking.add_done_callback(lambda _: following.cancel())

    @property
    def uptime_sec(self) -> float:
        return (time.monotonic_ns() - self._started_ns) / NS_PER_SEC

    def counters(self, stats: Stats) -> dict[str, Any]:
        """Returns the counters that status, metrics, STATS and Prometheus share."""
        core = {name: getattr(stats, name) for name in CORE_COUNTERS}
        return asdict(
            Counters(
                **core,
                records_sent=self.pump.records_sent,
                records_unsent=self.pump.records_unsent,
                packets_records_unsent=self.pump.packets_unsent,
                **self.exporting.sums(self.exporting.stats()),
            )
        )

    async def meter(self, metering: MeteringState) -> None:
        """Changes metering. The export interval replaces the active timeout while exporting."""
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
            interfaces=interface_states(self.capture.interface_stats()),
            filter=self.request.filter,
            attach=stats.attach,
            active_flows=stats.flows_active,
            flow_table_size=stats.flow_table_size,
            buffer_usage_percent=usage_percent(stats),
            retention_sec=retention_sec(stats, live=self.request.backend != "file"),
            ring_used_percent=stats.ring_used_permille / 10,
            buffer_size_mb=self.request.buffer_size_mb,
            non_flow=dict(stats.non_flow),
            undecoded=undecoded_states(stats),
            owners=OwnersState(found=stats.owners, detail=stats.owners_missing),
            file=file_state(stats, self.request.backend),
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
        """Returns the rates of the last full interval."""
        stats = self.capture.stats()
        return self._metrics(stats, self._window.rates(stats, time.monotonic_ns()))

    def end_interval(self) -> MetricsReply:
        """Ends the interval and returns its rates; raises alarms for packets and records lost."""
        self.exporting.report_losses()
        stats = self.capture.stats()
        rates = self._window.advance(stats, time.monotonic_ns())
        if rates.packets_dropped:
            self._events.emit(
                "alarm",
                "packets_dropped",
                f"{counted(rates.packets_dropped, 'packet')} in {rates.interval_sec:.1f} s",
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
        interface = event.detail if event.kind in _OF_ONE_INTERFACE else self.request.interface
        self._events.emit(
            kind,
            name,
            event.detail,
            session_id=self.id,
            time_ns=event.time_ns,
            data={"value": event.value, "interface": interface},
        )
