"""Common parts of the client commands: flags, output and exit codes.

A command supplies its verb, its request body and a function that converts a reply to table
rows. Replies go to standard output. Missing hosts, errors and a summary line go to standard
error, so a pipe carries only replies. Each run has a journal (fleet/journal.py).
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
import uuid
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Callable, Collection, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config.file import DEFAULT_PATH, load
from ..config.sections import NatsSection
from ..errors import EXIT_OK, EXIT_REFUSED, UnreachableError
from ..fleet.targeting import Target, parse_limit, parse_target
from ..wire.quantity import counted
from ..wire.verbs import VERBS
from .files import replaced_file
from .output import notify, put_json, say
from .tables import Cell, print_table

if TYPE_CHECKING:
    from ..fleet.client import FleetClient
    from ..fleet.journal import Earlier, Journal
    from ..fleet.outcome import Outcome, Pace
    from ..fleet.request import Progress
    from ..fleet.scatter import Reply

Rows = Callable[["Reply"], Sequence[Sequence[Cell]]]
RESUME = "--resume"


# ---- flags ---------------------------------------------------------------------------------


def add_connection_arguments(parser: ArgumentParser) -> None:
    group = parser.add_argument_group("connection")
    group.add_argument("--nats", metavar="URL", help="NATS server (default: config, NATS_URL)")
    group.add_argument("--config", metavar="FILE", help=f"default: {DEFAULT_PATH}")
    group.add_argument("--root", help="root of all subjects (default: capture)")
    group.add_argument(
        "--jetstream-domain", metavar="D", help="JetStream domain of streams and buckets"
    )
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
        "--host", action="append", default=[], metavar="H", help="a host or glob; can be repeated"
    )
    group.add_argument(
        "--group",
        action="append",
        default=[],
        metavar="K=V",
        help="all hosts with this label; repeated: with each of the labels",
    )
    group.add_argument(
        "--select", metavar="EXPR", help="hosts by labels and facts: 'site = ams and host ~ web*'"
    )
    group.add_argument("--nodes", metavar="FILE", help="file with one host per line")
    group.add_argument(
        "--exclude",
        action="append",
        default=[],
        metavar="H",
        help="not this host or glob",
    )
    group.add_argument(
        "--inventory",
        metavar="FILE",
        help="the hosts that should reply: lines such as `web1 site=ams`",
    )
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


def add_outcome_arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--failed-to", metavar="FILE", help="write the hosts that are not ok to a nodes file"
    )


def add_client_arguments(parser: ArgumentParser) -> None:
    add_target_arguments(parser)
    add_pace_arguments(parser)
    parser.add_argument(
        "--request-id", metavar="ID", help="id of an earlier request, to repeat it safely"
    )
    parser.add_argument(
        RESUME, metavar="ID", help="continue a run that was cut off; other options are optional"
    )
    add_outcome_arguments(parser)
    add_connection_arguments(parser)


def relax(parser: ArgumentParser) -> None:
    """Makes every argument optional: a resumed run takes its request from the journal."""
    for action in parser._actions:
        action.required = False
        if not action.option_strings and action.nargs is None:
            action.nargs = "?"


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
        raise ArgumentTypeError(f"{text} is not more than 0 and at most 3600 seconds")
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
        "nats.jetstream_domain": args.jetstream_domain,
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
    return parse_target(
        args.host,
        args.group,
        args.nodes,
        exclude=args.exclude,
        inventory=args.inventory,
        select=args.select,
    )


def read_pace(args: Namespace) -> Pace:
    from ..fleet.outcome import Pace

    limit = parse_limit(args.limit) if args.limit is not None else None
    return Pace(args.timeout, limit, args.batch, args.max_failures)


# ---- requests ------------------------------------------------------------------------------


def ask_fleet(
    args: Namespace, verb: str, body: dict[str, Any], columns: Sequence[str], rows: Rows
) -> int:
    """Sends the verb to the targeted hosts and prints the replies. Returns the exit code."""
    return ask_fleet_outcome(args, verb, body, columns, rows)[0]


def ask_fleet_outcome(
    args: Namespace, verb: str, body: dict[str, Any], columns: Sequence[str], rows: Rows
) -> tuple[int, Outcome]:
    """Does what ask_fleet does. Returns the outcome too."""
    outcome = gather_outcome(args, verb, body)
    print_outcome(args, outcome, columns, rows)
    return conclude(args, outcome), outcome


def gather_outcome(args: Namespace, verb: str, body: dict[str, Any]) -> Outcome:
    """Sends the verb. A run that was cut off has its error in `outcome.error`."""
    from ..fleet.client import connect
    from ..fleet.outcome import Outcome

    # Report errors of the command line before connecting.
    address, plan = read_nats_section(args), plan_request(args, verb, body)
    outcome = Outcome()

    async def ask() -> None:
        async with connect(address) as client:
            await plan.ask(client, outcome)

    run_until_cut(ask(), outcome)
    return outcome


def run_until_cut(work: Coroutine[Any, Any, object], outcome: Outcome) -> None:
    """Runs the work. An error that ends a request early (Ctrl-C, NATS lost, denied by the server)
    is kept in `outcome.error`, so that `conclude` first shows what is known."""
    from ..fleet.denied import DeniedError

    try:
        asyncio.run(work)
    except (UnreachableError, DeniedError, KeyboardInterrupt) as error:
        if not (outcome.request_id or outcome.replies or outcome.absences):
            raise
        outcome.error = error


@dataclass(frozen=True, slots=True)
class Plan:
    """A request, or the rest of one that was cut off."""

    verb: str
    body: dict[str, Any]
    target: Target
    pace: Pace
    request_id: str | None
    earlier: Earlier | None = None
    encoded: Collection[str] = ()  # fields of the replies that stay JSON text

    async def ask(self, client: FleetClient, outcome: Outcome) -> None:
        """Fills in the outcome and the journal."""
        outcome.request_id = self.request_id or uuid.uuid4().hex
        outcome.resumable = VERBS[self.verb].changes
        hosts = None
        if self.earlier is not None:
            outcome.include_earlier(self.earlier.replies.values(), self.earlier.forgotten())
            hosts = self.earlier.left()
        journal = open_journal(self, client.address.root, outcome.request_id)
        try:
            with show_progress(self.verb) as progress:
                await client.ask(
                    self.verb,
                    self.body,
                    self.target,
                    self.pace,
                    progress=progress,
                    watcher=journal,
                    outcome=outcome,
                    hosts=hosts,
                    encoded=self.encoded,
                )
        finally:
            if journal is not None:
                journal.close(outcome)


def plan_request(args: Namespace, verb: str, body: dict[str, Any]) -> Plan:
    """Raises ResumeError if the journal of --resume does not fit the command."""
    pace = read_pace(args)
    if args.resume is None:
        return Plan(verb, body, read_target(args), pace, args.request_id)
    from ..fleet.journal import ResumeError, load
    from ..fleet.targeting import Target

    earlier = load(args.resume)
    run = earlier.run
    given = {name: value for name, value in body.items() if value is not None}
    if run.verb != verb or any(run.body.get(name) != value for name, value in given.items()):
        raise ResumeError(f"Run {args.resume} was another request: {run.verb} {run.body}.")
    if not VERBS[verb].changes:
        raise ResumeError(f"{verb} changes nothing on the hosts. Send it again instead.")
    pace = replace(
        pace,
        batch=pace.batch or run.batch,
        failures_max=run.max_failures if pace.failures_max is None else pace.failures_max,
    )
    if args.root is None:
        args.root = run.root
    return Plan(verb, run.body, Target(), pace, args.resume, earlier)


def open_journal(plan: Plan, root: str, request_id: str) -> Journal | None:
    from ..fleet.journal import Journal, Run, runs_directory

    run = Run(request_id=request_id, verb=plan.verb, root=root, body=plan.body, time=time.time())
    changes = VERBS[plan.verb].changes
    try:
        return Journal(run, plan.pace, brief=not changes)
    except OSError as error:
        if changes:
            notify(f"no journal, --resume will not work: {runs_directory()}: {error.strerror}")
        return None


# ---- output --------------------------------------------------------------------------------


def print_outcome(args: Namespace, outcome: Outcome, columns: Sequence[str], rows: Rows) -> None:
    """Prints a row or an object for each reply. The hosts without one follow in `conclude`."""
    if args.json:
        check_replies(outcome, rows)
        print_json(outcome)
        return
    found = ReadableRows(outcome, rows)
    if any(reply.accepted for reply in outcome.replies) or any(True for _ in found):
        print_table(columns, found)


def conclude(args: Namespace, outcome: Outcome) -> int:
    """Prints failures and the summary, writes --failed-to, and returns the exit code. Raises the
    error of a run that was cut off."""
    print_failures(outcome, describe_target(args), with_refusals=not args.json)
    for reply in outcome.replies:
        for warning in source_warnings(reply) if reply.accepted else []:
            notify(f"{reply.host}: {warning}")
    print_summary(outcome)
    write_failed(args, outcome)
    if outcome.error is not None:
        if outcome.resumable and outcome.absences:
            notify(f"to continue: netsonde {args.command} --resume {outcome.request_id}")
        raise outcome.error
    return EXIT_OK if outcome.complete else EXIT_REFUSED


def describe_target(args: Namespace) -> str:
    return f"run {args.resume}" if getattr(args, "resume", None) else read_target(args).describe()


def print_summary(outcome: Outcome) -> None:
    if outcome.replies or outcome.absences or outcome.error is not None:
        say(outcome.summary())


def write_failed(args: Namespace, outcome: Outcome) -> None:
    if args.failed_to is not None:
        with replaced_file(args.failed_to) as file:
            file.write("".join(f"{host}\n" for host in outcome.failed_hosts()).encode())


def source_warnings(reply: Reply) -> list[str]:
    """Returns what a reply says about a cut file, packets that were not decoded, records that were
    not sent, and subjects that the NATS server denied to the agent."""
    found = []
    unsent, bus = reply.body.get("records_unsent"), reply.body.get("bus")
    if isinstance(unsent, int) and unsent > 0:
        found.append(f"warning: {counted(unsent, 'record was', 'records were')} not sent")
    denied = bus.get("denied") if isinstance(bus, dict) else None
    subjects = denied if isinstance(denied, list) else []
    found += [f"warning: the NATS server denies {one} to the agent" for one in subjects]
    file, undecoded = reply.body.get("file"), reply.body.get("undecoded")
    if isinstance(file, dict) and file.get("truncated"):
        found.append(f"warning: the file is cut or damaged: {file.get('detail')}")
    for one in undecoded if isinstance(undecoded, list) else []:
        if isinstance(one, dict):
            packets = one.get("packets")
            words = counted(packets, "packet") if isinstance(packets, int) else f"{packets} packets"
            kind = f"link type {one.get('linktype')} ({one.get('name')})"
            found.append(f"{words} not decoded: {kind}: {one.get('detail')}")
    return found


def check_replies(outcome: Outcome, rows: Rows) -> None:
    """Makes each malformed reply that host's failure."""
    for _ in readable_rows(outcome, rows):
        pass


def readable_rows(outcome: Outcome, rows: Rows) -> Iterator[Sequence[Cell]]:
    """Yields rows of accepted replies. A malformed reply counts as that host's failure."""
    for index, reply in enumerate(outcome.replies):
        for one in reply.twins or (reply,):
            if not one.accepted:
                continue
            try:
                yield from checked(rows(one))
            except (LookupError, TypeError, ValueError, AttributeError, OverflowError) as error:
                why = f"malformed reply: {type(error).__name__}: {error}"
                if not reply.twins:
                    outcome.replies[index] = one.unreadable(one.host, why, one.elapsed_sec)


@dataclass(frozen=True, slots=True)
class ReadableRows:
    """The rows of readable_rows, made again by each iteration: only those of one reply are in
    memory."""

    outcome: Outcome
    rows: Rows

    def __iter__(self) -> Iterator[Sequence[Cell]]:
        return readable_rows(self.outcome, self.rows)


def checked(rows: Sequence[Sequence[Cell]]) -> Sequence[Sequence[Cell]]:
    for row in rows:
        for cell in row:
            if not isinstance(cell, str | int | float):
                raise TypeError(f"{cell!r} is not a string or number")
    return rows


def print_json(outcome: Outcome) -> None:
    """Prints one object for each host."""
    objects = [(reply.host, reply.body) for reply in outcome.replies]
    objects += [(one.host, {"host": one.host, "absent": one.reason}) for one in outcome.absences]
    for _, body in sorted(objects, key=lambda item: item[0]):
        put_json(body)


def print_failures(outcome: Outcome, target: str, *, with_refusals: bool) -> None:
    for reply in outcome.replies:
        if with_refusals and not reply.accepted:
            name, detail = reply.body.get("error", "error"), str(reply.body.get("detail", ""))
            field = str(reply.body.get("field", ""))
            field = f" ({field})" if field and field not in detail else ""
            say(f"{reply.host}: {reply.code} {name}{field}: {detail}")
    for absence in outcome.absences:
        say(f"{absence.host}: {absence.reason}")
    for warning in outcome.warnings:
        notify(warning)
    if not outcome.replies and not outcome.absences and outcome.error is None:
        notify(f"no agent replied ({target})")


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
