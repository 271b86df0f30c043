"""Counters over the agent's life, for Prometheus: ended sessions and the running one.

A value shown once is never followed by a smaller one.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import asdict

from ..core.values import CollectorStats, InterfaceStats

SERIES_MAX = 256  # label sets; the oldest are dropped

INTERFACE_COUNTERS = ("packets_captured", "packets_dropped", "packets_non_flow", "bytes_captured")

Key = tuple[str, ...]


class Totals:
    """Series of one kind, by their labels."""

    def __init__(self) -> None:
        self._ended: OrderedDict[Key, Counter[str]] = OrderedDict()
        self._shown: dict[Key, Counter[str]] = {}

    def add(self, key: Key, counters: Mapping[str, int]) -> None:
        """Adds the final counters of something that ended."""
        self._ended.setdefault(key, Counter()).update(counters)
        while len(self._ended) > SERIES_MAX:
            old, _ = self._ended.popitem(last=False)
            self._shown.pop(old, None)

    def shown(self, running: Mapping[Key, Mapping[str, int]]) -> dict[Key, Counter[str]]:
        """Returns all series, with the counters of what is running."""
        for key in [*self._ended, *running]:
            now = Counter(self._ended.get(key, {}))
            now.update(running.get(key, {}))
            before = self._shown.get(key, Counter())
            # Not `before | now`, which would leave zeros out.
            self._shown[key] = Counter({name: max(before[name], now[name]) for name in now})
        keys = {*self._ended, *running}
        self._shown = {key: self._shown[key] for key in sorted(keys)}
        return self._shown


class SessionTotals:
    """The counters of sessions and of their interfaces, by backend, and of collectors by
    address."""

    def __init__(self) -> None:
        self.sessions = Totals()
        self.interfaces = Totals()
        self.collectors = Totals()

    def add(
        self,
        labels: Key,
        counters: Mapping[str, int],
        collectors: Sequence[CollectorStats],
        interfaces: Sequence[InterfaceStats],
    ) -> None:
        """labels: interface, as in the request, and backend."""
        self.sessions.add(labels, counters)
        for key, values in interface_series(interfaces, labels[-1]).items():
            self.interfaces.add(key, values)
        for key, values in collector_series(collectors).items():
            self.collectors.add(key, values)


def interface_series(
    interfaces: Sequence[InterfaceStats], backend: str
) -> dict[Key, dict[str, int]]:
    """Returns the counters of each interface, by name and backend."""
    return {
        (one.name, backend): {name: getattr(one, name) for name in INTERFACE_COUNTERS}
        for one in interfaces
    }


def collector_series(collectors: Sequence[CollectorStats]) -> dict[Key, dict[str, int]]:
    """Returns the counters of each collector, by address, port and version."""
    return {
        (one.address, str(one.port), str(one.version)): {
            name: value for name, value in asdict(one).items() if type(value) is int
        }
        for one in collectors
    }
