"""`netsonde ps`: lists the connected agents through NATS service discovery ($SRV.INFO)."""

from __future__ import annotations

import asyncio
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..errors import EXIT_OK, EXIT_REFUSED
from .requests import (
    add_connection_arguments,
    add_pace_arguments,
    add_target_arguments,
    print_failures,
    print_json,
    read_nats_section,
    read_pace,
    read_target,
)
from .tables import Cell, print_table

if TYPE_CHECKING:
    from ..fleet.client import Outcome


class PsCommand:
    """List the connected agents: host, description, version, labels, round trip."""

    name = "ps"

    def add_arguments(self, parser: ArgumentParser) -> None:
        add_target_arguments(parser)
        add_pace_arguments(parser)
        add_connection_arguments(parser)

    def run(self, args: Namespace) -> int:
        outcome = asyncio.run(find_agents(args))
        if args.json:
            print_json(outcome)
        elif outcome.replies:
            columns = ["HOST", "DESCRIPTION", "VERSION", "LABELS", "RTT MS"]
            print_table(columns, list_agents(outcome))
        print_failures(outcome, read_target(args), with_refusals=True)
        return EXIT_OK if outcome.complete else EXIT_REFUSED


async def find_agents(args: Namespace) -> Outcome:
    from ..fleet.client import NOT_ASKED, Outcome, connect
    from ..fleet.scatter import Absence
    from ..fleet.targeting import Target

    address, target, pace = read_nats_section(args), read_target(args), read_pace(args)
    outcome = Outcome()
    async with connect(address) as client:
        waves = [target]
        if pace.staged or pace.limit:
            hosts = await client.expect_hosts(target, pace) or ()
            waves = [Target(hosts=wave) for wave in pace.waves(hosts)]
        for wave in waves:
            if pace.exceeded(outcome):
                outcome.absences += [Absence(host, NOT_ASKED) for host in wave.hosts]
                continue
            found = await client.discover("INFO", wave, pace.timeout_sec) or {}
            reason = "no agent with this name replied"
            outcome.replies += found.values()
            outcome.absences += [Absence(host, reason) for host in wave.hosts if host not in found]
        outcome.warnings = client.drain_warnings()
    return outcome


def list_agents(outcome: Outcome) -> Sequence[Sequence[Cell]]:
    return [
        (
            reply.host,
            str(reply.body.get("description", "")),
            str(reply.body.get("version", "")),
            describe_labels(reply.body.get("metadata")),
            round(reply.elapsed_sec * 1000, 2),
        )
        for reply in outcome.replies
    ]


def describe_labels(metadata: object) -> str:
    from ..fleet.client import read_labels

    return " ".join(f"{key}={value}" for key, value in read_labels(metadata).items()) or "-"
