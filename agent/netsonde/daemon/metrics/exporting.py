"""The metrics of NetFlow and IPFIX export, by collector.

The label `collector` is address and port, so that series add up over a fleet.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from prometheus_client.metrics_core import Metric

from ...capture.collectors import LOSS_CAUSES
from ...capture.session import Session
from ...capture.totals import SessionTotals, collector_series
from ...config.addresses import endpoint
from .families import counter, gauge

LABELS = ("collector", "version")

COUNTER_TEXTS = {
    "messages_sent": "Messages sent to the collector",
    "bytes_sent": "Bytes of messages sent to the collector",
    "collector_records_sent": "Flow records sent to the collector",
    "packets_lost": "Packets in records not sent to the collector",
    "refusals": "Messages that the host of the collector refused by ICMP",
}


class ExportMetrics:
    def __init__(self, current: Callable[[], Session | None], totals: SessionTotals) -> None:
        self._current = current
        self._totals = totals

    def collect(self) -> Iterable[Metric]:
        session = self._current()
        collectors = session.exporting.stats() if session is not None else []
        if collectors:
            connected = [
                ((endpoint(one.address, one.port), str(one.version)), int(one.connected))
                for one in collectors
            ]
            text = "0 while the collector is unreachable"
            yield gauge("export_connected", text, connected, *LABELS)
        series = {
            (endpoint(address, int(port)), version): values
            for (address, port, version), values in self._totals.collectors.shown(
                collector_series(collectors)
            ).items()
        }
        if not series:
            return
        for name, text in COUNTER_TEXTS.items():
            field = name.removeprefix("collector_")
            samples = [(key, values[field]) for key, values in series.items()]
            yield counter(f"export_{name}", text, samples, *LABELS)
        lost = [
            ((*key, cause), values[f"records_lost_{cause}"])
            for key, values in series.items()
            for cause in LOSS_CAUSES
        ]
        text = "Flow records not sent to the collector, by cause"
        yield counter("export_collector_records_lost", text, lost, *LABELS, "cause")
