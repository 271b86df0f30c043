"""`netsonde export on|off`: exports flow records of running sessions to a NetFlow collector."""

from __future__ import annotations

from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..config.addresses import collector_address, endpoint
from .override import add_override_argument, override_body
from .requests import add_client_arguments, ask_fleet, whole
from .tables import Cell

if TYPE_CHECKING:
    from ..fleet.scatter import Reply

COLUMNS = ("HOST", "EXPORT", "COLLECTOR", "INTERVAL")
VERSIONS = {"5": 5, "9": 9, "10": 10, "ipfix": 10}


class ExportCommand:
    """Start or stop the export of flow records to a NetFlow or IPFIX collector.

    A session can have several collectors. A new address or port adds one, a known one changes
    its settings, and 'off' removes it. Metering is turned on if it is off.
    """

    name = "export"

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("switch", choices=["on", "off"])
        parser.add_argument(
            "--collector-ip", required=True, metavar="IP", help="the collector's IP address"
        )
        parser.add_argument(
            "--collector-port", required=True, type=whole(1, 65535), metavar="PORT", help="UDP port"
        )
        add_export_arguments(parser)
        add_override_argument(parser)
        add_client_arguments(parser)

    def run(self, args: Namespace) -> int:
        body = export_body(args, args.collector_ip, args.collector_port)
        if args.switch == "off":
            body["enable"] = False
        return ask_fleet(
            args, "netflow.export.enable", body | override_body(args), COLUMNS, describe_export
        )


def add_export_arguments(parser: ArgumentParser, prefix: str = "--") -> None:
    parser.add_argument(
        f"{prefix}version",
        dest="export_version",
        choices=list(VERSIONS),
        help="NetFlow 5 or 9; 10 is IPFIX (9)",
    )
    parser.add_argument(
        f"{prefix}interval",
        dest="export_interval",
        type=whole(1, 3600),
        metavar="S",
        help="export long flows every S seconds (60)",
    )


def export_body(args: Namespace, address: str, port: int) -> dict[str, Any]:
    body: dict[str, Any] = {"collector_ip": address, "collector_port": port}
    if args.export_interval is not None:
        body["export_interval_sec"] = args.export_interval
    if args.export_version is not None:
        body["version"] = VERSIONS[args.export_version]
    return body


def collector(text: str) -> tuple[str, int]:
    """Parses `198.18.0.1:2055` or `[fd00::1]:4739`. An argparse type."""
    address, _, port = text.rpartition(":")
    try:
        return collector_address(address.removeprefix("[").removesuffix("]")), whole(1, 65535)(port)
    except ValueError as error:
        raise ArgumentTypeError(f"not IP:PORT: {error}") from None


def describe_export(reply: Reply) -> Sequence[Sequence[Cell]]:
    body = reply.body
    where = endpoint(body["collector_ip"], body["collector_port"])
    return [(reply.host, body["status"], where, f"{body['export_interval_sec']}s")]
