"""Facts and labels in the metadata of agents, and how long discovery waits for more replies."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from netsonde.fleet.outcome import Outcome
from netsonde.fleet.search import belongs, quiet_sec, read_facts, read_labels

METADATA = {"version.kernel": "6.1", "version.agent": "2", "label.site": "ams", "rack": "r1"}


def test_metadata_has_facts_and_labels() -> None:
    assert read_facts(METADATA) == {"kernel": "6.1", "version": "2"}
    assert read_facts({"version.agent": "2"}) == {"version": "2"}
    assert read_labels(METADATA) == {"site": "ams", "rack": "r1"}
    values: list[object] = [None, [], "x", 7]
    for malformed in values:
        assert read_facts(malformed) == {}
        assert read_labels(malformed) == {}


@pytest.mark.parametrize(
    ("metadata", "belonging"),
    [({"subject.root": "a"}, True), ({"subject.root": "b"}, False), ({}, True), ([], True)],
)
def test_an_agent_belongs_to_its_root(metadata: Any, belonging: bool) -> None:
    assert belongs({"metadata": metadata}, "a") == belonging
    assert belongs({}, "a")


@pytest.mark.parametrize(("slowest_sec", "wait_sec"), [(0.0, 1.0), (0.25, 1.0), (2.0, 8.0)])
def test_silence_lasts_four_times_the_slowest_reply(slowest_sec: float, wait_sec: float) -> None:
    inbox = SimpleNamespace(heard_sec=10.0, gathering=SimpleNamespace(slowest_sec=slowest_sec))
    assert quiet_sec(cast(Any, inbox)) == 10.0 + wait_sec


def test_a_new_outcome_cannot_be_resumed() -> None:
    outcome = Outcome()
    assert not outcome.resumable
    assert outcome.error is None
