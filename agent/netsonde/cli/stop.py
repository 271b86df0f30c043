"""`netsonde stop`: stops the capture session of each targeted host."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from typing import TYPE_CHECKING

from .override import add_override_argument, override_body
from .requests import add_client_arguments, ask_fleet
from .tables import Cell, duration

if TYPE_CHECKING:
    from ..fleet.scatter import Reply

COLUMNS = ("HOST", "RESULT", "PACKETS", "DROPPED", "DROP RATE", "UPTIME")


class StopCommand:
    """Stop the capture session.

    Hosts reply after they have sent the remaining flow records.
    """

    name = "stop"

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--reason", help="reason for the agent's log and events (manual)")
        add_override_argument(parser)
        add_client_arguments(parser)
        parser.set_defaults(timeout=30.0)  # hosts first send the remaining records

    def run(self, args: Namespace) -> int:
        body = {"reason": args.reason} if args.reason is not None else {}
        return ask_fleet(args, "stop", body | override_body(args), COLUMNS, describe_end)


def describe_end(reply: Reply) -> Sequence[Sequence[Cell]]:
    body = reply.body
    return [
        (
            reply.host,
            body["status"],
            body["packets_captured"],
            body["packets_dropped"],
            f"{body['drop_rate']:.4%}",
            duration(body["uptime_sec"]),
        )
    ]
