"""The modes of the xdp backend and the start options that select each.

    added_up   kernel programs add packets up by flow; no consumer needs packets
    packets    kernel programs send copies to user space: a filter is set that every frame passes
    dedicated  AF_XDP sockets receive the frames instead of the host

A test with each_mode runs in all three. each_shared_mode skips dedicated, which needs a dedicated
interface.
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
