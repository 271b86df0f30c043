"""Asks the agent over NATS for its status, metrics and backends."""

from __future__ import annotations

import asyncio
from argparse import Namespace

from ...fleet import Outcome, Pace, Target, connect
from ..output import json_text
from ..requests import read_nats_section

VERBS = ("status", "metrics", "backends")


def ask_agent(args: Namespace, host: str) -> dict[str, str]:
    """Returns a file for each verb, with an object for each host. Raises UnreachableError,
    DeniedError, ConfigError."""
    address = read_nats_section(args)
    target = Target(hosts=tuple({host: None, **dict.fromkeys(args.host or ())}))

    async def ask() -> dict[str, str]:
        async with connect(address) as client:
            pace = Pace(args.timeout)
            return {
                f"{verb}.json": lines(await client.ask(verb, {}, target, pace)) for verb in VERBS
            }

    return asyncio.run(ask())


def lines(outcome: Outcome) -> str:
    objects = [reply.body for reply in outcome.replies]
    objects += [{"host": one.host, "absent": one.reason} for one in outcome.absences]
    return "".join(f"{json_text(one)}\n" for one in objects)
