"""`netsonde start`: starts a capture session on each targeted host."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .encrypt import encryption_body
from .export import add_export_arguments, collector, export_body
from .meter import add_timeout_arguments, meter_body
from .override import add_override_argument, override_body
from .requests import add_client_arguments, ask_fleet, whole
from .tables import Cell

if TYPE_CHECKING:
    from ..fleet.scatter import Reply


class StartCommand:
    """Start a capture session.

    A host has one session at a time. The agent's defaults apply to missing options. With
    --meter, flow records start with the first packet.
    """

    name = "start"

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "-i",
            "--interface",
            required=True,
            help="names and patterns, or any: eth0,'en*'; path for the backend file",
        )
        parser.add_argument("-b", "--backend", required=True, help="see 'netsonde backends'")
        parser.add_argument("--filter", metavar="BPF", help="capture only matching packets")
        parser.add_argument("--buffer-mb", type=whole(1), metavar="MB", help="buffer size (256)")
        parser.add_argument("--no-record", action="store_true", help="meter only, no buffer")
        parser.add_argument("--snaplen", type=whole(1), metavar="N", help="bytes/packet (262144)")
        parser.add_argument("--no-promiscuous", action="store_true")
        parser.add_argument("--workers", type=whole(1), metavar="N", help="capture threads (1)")
        parser.add_argument(
            "--dedicated", action="store_true", help="the interface carries only traffic to capture"
        )
        parser.add_argument(
            "--replay-speed", type=float, metavar="X", help="file: 1 is real time, 0 no delay (0)"
        )
        parser.add_argument("--meter", action="store_true", help="send flow records")
        parser.add_argument(
            "--encrypt", metavar="KEYFILE", help="encrypt the buffer with the hosts' key file"
        )
        add_timeout_arguments(parser)
        parser.add_argument(
            "--export",
            type=collector,
            metavar="IP:PORT",
            help="send flow records to this NetFlow collector; implies --meter",
        )
        add_export_arguments(parser, "--export-")
        parser.add_argument(
            "--persist", action="store_true", help="start again after an agent restart, until stop"
        )
        add_override_argument(parser)
        add_client_arguments(parser)
        parser.set_defaults(timeout=30.0)  # DPDK may allocate much memory

    def run(self, args: Namespace) -> int:
        columns = ["HOST", "RESULT", "SESSION", "INTERFACE", "BACKEND", "BUFFER MB"]
        return ask_fleet(args, "start", start_body(args), columns, describe_session)


def start_body(args: Namespace) -> dict[str, Any]:
    """Returns the request, only with the given options."""
    optional = {
        "buffer_size_mb": args.buffer_mb,
        "record": False if args.no_record else None,
        "filter": args.filter,
        "snaplen": args.snaplen,
        "promiscuous": False if args.no_promiscuous else None,
        "workers": args.workers,
        "dedicated": True if args.dedicated else None,
        "replay_speed": args.replay_speed,
        "metering": meter_body(args, enable=True) if args.meter else None,
        "encryption": encryption_body(args.encrypt) if args.encrypt is not None else None,
        "export": export_body(args, *args.export) if args.export else None,
        "persist": True if args.persist else None,
    }
    return {
        "interface": args.interface,  # None, like the backend, only for a resumed run
        "backend": args.backend,
        **{name: value for name, value in optional.items() if value is not None},
        **override_body(args),
    }


def describe_session(reply: Reply) -> Sequence[Sequence[Cell]]:
    body = reply.body
    return [
        (
            reply.host,
            body["status"],
            body["session_id"],
            body["interface"],
            body["backend"],
            body["buffer_size_mb"],
        )
    ]
