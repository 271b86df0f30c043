"""A capture file through DPDK's own reader, net_pcap.

Requests cannot reach it, because they replay files with the backend `file`. This module drives
the core without an agent and gives its counters the names that a status uses.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import oracle
from deadlines import eventually
from netsonde.core.capture import JSON, Capture
from netsonde.core.values import CaptureSettings, FlowQuery
from packets import SECOND_NS, at, write_pcap

LISTED_BYTES_MAX = 16 << 20


def settings(interface: str, **options: Any) -> CaptureSettings:
    """`options` are fields of CaptureSettings, named as in a `start` request."""
    given = CaptureSettings(
        backend="dpdk",
        interface=interface,
        filter="",
        file_fd=-1,
        workers=1,
        snaplen=262144,
        ring_bytes=8 << 20,
        flow_table_size=65536,
        record_ring_size=65536,
        promiscuous=True,
        dedicated=False,
        tunnel_inner=False,
        replay_speed=0.0,
        metering=False,
        idle_timeout_sec=oracle.ACTIVE_NEVER_SEC,
        active_timeout_sec=oracle.ACTIVE_NEVER_SEC,
        buffer_bytes=0,
        buffer_dir="",
        buffer_disk_bytes=0,
    )
    return dataclasses.replace(given, **options)


async def capture(
    frames: list[bytes], directory: Path, **options: Any
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Returns status and flows after the whole file is read."""
    packets = [at(SECOND_NS + number * 1000, frame) for number, frame in enumerate(frames)]
    path = write_pcap(directory / "net_pcap.pcap", packets)
    capture = await Capture.open(settings(f"net_pcap0,rx_pcap={path}", **options))
    await eventually(lambda: capture.stats().finished, "the file to be read")
    query = FlowQuery(limit=10000, sort="recent", min_packets=1)
    batch = await capture.flows(query, None, encoding=JSON, bytes_max=LISTED_BYTES_MAX)
    stats = capture.stats()
    await capture.stop()
    await capture.close()
    status = dataclasses.asdict(stats)
    status["non_flow"] = dict(stats.non_flow)
    status["records_by_reason"] = dict(stats.records_by_reason)
    return status, json.loads(bytes(batch.data))
