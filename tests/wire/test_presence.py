"""Checks that the shared traces are present: their absence must not look like success."""

from __future__ import annotations

import hashlib
import os

import pytest

import oracle


def test_shared_traces_are_present_and_unaltered() -> None:
    found = oracle.traces()
    if not found and "NETSONDE_TRACES" not in os.environ:
        pytest.xfail(
            f"THE SHARED TRACES ARE ABSENT ({oracle.DIRECTORY}): no trace has been checked "
            "against its oracle. Set NETSONDE_TRACES to their directory."
        )
    assert len(found) == oracle.TRACES_EXPECTED, f"NETSONDE_TRACES={oracle.DIRECTORY}"
    for trace in found:
        sha256 = hashlib.sha256(trace.path.read_bytes()).hexdigest()
        assert sha256 == trace.facts["sha256"], trace.path
