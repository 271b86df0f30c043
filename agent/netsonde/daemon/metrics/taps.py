"""The metrics of taps: how many are open, and what they sent and lost."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client.metrics_core import Metric

from ...service.taps import Taps
from .families import counter, gauge, single


class TapMetrics:
    def __init__(self, taps: Taps) -> None:
        self._taps = taps

    def collect(self) -> Iterable[Metric]:
        counters, states = self._taps.counters, self._taps.states()
        yield gauge("taps_open", "Open taps", single(len(states)))
        yield counter("taps_opened", "Taps that were opened", single(counters.opened))
        text = "Requests for a tap refused because of a limit or a sealed buffer"
        yield counter("taps_refused", text, single(counters.refused))
        sent = counters.sent.packets + sum(one.packets_sent for one in states)
        yield counter("tap_packets_sent", "Packets that taps sent", single(sent))
        lost = counters.lost.packets + sum(one.packets_lost for one in states)
        text = "Packets that matched and were not sent: a full ring, or the rate"
        yield counter("tap_packets_lost", text, single(lost))
        sent = counters.sent.bytes + sum(one.bytes_sent for one in states)
        yield counter("tap_bytes_sent", "Bytes of packet blocks that taps sent", single(sent))
