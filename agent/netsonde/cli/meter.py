"""`netsonde meter on|off`: turns flow records on or off in running sessions."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .override import add_override_argument, override_body
from .requests import add_client_arguments, ask_fleet, whole
from .tables import Cell

if TYPE_CHECKING:
    from ..fleet.scatter import Reply


class MeterCommand:
    """Turn flow records on or off in the running session."""

    name = "meter"

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("switch", choices=["on", "off"])
        add_timeout_arguments(parser)
        add_override_argument(parser)
        add_client_arguments(parser)

    def run(self, args: Namespace) -> int:
        body = meter_body(args, enable=None if args.switch is None else args.switch == "on")
        columns = ["HOST", "METERING", "FLOW TIMEOUT", "MESSAGE"]
        return ask_fleet(
            args, "flow.meter.enable", body | override_body(args), columns, describe_meter
        )


def add_timeout_arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--flow-timeout",
        type=whole(1, 86_400),
        metavar="S",
        help="a flow ends after S seconds without a packet (300)",
    )
    parser.add_argument(
        "--active-timeout",
        type=whole(1, 86_400),
        metavar="S",
        help="send records of long flows every S seconds (60)",
    )


def meter_body(args: Namespace, *, enable: bool | None) -> dict[str, Any]:
    """enable: None for a resumed run."""
    body: dict[str, Any] = {"enable": enable}
    if args.flow_timeout is not None:
        body["flow_timeout_sec"] = args.flow_timeout
    if args.active_timeout is not None:
        body["active_timeout_sec"] = args.active_timeout
    return body


def describe_meter(reply: Reply) -> Sequence[Sequence[Cell]]:
    body = reply.body
    return [(reply.host, body["status"], f"{body['flow_timeout_sec']}s", body["message"])]
