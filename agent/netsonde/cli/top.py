"""`netsonde top`: shows the busiest hosts and the largest flows, refreshed periodically."""

from __future__ import annotations

import asyncio
import heapq
import os
import shutil
import sys
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeAlias

from ..errors import EXIT_OK, EXIT_REFUSED
from . import tui
from .flows import COLUMNS as FLOW_COLUMNS
from .flows import ROWS, list_flows
from .metrics import COLUMNS as HOST_COLUMNS
from .metrics import describe_rates
from .output import put_lines, say
from .requests import (
    add_connection_arguments,
    add_outcome_arguments,
    add_pace_arguments,
    add_target_arguments,
    check_replies,
    positive_seconds,
    print_failures,
    print_json,
    print_summary,
    read_nats_section,
    read_pace,
    read_target,
    readable_rows,
    whole,
    write_failed,
)
from .tables import Cell
from .top_tables import WIDTH, flow_lines, host_lines

if TYPE_CHECKING:
    from ..fleet.client import FleetClient
    from ..fleet.outcome import Outcome, Pace
    from ..fleet.targeting import Target

Show: TypeAlias = Callable[["Outcome", "Outcome"], None]

RATE = HOST_COLUMNS.index("MBIT/S")


class TopCommand:
    """Show the busiest hosts and flows, refreshed until Ctrl-C.

    On a terminal with Textual (extra [tui]) the screen sorts by current rates and has keys: press
    ? for the list. Without Textual, in a pipe, or with -n, each round has two tables: hosts by
    their rate over the last metrics interval, and flows by their total so far. They are as wide as
    the terminal, and 80 columns in a pipe. --json prints the replies to `metrics` and `flows`.
    """

    name = "top"

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "-n", "--count", type=whole(1), metavar="N", help="stop after N rounds (never)"
        )
        parser.add_argument(
            "--interval", type=positive_seconds, default=2.0, metavar="S", help="refresh (2 s)"
        )
        parser.add_argument(
            "--flows", type=whole(1, 10_000), default=20, metavar="N", help="show N flows (20)"
        )
        parser.add_argument("--sort", choices=["bytes", "packets"], default="bytes", help="(bytes)")
        add_target_arguments(parser)
        add_pace_arguments(parser)
        add_outcome_arguments(parser)
        add_connection_arguments(parser)

    def run(self, args: Namespace) -> int:
        try:
            return asyncio.run(show_screen(args) if has_screen(args) else watch(args))
        except KeyboardInterrupt:
            return EXIT_OK


def has_screen(args: Namespace) -> bool:
    """Returns whether to use the screen of Textual instead of tables."""
    terminal = sys.stdin.isatty() and os.environ.get("TERM", "dumb") != "dumb"
    return drawn(args) and args.count is None and terminal and tui.available()


async def show_screen(args: Namespace) -> int:
    """Shows the screen until the user leaves it. Returns the exit code. Raises the error that
    ended it."""
    from ..fleet.client import connect
    from .tui.feed import Feed
    from .tui.model import Model
    from .tui.packets import connection_words
    from .tui.view import TopApp

    address, target, pace = read_nats_section(args), read_target(args), read_pace(args)
    model = Model()
    model.flows.choose({"bytes": "rate", "packets": "packets/s"}[args.sort])

    def notify(text: str) -> None:
        app.notice = text

    async with connect(address, lasting=True, notify=notify) as client:
        feed = Feed(client, target, pace)
        words = connection_words(args)
        app = TopApp(feed.take, model, interval_sec=args.interval, connection=words)
        await app.run_async()
    if app.failure is not None:
        raise app.failure
    return EXIT_OK


async def watch(args: Namespace) -> int:
    """Shows rounds until --count. Returns the exit code of the last round."""
    from ..fleet.client import connect

    address, target, pace = read_nats_section(args), read_target(args), read_pace(args)
    rounds, due_sec = 0, time.monotonic()
    last: Outcome | None = None

    def notify(text: str) -> None:
        if not sys.stdout.isatty():  # the screen shows missing replies
            say(f"netsonde: {text}")

    async with connect(address, lasting=True, notify=notify) as client:
        with summary_after_screen(args, lambda: last), opened_view(args, target) as show:
            while True:
                metrics, flows = await query(args, client, target, pace)
                if not client.connection.is_connected:
                    metrics.warnings.clear()  # `notify` has reported the lost connection
                show(metrics, flows)
                rounds, last = rounds + 1, metrics
                if rounds == args.count:
                    write_failed(args, metrics)
                    return EXIT_OK if metrics.complete and flows.complete else EXIT_REFUSED
                due_sec = max(due_sec + args.interval, time.monotonic())
                await asyncio.sleep(due_sec - time.monotonic())


async def query(
    args: Namespace, client: FleetClient, target: Target, pace: Pace
) -> tuple[Outcome, Outcome]:
    """Sends `metrics`, then `flows` to the hosts with a session."""
    from ..fleet.outcome import Outcome
    from ..fleet.targeting import Target

    metrics = await client.ask("metrics", {}, target, pace)
    hosts = tuple(reply.host for reply in metrics.replies if reply.accepted)
    if not hosts:
        return metrics, Outcome()
    body = {"limit": args.flows, "sort": args.sort}
    flows = await client.ask("flows", body, Target(hosts=hosts), pace, encoded=ROWS)
    return metrics, flows


# ---- output --------------------------------------------------------------------------------


def rank_hosts(metrics: Outcome) -> list[Sequence[Cell]]:
    rows = readable_rows(metrics, describe_rates)
    return sorted(rows, key=lambda row: row[RATE], reverse=True)


def rank_flows(flows: Outcome, *, order: str, limit: int) -> list[Sequence[Cell]]:
    """Sorts the flows of all hosts. order: "bytes" or "packets"."""
    column = FLOW_COLUMNS.index(order.upper())
    rows = readable_rows(flows, list_flows)
    return heapq.nlargest(limit, rows, key=lambda row: row[column])


def describe_absence(metrics: Outcome, target: Target) -> str:
    if not metrics.replies and not metrics.absences:
        return f"no agent replied ({target.describe()})"
    return f"{metrics.failures} without a reply or a session" if metrics.failures else ""


def drawn(args: Namespace) -> bool:
    return not args.json and sys.stdout.isatty()


@contextmanager
def summary_after_screen(args: Namespace, last: Callable[[], Outcome | None]) -> Iterator[None]:
    """Prints the summary of the last round when the screen is restored. Without a screen, each
    round has printed its own."""
    try:
        yield
    finally:
        outcome = last()
        if outcome is not None and drawn(args):
            print_summary(outcome)


@contextmanager
def opened_view(args: Namespace, target: Target) -> Iterator[Show]:
    def rank(flows: Outcome) -> list[Sequence[Cell]]:
        return rank_flows(flows, order=args.sort, limit=args.flows)

    def tables(metrics: Outcome, flows: Outcome, width: int) -> tuple[list[str], list[str]]:
        return host_lines(rank_hosts(metrics), width), flow_lines(rank(flows), width)

    def print_round(metrics: Outcome, flows: Outcome) -> None:
        if args.json:
            check_replies(metrics, describe_rates)
            check_replies(flows, list_flows)
            print_json(metrics)
            print_json(flows)
        else:
            for lines in tables(metrics, flows, shutil.get_terminal_size((WIDTH, 24)).columns):
                put_lines("\n".join([*lines, ""]) + "\n")
        sys.stdout.flush()
        metrics.warnings += flows.warnings
        print_failures(metrics, target.describe(), with_refusals=not args.json)
        if flows.failures:
            flows.warnings.clear()
            print_failures(flows, target.describe(), with_refusals=not args.json)
        print_summary(metrics)

    if not drawn(args):
        yield print_round
        return
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    console = Console(highlight=False)
    last = Text()
    with Live(console=console, screen=True, auto_refresh=False) as live:

        def draw_round(metrics: Outcome, flows: Outcome) -> None:
            nonlocal last
            hosts, listed = tables(metrics, flows, console.width)
            absence = describe_absence(metrics, target)
            text = Text("\n").join(
                Text(line, style="bold" if line in (hosts[0], listed[0]) else "")
                for line in (*hosts, absence, *listed)
            )
            text.no_wrap, text.overflow = True, "crop"
            live.update(text, refresh=True)
            last = text

        yield draw_round
    if args.count is not None:  # the tables have vanished with the screen
        console.print(last)
