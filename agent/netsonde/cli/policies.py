"""`netsonde plan`, `apply`, `drift` and `rollback`: the desired state of a fleet."""

from __future__ import annotations

import asyncio
import sys
from argparse import ArgumentParser, Namespace
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ..errors import EXIT_OK, EXIT_REFUSED, EXIT_USAGE
from ..wire.quantity import counted
from .output import json_text, notify, put, put_json, say
from .requests import add_connection_arguments, read_nats_section, whole
from .tables import print_table

if TYPE_CHECKING:
    from ..fleet.changes import FleetState
    from ..fleet.rollout import PlanRow, Progress
    from ..wire.policy import Policy

ACTIONS = ("create", "change", "remove", "none")
WOULD_CHANGE = 2  # exit code of `plan --exit-code`


class PlanCommand:
    """Show what `apply FILE` would change, host by host. Changes nothing."""

    name = "plan"

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("file", metavar="FILE", help="policy file (TOML)")
        parser.add_argument(
            "--exit-code", action="store_true", help="exit with 2 if something would change"
        )
        add_policy_arguments(parser)

    def run(self, args: Namespace) -> int:
        from ..fleet.policies import read_policy_file

        policies = read_policy_file(args.file)
        rows = asyncio.run(read_fleet(args)).plan(policies)
        print_plan(args, rows)
        changed = any(row.action != "none" for row in rows)
        return WOULD_CHANGE if args.exit_code and changed else EXIT_OK


class ApplyCommand:
    """Release the policies of FILE as a new revision, batch by batch.

    Each policy's `rollout` names the canary, the batches, the soak time and the limits for failed
    and silent hosts. Above a limit the rollout stops. The hosts that are released keep the new
    revision; the others keep the old one. `apply --resume` continues a rollout that was stopped
    or cut off, from any machine. Hosts that are away converge when they return.
    """

    name = "apply"

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("file", metavar="FILE", nargs="?", help="policy file (TOML)")
        parser.add_argument(
            "--resume", action="store_true", help="continue the unfinished rollout instead"
        )
        add_policy_arguments(parser)

    def run(self, args: Namespace) -> int:
        from ..fleet.policies import read_policy_file

        if (args.file is None) is not args.resume:
            notify("name a FILE, or --resume without a FILE")
            return EXIT_USAGE
        policies = None if args.file is None else read_policy_file(args.file)
        return asyncio.run(apply(args, policies))


class RollbackCommand:
    """Release the policies of an earlier revision again, as a new revision."""

    name = "rollback"

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("revision", metavar="REV", type=whole(1), help="the earlier revision")
        add_policy_arguments(parser)

    def run(self, args: Namespace) -> int:
        return asyncio.run(apply(args, None, restores=args.revision))


class DriftCommand:
    """Show the hosts that are not as their policy says. Exits with 1 if there is one."""

    name = "drift"

    def add_arguments(self, parser: ArgumentParser) -> None:
        add_policy_arguments(parser)

    def run(self, args: Namespace) -> int:
        state = asyncio.run(read_fleet(args))
        hosts, release, found = state.hosts, state.released.release, state.drift()
        if args.json:
            for name in hosts:
                put_json({"host": name, "drift": found.get(name)})
        elif found:
            print_table(["HOST", "DRIFT"], list(found.items()))
        revision = "no revision" if release is None else f"revision {release.revision}"
        unfinished = release is not None and not release.complete
        how_far = ", its rollout is unfinished" if unfinished else ""
        say(f"{counted(len(hosts), 'host')}, {revision}{how_far}: {len(found)} with drift")
        return EXIT_REFUSED if found else EXIT_OK


def add_policy_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print one JSON object per host")
    add_connection_arguments(parser)


async def read_fleet(args: Namespace) -> FleetState:
    from ..fleet.changes import read_state
    from ..fleet.client import connect

    async with connect(read_nats_section(args)) as client:
        state = await read_state(client)
    report_malformed(state.malformed)
    return state


def report_malformed(keys: Iterable[str]) -> None:
    for key in keys:
        notify(f"inventory: the entry of {key} is malformed or names another host")


async def apply(
    args: Namespace, policies: list[Policy] | None, *, restores: int | None = None
) -> int:
    """policies: of a new revision. restores: the revision to repeat. Neither: resume."""
    from ..fleet.changes import begin, begin_rollback, continue_rollout
    from ..fleet.client import connect

    async with connect(read_nats_section(args), lasting=True) as client:
        if restores is not None:
            roller = await begin_rollback(client, restores)
        elif policies is not None:
            roller = await begin(client, policies)
        else:
            roller = await continue_rollout(client)
        report_malformed(roller.malformed)
        put(f"revision {roller.progress.revision}", flush=True)
        finished = False
        try:
            with show_rollout() as roller.observe:
                progress = await roller.run()
            finished = progress.complete
        finally:
            print_progress(args, roller.progress)
            if not finished and not roller.released:
                notify("to continue: netsonde apply --resume")
    return EXIT_OK if finished else EXIT_REFUSED


# ---- output --------------------------------------------------------------------------------


def print_plan(args: Namespace, rows: list[PlanRow]) -> None:
    counts = Counter(str(row.action) for row in rows)
    if args.json:
        for row in rows:
            changes = {key: {"old": old, "new": new} for key, (old, new) in row.changes.items()}
            put_json(
                {
                    "host": row.host,
                    "policy": row.policy or None,
                    "action": row.action,
                    "changes": changes,
                    "lost": row.lost,
                }
            )
    elif rows:
        columns = ["HOST", "POLICY", "ACTION", "CHANGES"]
        print_table(columns, [describe_row(row) for row in rows])
    parts = [f"{counts[action]} {action}" for action in ACTIONS if counts[action]]
    lost = sum(row.lost for row in rows)
    hosts = counted(len(rows), "host")
    say(f"{hosts}: {', '.join(parts) or 'none known'}{f'; {lost} lost' if lost else ''}")


def describe_row(row: PlanRow) -> tuple[str, ...]:
    changes = ", ".join(
        f"{key}: {short(old)} -> {short(new)}" if row.action == "change" else f"{key} {short(new)}"
        for key, (old, new) in row.changes.items()
        if row.action == "change" or key in ("interface", "backend")
    )
    return row.host, row.policy or "-", row.action + (" (lost)" if row.lost else ""), changes or "-"


def short(value: object) -> str:
    return "none" if value is None else json_text(value)


@contextmanager
def show_rollout() -> Iterator[Callable[[Progress], None]]:
    """Shows the state of the rollout on standard error, if that is a terminal."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console

    with Console(stderr=True).status("reading the inventory") as status:
        yield lambda progress: status.update(progress.summary())


def print_progress(args: Namespace, progress: Progress) -> None:
    """Prints the hosts that have not applied the revision, and the summary."""
    hosts = sorted(progress.hosts.values(), key=lambda one: one.host)
    if args.json:
        for one in hosts:
            put_json(one)
    else:
        rows = [
            (one.host, one.policy or "-", one.state, one.detail or "-")
            for one in hosts
            if one.state != "applied"
        ]
        if rows:
            print_table(["HOST", "POLICY", "STATE", "DETAIL"], rows)
    if progress.stopped:
        say(f"stopped: {progress.stopped}")
    say(progress.summary())
