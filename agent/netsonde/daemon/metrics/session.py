"""The metrics of the capture session: counters, flow table, kernel ring, buffer, interfaces.

Counters are totals over the life of the agent, with ended sessions. Gauges exist only while a
session is active.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from prometheus_client.metrics_core import Metric

from ...capture.session import Session
from ...capture.totals import Key, SessionTotals, interface_series
from ...core.values import Stats
from ...recorder.status import retention_sec, usage_percent
from ...wire.instant import NS_PER_SEC
from .families import counter, gauge, single

LABELS = ("interface", "backend")

COUNTER_TEXTS = {
    "packets_captured": "Packets captured, counted as on the wire",
    "packets_dropped": "Packets that the kernel or the device dropped before the capture",
    "bytes_captured": "Bytes of captured frames, without the frame check sequence",
    "frames_captured": "Frames from the backend; a super-packet counts once",
    "packets_recorded": "Packets in the flow records made so far",
    "packets_non_flow": "Packets that belong to no flow, such as ARP",
    "packets_unmetered": "Packets in flows that ended while metering was off",
    "packets_records_dropped": "Packets in records dropped because the record ring was full",
    "records": "Flow records made",
    "records_dropped": "Flow records dropped because the record ring was full",
    "records_sent": "Flow records handed to the stream",
    "records_unsent": "Flow records that could not be sent to the stream",
    "packets_records_unsent": "Packets in records that could not be sent to the stream",
    "flows_created": "Flows created in the flow table",
    "timestamps_corrected": "Packets whose timestamp was replaced by the time of the host",
    "timestamps_late": "Packets too late to correct the start of their flow",
    "labels_complete": "Flows whose first message was read for labels",
    "labels_partial": "Flows of which only a part of the first message was captured",
    "labels_skipped": "Flows without labels because of a limit of memory or rate",
    "owners_found": "Sockets whose owner was learnt",
    "owners_lost": "Events of sockets that found the kernel's ring full",
    "owners_evicted": "Sockets that the full index dropped while a flow could need them",
    "ring_freezes": "Times that the kernel ring was full and stopped to take packets",
    "chunks_overwritten": "Chunks of the capture buffer overwritten by newer packets",
    "packets_overwritten": "Frames overwritten in the capture buffer",
    "packets_unrecorded": "Frames not recorded because every chunk of the buffer was busy",
    "packets_seal_lost": "Frames dropped from the buffer because sealing failed",
    "packets_spill_lost": "Frames never written to a segment file",
    "seal_failures": "Chunks that could not be sealed",
    "spill_failures": "Failed writes of segment files",
    "export_records_sent": "Flow records sent to NetFlow or IPFIX collectors",
    "export_records_lost": "Flow records not sent to a NetFlow or IPFIX collector",
}
GAUGE_TEXTS = {
    "packets_active": "Packets in active flows, not yet in a record",
    "records_waiting": "Flow records in the record ring",
}
INTERFACE_TEXTS = {
    "packets_captured": "Packets captured on one interface",
    "packets_dropped": "Packets dropped on one interface before the capture",
    "packets_non_flow": "Packets of one interface that belong to no flow",
    "bytes_captured": "Bytes of frames captured on one interface",
}


class SessionMetrics:
    def __init__(self, current: Callable[[], Session | None], totals: SessionTotals) -> None:
        self._current = current
        self._totals = totals

    def collect(self) -> Iterable[Metric]:
        session = self._current()
        running = single(int(session is not None))
        yield gauge("session_running", "1 while a session is active", running)
        stats = session.capture.stats() if session is not None else None
        counters = session.counters(stats) if session is not None and stats is not None else {}
        yield from self._counters(session, counters)
        yield from self._interfaces(session)
        if session is not None and stats is not None:
            key = (session.request.interface, session.request.backend)
            values = {name: counters[name] for name in GAUGE_TEXTS if name in counters}
            for name, value in values.items():
                yield gauge(name, GAUGE_TEXTS[name], [(key, value)], *LABELS)
            yield from _session_gauges(session, stats, key)

    def _counters(self, session: Session | None, counters: dict[str, int]) -> Iterable[Metric]:
        running: dict[Key, dict[str, int]] = {}
        if session is not None:
            running[session.request.interface, session.request.backend] = counters
        series = self._totals.sessions.shown(running)
        for name in sorted({name for values in series.values() for name in values}):
            if name not in GAUGE_TEXTS:
                samples = [(key, values[name]) for key, values in series.items()]
                yield counter(name, COUNTER_TEXTS.get(name, name), samples, *LABELS)

    def _interfaces(self, session: Session | None) -> Iterable[Metric]:
        stats = session.capture.interface_stats() if session is not None else ()
        backend = session.request.backend if session is not None else ""
        series = self._totals.interfaces.shown(interface_series(stats, backend))
        for name in sorted({name for values in series.values() for name in values}):
            samples = [(key, values[name]) for key, values in series.items()]
            yield counter(f"interface_{name}", INTERFACE_TEXTS[name], samples, *LABELS)
        if stats:
            up = [((one.name, backend), int(one.link_up)) for one in stats if one.captured]
            text = "1 while the captured interface is up"
            yield gauge("interface_link_up", text, up, *LABELS)


def _session_gauges(session: Session, stats: Stats, key: Key) -> Iterable[Metric]:
    live = session.request.backend != "file"
    for name, value, text in (
        ("flows_active", stats.flows_active, "Flows in the flow table"),
        ("flow_table_size", stats.flow_table_size, "Flows that fit into the flow table"),
        (
            "session_start_time_seconds",
            session.since_ns / NS_PER_SEC,
            "Start of the session, in seconds since the epoch",
        ),
        ("ring_used_ratio", stats.ring_used_permille / 1000, "Fill of the kernel ring, 0 to 1"),
        (
            "buffer_used_ratio",
            usage_percent(stats) / 100,
            "Fill of the capture buffer, 0 to 1; 1 once it has wrapped",
        ),
        ("buffer_used_bytes", stats.buffer_bytes_used, "Bytes of packets in the capture buffer"),
        ("buffer_capacity_bytes", stats.buffer_bytes_capacity, "Size of the capture buffer"),
        ("buffer_packets", stats.buffer_packets, "Frames in the capture buffer"),
        (
            "buffer_retention_seconds",
            retention_sec(stats, live=live),
            "Age of the oldest packet in the capture buffer",
        ),
        ("buffer_segments", stats.segments, "Segment files in the directory of the buffer"),
        ("buffer_segment_bytes", stats.segment_bytes, "Size of the segment files"),
        (
            "buffer_segment_limit_bytes",
            session.plan.settings.buffer_disk_bytes,
            "Limit for the size of the segment files; 0: no segment files",
        ),
    ):
        yield gauge(name, text, [(key, value)], *LABELS)
