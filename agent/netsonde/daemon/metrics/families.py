"""Builds metric families from samples."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily

Sample = tuple[Sequence[str], float]


def gauge(name: str, what: str, samples: Iterable[Sample], *labels: str) -> GaugeMetricFamily:
    """Returns a family with the help text `what`. A sample has the values of `labels`, in order."""
    family = GaugeMetricFamily(f"netsonde_{name}", what, labels=labels)
    for values, value in samples:
        family.add_metric(values, value)
    return family


def counter(name: str, what: str, samples: Iterable[Sample], *labels: str) -> CounterMetricFamily:
    """Returns a family like `gauge`. `name` has no `_total`."""
    family = CounterMetricFamily(f"netsonde_{name}", what, labels=labels)
    for values, value in samples:
        family.add_metric(values, value)
    return family


def single(value: float) -> list[Sample]:
    """Returns the sample of a metric without labels."""
    return [((), value)]
