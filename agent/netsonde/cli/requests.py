"""Common parts of the client commands: flags, output and exit codes.

A command supplies its verb, its request body and a function that converts a reply to table
rows. Replies go to standard output. Missing hosts and errors go to standard error, so a pipe
carries only replies.
"""

from __future__ import annotations

import asyncio
import os
import sys
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from ..config.file import DEFAULT_PATH, load
from ..config.sections import NatsSection
from ..errors import EXIT_OK, EXIT_REFUSED
from ..fleet.targeting import Target, parse_limit, parse_target
from .tables import Cell, print_table, visible

if TYPE_CHECKING:
    from ..fleet.client import Outcome, Pace, Progress
    from ..fleet.scatter import Reply

Rows = Callable[["Reply"], Sequence[Sequence[Cell]]]


# ---- flags ---------------------------------------------------------------------------------


def add_connection_arguments(parser: ArgumentParser) -> None:
    group = parser.add_argument_group("connection")
    group.add_argument("--nats", metavar="URL", help="NATS server (default: config, NATS_URL)")
    group.add_argument("--config", metavar="FILE", help=f"default: {DEFAULT_PATH}")
    group.add_argument("--root", help="root of all subjects (default: capture)")
    group.add_argument("--creds", metavar="FILE", help="NATS credentials file")
    group.add_argument("--nkey", metavar="FILE", help="nkey seed file of the NATS user")
    group.add_argument("--tls-ca", metavar="FILE", help="CA certificates for the server")
    group.add_argument("--tls-cert", metavar="FILE", help="client certificate")
    group.add_argument("--tls-key", metavar="FILE", help="key of the client certificate")


def add_target_arguments(
    parser: ArgumentParser, *, json_help: str = "print the JSON replies, one per line"
) -> None:
    group = parser.add_argument_group("targets (default: all hosts)")
    group.add_argument(
        "--host", action="append", default=[], metavar="H", help="a host; can be repeated"
    )
    group.add_argument("--group", metavar="K=V", help="all hosts with this label")
    group.add_argument("--nodes", metavar="FILE", help="file with one host per line")
    parser.add_argument(
        "--timeout",
        type=positive_seconds,
        default=2.0,
        metavar="S",
        help="timeout for replies (%(default)g s)",
    )
    parser.add_argument("--json", action="store_true", help=json_help)


def add_pace_arguments(parser: ArgumentParser) -> None:
    group = parser.add_argument_group("pace")
    group.add_argument("--limit", metavar="N|N%", help="only a number or percentage of the hosts")
    group.add_argument("--batch", type=whole(1), metavar="N", help="send to N hosts at a time")
    group.add_argument(
        "--max-failures",
        type=whole(0),
        metavar="N",
        help="stop after more than N failed hosts; without --batch, one host at a time",
    )


def add_client_arguments(parser: ArgumentParser) -> None:
    add_target_arguments(parser)
    add_pace_arguments(parser)
    parser.add_argument(
        "--request-id", metavar="ID", help="id of an earlier request, to repeat it safely"
    )
    add_connection_arguments(parser)


def whole(smallest: int, largest: int = 2**63 - 1) -> Callable[[str], int]:
    """Returns an argparse type: an integer within limits."""

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise ArgumentTypeError(f"{text!r} is not a whole number") from None
        if not smallest <= value <= largest:
            raise ArgumentTypeError(f"{value} is not between {smallest} and {largest}")
        return value

    return parse


def positive_seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        raise ArgumentTypeError(f"{text!r} is not a number") from None
    if not 0 < seconds <= 3600:
        raise ArgumentTypeError(f"{text} is not between 0 and 3600 seconds")
    return seconds


def read_nats_section(args: Namespace) -> NatsSection:
    """Reads the NATS address: flags, then the configuration, NATS_URL, the default."""
    path = Path(args.config) if args.config else None
    own = DEFAULT_PATH
    if path is None and own.exists() and not os.access(own, os.R_OK):
        path = Path(os.devnull)  # the agent's file may be unreadable for this user
    overrides = {
        "nats.servers": [url.strip() for url in args.nats.split(",")] if args.nats else None,
        "nats.root": args.root,
        "nats.creds": args.creds,
        "nats.nkey": args.nkey,
        "nats.tls_ca": args.tls_ca,
        "nats.tls_cert": args.tls_cert,
        "nats.tls_key": args.tls_key,
    }
    section = load(path, overrides=overrides).nats
    url = os.environ.get("NATS_URL")
    if url and not args.nats and section.servers == NatsSection().servers:
        overrides["nats.servers"] = [part.strip() for part in url.split(",")]
        section = load(path, overrides=overrides).nats
    return section


def read_target(args: Namespace) -> Target:
    return parse_target(args.host, args.group, args.nodes)


def read_pace(args: Namespace) -> Pace:
    from ..fleet.client import Pace

    limit = parse_limit(args.limit) if args.limit is not None else None
    return Pace(args.timeout, limit, args.batch, args.max_failures)


# ---- requests and output -------------------------------------------------------------------


def ask_fleet(
    args: Namespace, verb: str, body: dict[str, Any], columns: Sequence[str], rows: Rows
) -> int:
    """Sends the verb to the targeted hosts and prints the replies. Returns the exit code."""
    outcome = gather_outcome(args, verb, body)
    print_outcome(args, outcome, columns, rows)
    return EXIT_OK if outcome.complete else EXIT_REFUSED


def print_outcome(args: Namespace, outcome: Outcome, columns: Sequence[str], rows: Rows) -> None:
    if args.json:
        print_json(outcome)
    else:
        found = readable_rows(outcome, rows)
        if any(reply.accepted for reply in outcome.replies):
            print_table(columns, found)
    print_failures(outcome, read_target(args), with_refusals=not args.json)
    for reply in outcome.replies:
        for warning in source_warnings(reply) if reply.accepted else []:
            print(f"netsonde: {visible(f'{reply.host}: {warning}')}", file=sys.stderr)


def source_warnings(reply: Reply) -> list[str]:
    """Returns what a reply says about a cut file and about packets that were not decoded."""
    found = []
    file, undecoded = reply.body.get("file"), reply.body.get("undecoded")
    if isinstance(file, dict) and file.get("truncated"):
        found.append(f"warning: the file is cut or damaged: {file.get('detail')}")
    for one in undecoded if isinstance(undecoded, list) else []:
        if isinstance(one, dict):
            kind = f"link type {one.get('linktype')} ({one.get('name')})"
            found.append(f"{one.get('packets')} packets not decoded: {kind}: {one.get('detail')}")
    return found


def readable_rows(outcome: Outcome, rows: Rows) -> list[Sequence[Cell]]:
    """Returns rows of accepted replies. A malformed reply counts as that host's failure."""
    found: list[Sequence[Cell]] = []
    for index, reply in enumerate(outcome.replies):
        if reply.accepted:
            try:
                found += checked(rows(reply))
            except (LookupError, TypeError, ValueError, AttributeError, OverflowError) as error:
                why = f"malformed reply: {type(error).__name__}: {error}"
                outcome.replies[index] = reply.unreadable(reply.host, why, reply.elapsed_sec)
    return found


def checked(rows: Sequence[Sequence[Cell]]) -> Sequence[Sequence[Cell]]:
    for row in rows:
        for cell in row:
            if not isinstance(cell, str | int | float):
                raise TypeError(f"{cell!r} is not a string or number")
    return rows


def gather_outcome(args: Namespace, verb: str, body: dict[str, Any]) -> Outcome:
    from ..fleet.client import connect

    # Report errors of the command line before connecting.
    address, target, pace = read_nats_section(args), read_target(args), read_pace(args)

    async def ask() -> Outcome:
        async with connect(address) as client:
            with show_progress(verb) as progress:
                return await client.ask(
                    verb, body, target, pace, request_id=args.request_id, progress=progress
                )

    return asyncio.run(ask())


def print_json(outcome: Outcome) -> None:
    for reply in outcome.replies:
        print(msgspec.json.encode(reply.body).decode())


def print_failures(outcome: Outcome, target: Target, *, with_refusals: bool) -> None:
    for reply in outcome.replies:
        if with_refusals and not reply.accepted:
            name, detail = reply.body.get("error", "error"), reply.body.get("detail", "")
            field = f" ({reply.body['field']})" if "field" in reply.body else ""
            text = visible(f"{reply.host}: {reply.code} {name}{field}: {detail}")
            print(text, file=sys.stderr)
    for absence in outcome.absences:
        print(f"{absence.host}: {absence.reason}", file=sys.stderr)
    for warning in outcome.warnings:
        print(f"netsonde: {visible(warning)}", file=sys.stderr)
    if not outcome.replies and not outcome.absences:
        print(f"netsonde: no agent replied ({target.describe()})", file=sys.stderr)


@contextmanager
def show_progress(verb: str) -> Iterator[Progress | None]:
    """Shows the number of replies on standard error, if that is a terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console

    with Console(stderr=True).status(f"{verb}: waiting for replies") as status:
        yield lambda done, total: status.update(
            f"{verb}: {done} of {total} replied" if total else f"{verb}: {done} replied"
        )
