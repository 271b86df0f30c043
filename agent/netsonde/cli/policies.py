"""`netsonde plan`, `apply`, `drift` and `rollback`: the desired state of a fleet."""

from __future__ import annotations

import asyncio
import sys
from argparse import ArgumentParser, Namespace
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ..errors import EXIT_OK, EXIT_REFUSED, EXIT_USAGE, NetsondeError
from .output import json_text, notify, put, put_json, say
from .requests import add_connection_arguments, read_nats_section, whole
from .tables import print_table

if TYPE_CHECKING:
    from ..fleet.client import FleetClient
    from ..fleet.inventory import Host
    from ..fleet.policies import PolicyStore, Released, Rolling
    from ..fleet.rollout import PlanRow, Progress
    from ..wire.policy import Policy

ACTIONS = ("create", "change", "remove", "none")
WOULD_CHANGE = 2  # exit code of `plan --exit-code`


class NoInventoryError(NetsondeError):
    """Policies need the inventory."""

    def __init__(self) -> None:
        super().__init__(
            "There is no inventory: JetStream is off, or this key may not read it. "
            "See `netsonde nats streams`."
        )


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
        from ..fleet.policies import new_revision, read_policy_file
        from ..fleet.rollout import plan
        from ..wire.policy import PolicySet

        wanted = PolicySet(new_revision(1, read_policy_file(args.file)))
        hosts, now = asyncio.run(read_fleet(args))
        rows = plan(hosts, now, wanted)
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
        from ..fleet.rollout import drift

        hosts, now = asyncio.run(read_fleet(args))
        found = drift(hosts, now)
        if args.json:
            for name in hosts:
                put_json({"host": name, "drift": found.get(name)})
        elif found:
            print_table(["HOST", "DRIFT"], list(found.items()))
        revision = "no revision" if now.release is None else f"revision {now.release.revision}"
        unfinished = now.release is not None and not now.release.complete
        state = ", its rollout is unfinished" if unfinished else ""
        say(f"{len(hosts)} hosts, {revision}{state}: {len(found)} with drift")
        return EXIT_REFUSED if found else EXIT_OK


def add_policy_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print one JSON object per host")
    add_connection_arguments(parser)


async def read_fleet(args: Namespace) -> tuple[dict[str, Host], Released]:
    from ..fleet.client import connect
    from ..fleet.policies import PolicyStore

    async with connect(read_nats_section(args)) as client:
        return await read_hosts(client), await PolicyStore(client).read()


async def read_hosts(client: FleetClient) -> dict[str, Host]:
    """Raises NoInventoryError."""
    from ..fleet.inventory import read_inventory

    inventory = await read_inventory(client.connection, client.address.root)
    if inventory is None:
        raise NoInventoryError
    for key in inventory.malformed:
        notify(f"inventory: the entry of {key} is malformed or names another host")
    return inventory.hosts


async def apply(
    args: Namespace, policies: list[Policy] | None, *, restores: int | None = None
) -> int:
    """policies: of a new revision. restores: the revision to repeat. Neither: resume."""
    from ..fleet.client import connect
    from ..fleet.policies import PolicyStore
    from ..fleet.rollout import Roller

    async with connect(read_nats_section(args), lasting=True) as client:
        await read_hosts(client)
        store = PolicyStore(client)
        now = await store.read()
        if restores is not None:
            policies = (await store.revision(restores)).revision.policies
        rolling = await begin(store, now, policies, restores)
        put(f"revision {rolling.release.revision}", flush=True)
        roller = Roller(client, store, rolling)
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


async def begin(
    store: PolicyStore, now: Released, policies: list[Policy] | None, restores: int | None
) -> Rolling:
    """Returns the release to roll out. Raises PolicyStoreError."""
    from ..fleet.policies import PolicyStoreError, Rolling

    if policies is not None:
        return await store.add(now, policies, restores=restores)
    if now.release is None:
        raise PolicyStoreError("No revision was ever applied.")
    if now.release.complete:
        raise PolicyStoreError(f"Revision {now.release.revision} is released to every host.")
    return Rolling(now.release, now.sets, now.entry)


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
    say(f"{len(rows)} hosts: {', '.join(parts) or 'none known'}{f'; {lost} lost' if lost else ''}")


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
