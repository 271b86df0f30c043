"""`netsonde ps`: lists the hosts of the inventory, and the agents that reply."""

from __future__ import annotations

import sys
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec

from ..wire.inventory import SKEW_SEC_MAX
from .output import notify, put_json
from .requests import (
    add_connection_arguments,
    add_outcome_arguments,
    add_pace_arguments,
    add_target_arguments,
    conclude,
    positive_seconds,
    read_nats_section,
    read_pace,
    read_target,
    readable_rows,
    run_until_cut,
)
from .tables import Cell, duration, print_table

if TYPE_CHECKING:
    from ..fleet.listing import Listed
    from ..fleet.outcome import Outcome
    from ..fleet.scatter import Reply

COLUMNS = (
    "HOST", "STATE", "INTERFACE", "BACKEND", "PKT/S", "DROPS", "BUFFER", "VERSION", "LABELS",
)  # fmt: skip


class PsCommand:
    """List the hosts: state, capture, version and labels.

    The hosts are those of the inventory and the agents that reply now. A host of the inventory
    whose agent does not reply is listed with the reason, and the command exits with 1. Without
    an inventory (no JetStream), only agents that reply are known.
    """

    name = "ps"

    def add_arguments(self, parser: ArgumentParser) -> None:
        add_target_arguments(parser)
        add_pace_arguments(parser)
        parser.add_argument(
            "--watch",
            type=positive_seconds,
            nargs="?",
            const=2.0,
            metavar="S",
            help="list again every S seconds (2) until Ctrl-C",
        )
        add_outcome_arguments(parser)
        add_connection_arguments(parser)

    def run(self, args: Namespace) -> int:
        if args.watch is None:
            return list_once(args)
        while True:
            if sys.stdout.isatty():
                from rich.console import Console

                Console().clear()
            list_once(args)
            time.sleep(args.watch)


def list_once(args: Namespace) -> int:
    from ..fleet.listing import list_hosts
    from ..fleet.outcome import Outcome

    outcome = Outcome()
    run_until_cut(find_agents(args, outcome), outcome)
    rows = list(readable_rows(outcome, list_agent))
    if args.json:
        print_listed(outcome)
    elif outcome.inventory:
        print_table(COLUMNS, [describe_host(one) for one in list_hosts(outcome).values()])
    elif rows:
        print_table(["HOST", "DESCRIPTION", "VERSION", "LABELS", "RTT MS"], rows)
    for name, host in outcome.inventory.items():
        if abs(host.skew_sec) > SKEW_SEC_MAX and not host.absent:
            notify(f"{name}: its clock differs from the server's by {host.skew_sec:+.1f} s")
    return conclude(args, outcome)


def describe_host(listed: Listed) -> Sequence[Cell]:
    if listed.entry is None:
        return (listed.host, listed.state, *["-"] * 7)
    session = listed.entry.entry.session
    running: Sequence[Cell] = ["-"] * 5
    if session is not None:
        running = (
            session.interface,
            session.backend,
            f"{session.packets_per_sec}",
            f"{session.packets_dropped}",
            duration(session.retention_sec),
        )
    labels = " ".join(f"{key}={value}" for key, value in sorted(listed.labels.items()))
    return (listed.host, listed.state, *running, listed.version, labels or "-")


def print_listed(outcome: Outcome) -> None:
    """Prints one object for each host, with its entry in the inventory."""
    objects = {reply.host: reply.body for reply in outcome.replies}
    objects |= {one.host: {"host": one.host, "absent": one.reason} for one in outcome.absences}
    for name, body in sorted(objects.items()):
        host = outcome.inventory.get(name)
        if host is not None:
            listed = {"age_sec": host.age_sec, "skew_sec": host.skew_sec, "lost": host.lost}
            body = {**body, "inventory": msgspec.to_builtins(host.entry) | listed}
        put_json(body)


async def find_agents(args: Namespace, outcome: Outcome) -> None:
    from ..fleet.client import connect
    from ..fleet.listing import discover

    address, target, pace = read_nats_section(args), read_target(args), read_pace(args)
    async with connect(address) as client:
        await discover(client, target, pace, outcome=outcome)


def list_agent(reply: Reply) -> Sequence[Sequence[Cell]]:
    body = reply.body
    return [
        (
            reply.host,
            str(body.get("description", "-")),
            str(body.get("version", "-")),
            describe_labels(body.get("metadata")),
            round(reply.elapsed_sec * 1000, 2),
        )
    ]


def describe_labels(metadata: object) -> str:
    from ..fleet.search import read_labels

    return " ".join(f"{key}={value}" for key, value in read_labels(metadata).items()) or "-"
