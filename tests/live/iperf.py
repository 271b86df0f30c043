"""One TCP connection of iperf3 over the wire."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from typing import Any

from deadlines import TIMEOUT_SEC, eventually_now
from netns import HOST_ADDRESS, PEER_ADDRESS, Wire


def transfer(
    wire: Wire, megabytes: int, *, back: bool = False, prefix: Sequence[str] = ()
) -> dict[str, Any]:
    """Runs iperf3 from the host to the peer, or back, and returns its report. `prefix` goes
    before both commands."""
    iperf = [*prefix, "iperf3"]
    server = subprocess.Popen(
        [*wire.peer_prefix, *iperf, "-s", "-1", "-B", PEER_ADDRESS],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    try:
        # Poll for the listening socket: a test connection would use up its only client.
        listening = [*wire.peer_prefix, "cat", "/proc/net/tcp"]
        eventually_now(
            lambda: b":1451 00000000:0000 0A" in subprocess.check_output(listening),
            "iperf3 to listen",
        )
        command = [*iperf, "-c", PEER_ADDRESS, "-n", f"{megabytes}M", "-B", HOST_ADDRESS, "-J"]
        report = subprocess.check_output([*wire.prefix, *command, *(["-R"] if back else [])])
        server.wait(timeout=TIMEOUT_SEC)
    finally:
        server.kill()
        server.communicate()
    found: dict[str, Any] = json.loads(report)
    return found
