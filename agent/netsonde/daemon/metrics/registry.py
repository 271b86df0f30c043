"""The registry of everything that a scrape returns."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

from prometheus_client.metrics_core import Metric
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector, CollectorRegistry


class Part(Protocol):
    """Gathers the metrics of one part of the agent."""

    def collect(self) -> Iterable[Metric]: ...


class _Collected(Collector):
    def __init__(self, parts: Sequence[Part]) -> None:
        self._parts = parts

    def collect(self) -> Iterable[Metric]:
        for part in self._parts:
            yield from part.collect()


def registry_of(parts: Sequence[Part]) -> CollectorRegistry:
    """Returns a registry with those parts and the metrics of the process (`process_…`)."""
    registry = CollectorRegistry(auto_describe=False)
    ProcessCollector(registry=registry)
    registry.register(_Collected(parts))
    return registry
