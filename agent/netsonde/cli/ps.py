"""`netsonde ps`: lists the connected agents through NATS service discovery ($SRV.INFO)."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from typing import TYPE_CHECKING

from .requests import (
    add_connection_arguments,
    add_outcome_arguments,
    add_pace_arguments,
    add_target_arguments,
    conclude,
    print_json,
    read_nats_section,
    read_pace,
    read_target,
    readable_rows,
    run_until_cut,
)
from .tables import Cell, print_table

if TYPE_CHECKING:
    from ..fleet.outcome import Outcome
    from ..fleet.scatter import Reply


class PsCommand:
    """List the connected agents: host, description, version, labels, round trip."""

    name = "ps"

    def add_arguments(self, parser: ArgumentParser) -> None:
        add_target_arguments(parser)
        add_pace_arguments(parser)
        add_outcome_arguments(parser)
        add_connection_arguments(parser)

    def run(self, args: Namespace) -> int:
        from ..fleet.outcome import Outcome

        outcome = Outcome()
        run_until_cut(find_agents(args, outcome), outcome)
        rows = readable_rows(outcome, list_agent)
        if args.json:
            print_json(outcome)
        elif rows:
            print_table(["HOST", "DESCRIPTION", "VERSION", "LABELS", "RTT MS"], rows)
        return conclude(args, outcome)


async def find_agents(args: Namespace, outcome: Outcome) -> None:
    from ..fleet.client import connect

    address, target, pace = read_nats_section(args), read_target(args), read_pace(args)
    async with connect(address) as client:
        await client.list_agents(target, pace, outcome)


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
