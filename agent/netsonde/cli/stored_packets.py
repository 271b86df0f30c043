"""`netsonde packets --list` and `--delete`: the results that are stored in the object store."""

from __future__ import annotations

import asyncio
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..errors import EXIT_OK, EXIT_REFUSED, EXIT_USAGE, NetsondeError
from ..wire.instant import NS_PER_SEC, rfc3339
from ..wire.quantity import counted
from .output import notify, put_json, say
from .requests import ask_fleet_outcome, read_nats_section, read_pace, read_target
from .tables import Cell, print_table

if TYPE_CHECKING:
    from ..bus.objects import StoredObject
    from ..fleet.scatter import Reply

LIST_COLUMNS = ("HOST", "OBJECT", "BYTES", "AGE", "OWNER", "FILTER")
DELETE_COLUMNS = ("HOST", "DELETED", "BYTES")
REASONS = {
    "not_found": "not in the bucket",
    "other_owner": "another caller requested it; see --all-owners",
    "newer": "not older than --older-than",
}


class StoredUsageError(NetsondeError):
    exit_code = EXIT_USAGE


def add_stored_arguments(parser: ArgumentParser) -> None:
    group = parser.add_argument_group("stored results")
    group.add_argument("--list", action="store_true", help="list the results in the object store")
    group.add_argument(
        "--delete", nargs="*", metavar="OBJECT", help="delete results by name, or by --older-than"
    )
    group.add_argument("--older-than", metavar="T", help="--delete: RFC 3339, or an age like -2h")
    group.add_argument(
        "--all-owners", action="store_true", help="--delete: also those that others requested"
    )


def check_stored_arguments(args: Namespace) -> None:
    """Raises StoredUsageError."""
    other = (args.write, args.filter, args.start, args.end, args.max_bytes, args.max_packets)
    chosen = args.list or args.delete is not None
    if args.list and args.delete is not None:
        raise StoredUsageError("--list and --delete do not go together.")
    if chosen and (args.open or any(value is not None for value in other)):
        raise StoredUsageError("--list and --delete retrieve no packets: leave out other options.")
    if args.delete is None and (args.older_than is not None or args.all_owners):
        raise StoredUsageError("--older-than and --all-owners need --delete.")
    if args.delete == [] and args.older_than is None and args.resume is None:
        raise StoredUsageError("--delete needs names of objects, or --older-than.")


# ---- list ------------------------------------------------------------------------------------


def list_results(args: Namespace) -> int:
    return asyncio.run(print_results(args))


async def print_results(args: Namespace) -> int:
    from ..fleet.client import connect
    from ..fleet.stored import list_stored

    target, pace = read_target(args), read_pace(args)
    async with connect(read_nats_section(args)) as client:
        hosts = await client.stream_hosts(target, pace)
        if hosts is None:
            hosts = await client.expect_hosts(target, pace)
        if not hosts:
            notify(f"no agent replied ({target.describe()})")
            return EXIT_REFUSED
        found = await list_stored(client, sorted(hosts))
    rows = [(host, bucket, one) for host, each in found.items() for bucket, one in each]
    if args.json:
        for host, bucket, one in rows:
            put_json(object_fields(host, bucket, one))
    elif rows:
        print_table(LIST_COLUMNS, [describe_object(host, one) for host, _, one in rows])
    size = sum(one.size for _, _, one in rows)
    say(f"{counted(len(rows), 'object')} of {counted(len(hosts), 'host')}, {counted(size, 'byte')}")
    return EXIT_OK


def object_fields(host: str, bucket: str, one: StoredObject) -> dict[str, Any]:
    return {
        "host": host,
        "bucket": bucket,
        "object": one.name,
        "bytes": one.size,
        "time": rfc3339(one.time_ns),
        "age_sec": round(age_sec(one), 3),
        "owner": one.owner or None,
        "filter": one.description,
    }


def describe_object(host: str, one: StoredObject) -> Sequence[Cell]:
    owner = one.owner.get("account") or one.owner.get("user") or "-"
    return (host, one.name, one.size, describe_age(age_sec(one)), owner, one.description)


def age_sec(one: StoredObject) -> float:
    return max(time.time() - one.time_ns / NS_PER_SEC, 0.0)


def describe_age(seconds: float) -> str:
    """Returns a text such as `3d 4h`, `2h 5m` or `42s`."""
    minutes, hours, days = int(seconds) // 60, int(seconds) // 3600, int(seconds) // 86400
    if days:
        return f"{days}d {hours % 24}h"
    if hours:
        return f"{hours}h {minutes % 60}m"
    return f"{minutes}m {int(seconds) % 60}s" if minutes else f"{int(seconds)}s"


# ---- delete ----------------------------------------------------------------------------------


def delete_results(args: Namespace) -> int:
    """Named objects are deleted on the hosts that their names begin with."""
    body: dict[str, Any] = {}
    if args.delete:
        body["objects"] = args.delete
        if not (args.host or args.group or args.select or args.nodes):
            args.host = sorted({name.rsplit("-", 2)[0] for name in args.delete})
    if args.older_than is not None:
        body["older_than"] = args.older_than
    if args.all_owners:
        body["all_owners"] = True
    code, outcome = ask_fleet_outcome(args, "packets.delete", body, DELETE_COLUMNS, describe_delete)
    named: dict[str, list[str]] = {}
    deleted: set[str] = set()
    for reply in outcome.replies:
        if reply.accepted:
            deleted |= set(reply.body["deleted"])
            for one in reply.body["refused"]:
                named.setdefault(one["object"], []).append(one["reason"])
    left = {name: reasons for name, reasons in named.items() if name not in deleted}
    for name, reasons in left.items():
        reason = next((one for one in reasons if one != "not_found"), "not_found")
        say(f"{name}: {REASONS.get(reason, reason)}")
    return EXIT_REFUSED if left else code


def describe_delete(reply: Reply) -> Sequence[Sequence[Cell]]:
    body = reply.body
    for one in body["refused"]:
        str(one["object"]), str(one["reason"])
    return [(reply.host, len(body["deleted"]), body["bytes"])]
