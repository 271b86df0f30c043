"""`netsonde packets`: retrieves packets from the capture buffers of hosts."""

from __future__ import annotations

import re
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..errors import EXIT_USAGE, NetsondeError
from ..fleet.outcome import Outcome
from .around import add_around_arguments, resolve_around
from .downloads import STANDARD_OUTPUT, find_viewer, opened_viewer, pipe_all, write_files
from .flows import clock_time
from .follow import add_follow_arguments, check_live_options, run_follow
from .output import say
from .requests import (
    Plan,
    add_client_arguments,
    check_replies,
    conclude,
    plan_request,
    print_outcome,
    read_nats_section,
    run_until_cut,
    whole,
)
from .stored_packets import (
    add_stored_arguments,
    check_stored_arguments,
    delete_results,
    list_results,
)
from .tables import Cell

if TYPE_CHECKING:
    from ..fleet.client import FleetClient
    from ..fleet.scatter import Reply

COLUMNS = ("HOST", "FRAMES", "BYTES", "FIRST", "LAST", "COMPLETE", "WHERE")
TIME_AGO = re.compile(r"-\d[\d.]*(ms|s|m|h|d)?$")


class DestinationError(NetsondeError):
    exit_code = EXIT_USAGE


class PacketsCommand:
    """Retrieve captured packets.

    Each host writes matching packets from its capture buffer to a pcapng file: in the object
    store of NATS, or on the host with --to file. --write downloads the file. --open shows it
    in Wireshark, or in tshark without a display. Packets of several hosts are merged by time;
    the interface of each packet is HOST/INTERFACE. --resume continues a download that broke.
    --around fetches the packets around an event. --list shows what hosts have stored, and
    --delete removes it. Times are RFC 3339 or like -5m. COMPLETE is yes if no captured packet of
    that time is missing.
    """

    name = "packets"

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--filter", metavar="BPF", help="only packets that match (all)")
        parser.add_argument("--start", metavar="T", help="not before T (start of the buffer)")
        parser.add_argument("--end", metavar="T", help="not after T (now)")
        parser.add_argument("--max-bytes", type=whole(1, 2**40), metavar="N", help="(64 MiB)")
        parser.add_argument("--max-packets", type=whole(1), metavar="N")
        parser.add_argument(
            "--to", choices=["object_store", "file"], default="object_store", help="(object_store)"
        )
        fetched = parser.add_mutually_exclusive_group()
        fetched.add_argument(
            "-w",
            "--write",
            metavar="FILE",
            help="download to FILE, from several hosts merged by time; - is standard output",
        )
        fetched.add_argument("--open", action="store_true", help="show in Wireshark or tshark")
        parser.add_argument(
            "--split", action="store_true", help="write one file for each host, with its name"
        )
        add_around_arguments(parser)
        add_stored_arguments(parser)
        add_follow_arguments(parser)
        add_client_arguments(parser)
        # argparse reads `-5m` as a flag unless it matches this pattern.
        parser._negative_number_matcher = TIME_AGO
        parser.set_defaults(timeout=300.0)

    def run(self, args: Namespace) -> int:
        check_stored_arguments(args)
        if args.list:
            return list_results(args)
        if args.delete is not None:
            return delete_results(args)
        check_live_options(args)
        if args.follow:
            return run_follow(args)
        if args.to == "file" and (args.open or args.write is not None):
            raise DestinationError("--write and --open need --to object_store.")
        if args.split and args.write in (None, STANDARD_OUTPUT):
            raise DestinationError("--split needs --write FILE.")
        viewer = find_viewer() if args.open else None
        resolve_around(args)
        plan = plan_request(args, "packets", packets_body(args))
        outcome = Outcome()
        run_until_cut(retrieve(args, plan, viewer, outcome), outcome)
        if viewer is None and args.write != STANDARD_OUTPUT:
            print_outcome(args, outcome, COLUMNS, describe_packets)
        return conclude(args, outcome)


async def retrieve(
    args: Namespace, plan: Plan, viewer: Sequence[str] | None, outcome: Outcome
) -> None:
    from ..fleet.client import connect

    async with connect(read_nats_section(args)) as client:
        await plan.ask(client, outcome)
        check_replies(outcome, describe_packets)
        if viewer is not None or args.write == STANDARD_OUTPUT:
            print_incomplete(outcome)
        await deliver(args, viewer, client, outcome)


async def deliver(
    args: Namespace, viewer: Sequence[str] | None, client: FleetClient, outcome: Outcome
) -> None:
    if not any(reply.accepted for reply in outcome.replies):
        return
    if viewer is not None:
        with opened_viewer(viewer) as pipe:
            await pipe_all(client, outcome, pipe, args.timeout)
    elif args.write == STANDARD_OUTPUT:
        await pipe_all(client, outcome, sys.stdout.buffer, args.timeout)
    elif args.write is not None:
        await write_files(client, outcome, args.write, args.timeout, split=args.split)


def packets_body(args: Namespace) -> dict[str, Any]:
    optional = {
        "filter": args.filter,
        "start": args.start,
        "end": args.end,
        "max_bytes": args.max_bytes,
        "max_packets": args.max_packets,
    }
    found = {name: value for name, value in optional.items() if value is not None}
    return {**found, "to": args.to}


def describe_packets(reply: Reply) -> Sequence[Sequence[Cell]]:
    body = reply.body
    return [
        (
            reply.host,
            body["packets"],
            body["bytes"],
            clock_time(body["first_time"]),
            clock_time(body["last_time"]),
            "yes" if body["complete"] else describe_gaps(body["gaps"]),
            body["path"] if "path" in body else f"{body['bucket']}/{body['object']}",
        )
    ]


def describe_gaps(gaps: Sequence[dict[str, str]]) -> str:
    """Returns a text such as `no: overwritten, limit`."""
    reasons = dict.fromkeys(gap["reason"] for gap in gaps)
    return f"no: {', '.join(reasons)}"


def print_incomplete(outcome: Outcome) -> None:
    """Prints on standard error, as standard output may carry the packets."""
    for reply in outcome.replies:
        if reply.accepted and not reply.body["complete"]:
            gaps = describe_gaps(reply.body["gaps"])
            say(f"{reply.host}: complete: {gaps}")
