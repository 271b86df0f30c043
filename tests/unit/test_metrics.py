"""The metrics of each part of the agent, as a scrape returns them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from prometheus_client.exposition import generate_latest

from netsonde.capture.session import Session
from netsonde.capture.totals import INTERFACE_COUNTERS, SessionTotals
from netsonde.core.values import CollectorStats, InterfaceStats, Stats
from netsonde.daemon.metrics.bus import SpoolMetrics
from netsonde.daemon.metrics.exporting import ExportMetrics
from netsonde.daemon.metrics.host import HostMetrics
from netsonde.daemon.metrics.registry import Part, registry_of
from netsonde.daemon.metrics.session import (
    COUNTER_TEXTS,
    GAUGE_TEXTS,
    INTERFACE_TEXTS,
    SessionMetrics,
)
from netsonde.errors import NoSession
from netsonde.service.discovery import EndpointStats
from netsonde.wire.counters import COUNTERS
from netsonde.wire.records import SpoolState

COLLECTOR = CollectorStats(
    address="fd00::9",
    port=4739,
    version=10,
    connected=True,
    messages_sent=3,
    bytes_sent=4000,
    templates_sent=4,
    records_sent=120,
    packets_sent=500,
    octets_sent=50_000,
    records_skipped_ipv6=0,
    records_lost_refused=6,
    records_lost_no_room=0,
    records_lost_error=2,
    packets_lost=31,
    octets_lost=4096,
    refusals=1,
    times_clamped=0,
    last_error="Connection refused",
)


INTERFACES = [
    InterfaceStats(
        name=name,
        slot=slot,
        ifindex=slot + 2,
        captured=slot == 0,
        link_up=slot == 0,
        packets_captured=100 + slot,
        bytes_captured=5000,
        packets_dropped=slot,
        packets_non_flow=7,
    )
    for slot, name in enumerate(("eth0", "eth1"))
]


class FakeExporting:
    def stats(self) -> list[CollectorStats]:
        return [COLLECTOR]


class FakeSession:
    """The part of a session that health reads."""

    id = "s"

    class Request:
        interface = "eth0"
        backend = "af_packet"

    plan = SimpleNamespace(settings=SimpleNamespace(buffer_disk_bytes=1 << 30))
    since_ns = 5_000_000_000
    request = Request()
    exporting = FakeExporting()

    def __init__(self, stats: Stats) -> None:
        self.now = stats
        self.capture = self

    def stats(self) -> Stats:
        return self.now

    def interface_stats(self) -> list[InterfaceStats]:
        return INTERFACES

    def counters(self, stats: Stats) -> dict[str, Any]:
        return {"packets_captured": stats.packets_captured, "packets_active": 3}


def scraped(*parts: Part) -> str:
    return generate_latest(registry_of(parts)).decode()


def of_session(stats: Stats) -> str:
    session = cast(Session, FakeSession(stats))
    totals = SessionTotals()
    return scraped(SessionMetrics(lambda: session, totals), ExportMetrics(lambda: session, totals))


def test_each_counter_has_a_help_text() -> None:
    assert sorted([*COUNTER_TEXTS, *GAUGE_TEXTS]) == sorted(COUNTERS)
    assert sorted(INTERFACE_TEXTS) == sorted(INTERFACE_COUNTERS)


def test_metrics_show_the_spool() -> None:
    assert "spool" not in scraped(SpoolMetrics(lambda: None))
    state = SpoolState(
        bytes_used=1,
        bytes_max=2,
        records_waiting=3,
        records_lost=4,
        packets_lost=5,
        messages_in_flight=6,
        messages_acknowledged=7,
        messages_resent=8,
    )
    text = scraped(SpoolMetrics(lambda: state))
    assert "netsonde_spool_records_waiting 3.0" in text
    assert "netsonde_spool_records_lost_total 4.0" in text


def test_metrics_show_the_session_counters() -> None:
    text = of_session(Stats(packets_captured=42, flows_active=7))
    labels = '{backend="af_packet",interface="eth0"}'
    assert f"netsonde_packets_captured_total{labels} 42.0" in text
    assert f"netsonde_packets_active{labels} 3.0" in text
    assert f"netsonde_flows_active{labels} 7.0" in text
    assert "netsonde_session_running 1.0" in text
    assert "# TYPE netsonde_packets_captured_total counter" in text


def test_metrics_show_each_collector() -> None:
    text = of_session(Stats())
    collector = 'collector="[fd00::9]:4739"'
    assert f'netsonde_export_connected{{{collector},version="10"}} 1.0' in text
    assert f'netsonde_export_collector_records_sent_total{{{collector},version="10"}} 120.0' in text
    assert f'netsonde_export_packets_lost_total{{{collector},version="10"}} 31.0' in text
    for cause, count in (("refused", 6), ("no_room", 0), ("error", 2)):
        labels = f'cause="{cause}",{collector},version="10"'
        assert f"netsonde_export_collector_records_lost_total{{{labels}}} {count}.0" in text


def test_interfaces_have_their_own_series() -> None:
    answer = of_session(Stats())
    for name, packets, dropped in (("eth0", 100, 0), ("eth1", 101, 1)):
        labels = f'{{backend="af_packet",interface="{name}"}}'
        assert f"netsonde_interface_packets_captured_total{labels} {packets}.0" in answer
        assert f"netsonde_interface_packets_dropped_total{labels} {dropped}.0" in answer
    assert 'netsonde_interface_link_up{backend="af_packet",interface="eth0"} 1.0' in answer
    assert 'netsonde_interface_link_up{backend="af_packet",interface="eth1"}' not in answer


def test_labels_of_the_host_have_a_prefix() -> None:
    text = scraped(HostMetrics("alpha", lambda: {"site": "ams", "rack-row": "b", "host": "x"}))
    labels = 'host="alpha",label_host="x",label_rack_row="b",label_site="ams"'
    assert f"netsonde_host_info{{{labels}}} 1.0" in text


def test_requests_count_by_code_and_duration() -> None:
    stats = EndpointStats()
    for elapsed_ms, code in ((1, 200), (2, 204), (11_000, 200)):
        stats.count(elapsed_ms * 1_000_000, None, code)
    stats.count(1, NoSession())
    assert stats.codes == {200: 2, 204: 1, 400: 1}
    assert stats.durations == [2, 1, 0, 0, 0, 0, 0, 1]
