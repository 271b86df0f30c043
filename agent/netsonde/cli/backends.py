"""`netsonde backends`: the capture backends of each host, and why some are unavailable."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from typing import TYPE_CHECKING

from .requests import add_client_arguments, ask_fleet
from .tables import Cell

if TYPE_CHECKING:
    from ..fleet.scatter import Reply


class BackendsCommand:
    """List the capture backends of hosts, and why one is unavailable."""

    name = "backends"

    def add_arguments(self, parser: ArgumentParser) -> None:
        add_client_arguments(parser)
        parser.set_defaults(timeout=10.0)  # the check for DPDK runs in a separate process

    def run(self, args: Namespace) -> int:
        columns = ["HOST", "BACKEND", "STATE", "FEATURES OR REASON"]
        return ask_fleet(args, "backends", {}, columns, list_backends)


def list_backends(reply: Reply) -> Sequence[Sequence[Cell]]:
    return [
        (reply.host, backend["name"], "available", ", ".join(backend["supported_features"]))
        for backend in reply.body["available"]
    ] + [
        (reply.host, backend["name"], "unavailable", backend["reason"])
        for backend in reply.body["unavailable"]
    ]
