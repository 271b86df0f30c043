"""Small captures after public bug reports, with the right value of each.

The captures are outside the repository. NETSONDE_CASES names their directory (default:
`../shared/cases` next to the checkout). Without them, the golden captures of tests/wire and its
damaged files cover the same kinds.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from oracle import REPOSITORY

DIRECTORY = Path(
    os.environ.get("NETSONDE_CASES") or REPOSITORY.parent / "shared" / "cases"
).resolve()

PAIR = {"source_ip": "10.0.0.1", "dest_ip": "10.0.0.2", "dest_port": 53, "vlan": []}
SHAKE = {"source_ip": "10.0.0.1", "handshake_rtt_us": 200, "timestamps_late": 0}
TUNNEL = {"source_ip": "192.0.2.1", "source_port": 1111, "dest_ip": "192.0.2.2"}

# Name → (tunnel mode, the flows' fields in order of their start).
RECORDS: dict[str, tuple[str, list[dict[str, Any]]]] = {
    "a01-nflog": ("outer", [{**PAIR, "packets": 2, "reverse_packets": 1, "bytes": 106}]),
    "a02-chdlc": ("outer", [{**PAIR, "packets": 2, "reverse_packets": 1, "bytes": 106}]),
    "a04-pflog": ("outer", [{**PAIR, "packets": 1, "direction": "ingress"}]),
    "a05-priority-tag": ("outer", [{**PAIR, "packets": 2, "reverse_packets": 1}]),
    "a06-ip6-nothing": ("outer", [{"packets": 1, "bytes": 40, "protocol_number": 59}]),
    "a08-rst-before-syn": ("outer", [{"source_ip": "10.0.0.1", "packets": 2}]),
    "a13-version-2.2": ("outer", [{**PAIR, "packets": 2, "bytes": 1056, "l2_bytes": 1084}]),
    "b01-vxlan-8472": ("inner", [{**TUNNEL, "packets": 1, "bytes": 68}]),
    "b02-vxlan-gpe": ("inner", [{**TUNNEL, "packets": 1, "bytes": 68}]),
    "b07-pbb": ("outer", [{**TUNNEL, "packets": 1, "vlan": [100]}]),
    "b10-nsh": ("outer", [{**PAIR, "packets": 1}]),
    "c01-synack-before-syn": ("outer", [{**SHAKE, "packets": 4, "tcp_flags": 26}]),
    "c02-in-order": ("outer", [{**SHAKE, "packets": 4, "tcp_flags": 26}]),
    "c04-five-seconds-late": ("outer", [{**PAIR, "packets": 3, "timestamps_late": 1}]),
    "c05-cut": ("outer", [{**PAIR, "packets": 1}]),
}
REFUSED = {"a11-kuznetzov": "editcap -F pcapng"}


def cases() -> list[Path]:
    return sorted(DIRECTORY.glob("*.pcap"))
