"""The ways in which the xdp backend captures, and what a start request says to get each.

    added_up   the programs in the kernel add packets up by flow; nobody wants packets
    packets    they send copies up: a filter is set, here one that every frame passes
    dedicated  AF_XDP sockets take the frames instead of the host

A test with each_mode runs in all three; each_shared_mode leaves out the one that needs an
interface of its own.
"""

from __future__ import annotations

from typing import Any

import pytest

MODES: dict[str, dict[str, Any]] = {
    "added_up": {"record": False},
    "packets": {"filter": "ether[0] >= 0"},
    "dedicated": {"dedicated": True},
}
ATTACH = {
    "added_up": "added up in the kernel",
    "packets": "tcx ingress+egress, packets",
    "dedicated": "AF_XDP copy, native xdp",
}

each_mode = pytest.mark.parametrize("mode", MODES)
each_shared_mode = pytest.mark.parametrize("mode", ["added_up", "packets"])
