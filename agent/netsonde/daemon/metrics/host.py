"""The metrics of the host and the agent: version, labels, clock, wanted capture, policy."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping

from prometheus_client.metrics_core import Metric

from ... import __version__
from ...capture.standing import Standing
from ...service.host_entry import WantedState
from .families import gauge, single


class HostMetrics:
    """labels: returns [agent.labels]."""

    def __init__(self, host: str, labels: Callable[[], Mapping[str, str]]) -> None:
        self._host = host
        self._labels = labels

    def collect(self) -> Iterable[Metric]:
        build = [((self._host, __version__), 1.0)]
        yield gauge("build_info", "Version of the running agent", build, "host", "version")
        labels = {label_name(key): value for key, value in sorted(self._labels().items())}
        values = (self._host, *labels.values())
        text = "Host token and labels of this host"
        yield gauge("host_info", text, [(values, 1.0)], "host", *labels)
        text = "Clock of the host at the scrape, in seconds since the epoch"
        yield gauge("time_seconds", text, single(time.time()))


def label_name(key: str) -> str:
    """Returns the Prometheus label for a key of [agent.labels]. Keys that differ only in `-` and
    `_` share one."""
    return f"label_{key.replace('-', '_')}"


class WantedMetrics:
    def __init__(self, standing: Standing) -> None:
        self._standing = standing

    def collect(self) -> Iterable[Metric]:
        standing = self._standing
        wanted, running = single(int(standing.wanted is not None)), single(int(standing.running))
        text = "1 while a policy, [session] or a persisted start wants a capture"
        yield gauge("capture_wanted", text, wanted)
        yield gauge("capture_running", "1 while a capture runs", running)
        text = "1 while an override changes the wanted capture"
        yield gauge("capture_drift", text, single(int(bool(standing.drift))))


class PolicyMetrics:
    """Revisions are absent on a host that no policy has reached."""

    def __init__(self, state: Callable[[], WantedState], name_taken: Callable[[], bool]) -> None:
        self._state = state
        self._name_taken = name_taken

    def collect(self) -> Iterable[Metric]:
        state = self._state()
        for name, text, revision in (
            ("wanted", "Policy revision that this host should have", state.wanted_rev),
            ("applied", "Policy revision that this host has applied", state.applied_rev),
        ):
            samples = [] if revision is None else single(revision)
            yield gauge(f"policy_{name}_revision", text, samples)
        text = "1 while the policy cannot be applied or the wanted capture cannot start"
        yield gauge("host_error", text, single(int(bool(state.error))))
        text = "1 while another agent of this name answers in place of this one"
        yield gauge("name_taken", text, single(int(self._name_taken())))
