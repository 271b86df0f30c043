"""`netsonde metrics`: shows the rates of each host over its last metrics interval."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from typing import TYPE_CHECKING

from .requests import add_client_arguments, ask_fleet
from .tables import Cell

if TYPE_CHECKING:
    from ..fleet.scatter import Reply

COLUMNS = ("HOST", "MBIT/S", "PACKETS/S", "AVG BYTES", "DROP %", "BUFFER %", "FLOWS")


class MetricsCommand:
    """Show rates over the last full metrics interval."""

    name = "metrics"

    def add_arguments(self, parser: ArgumentParser) -> None:
        add_client_arguments(parser)

    def run(self, args: Namespace) -> int:
        return ask_fleet(args, "metrics", {}, COLUMNS, describe_rates)


def describe_rates(reply: Reply) -> Sequence[Sequence[Cell]]:
    body = reply.body
    return [
        (
            reply.host,
            float(body["throughput_mbps"]),
            body["packets_per_sec"],
            float(body["avg_packet_size"]),
            float(body["drop_rate_percent"]),
            float(body["buffer_usage_percent"]),
            body["active_flows"],
        )
    ]
