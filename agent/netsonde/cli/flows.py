"""`netsonde flows`: lists the active flows of hosts, or follows their flow records."""

from __future__ import annotations

import asyncio
import sys
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypedDict

import msgspec

from ..errors import EXIT_OK, EXIT_REFUSED, UnreachableError
from ..fleet.packed import Packed
from ..fleet.stream import GapCounter
from ..wire.instant import rfc3339
from ..wire.quantity import counted
from ..wire.subjects import stream_host
from .flow_filters import add_filter_arguments, filter_body, matches
from .output import put, put_json, say
from .requests import (
    add_client_arguments,
    conclude,
    plan_request,
    print_outcome,
    read_nats_section,
    read_pace,
    read_target,
    run_until_cut,
    whole,
)
from .tables import Cell, endpoint

if TYPE_CHECKING:
    from ..fleet.client import FleetClient
    from ..fleet.outcome import Outcome
    from ..fleet.scatter import Reply

PAGE_MAX = 10_000  # rows of one request
DEFAULT_COUNT = 100
ROWS = frozenset({"flows"})  # the field of a reply that is kept as Packed text
BY = ("source_ip", "dest_ip", "source_port", "dest_port", "protocol")
COLUMNS = ("HOST", "PROTOCOL", "SOURCE", "DESTINATION", "PACKETS", "BYTES", "LAST SEEN")


class FlowsCommand:
    """List active flows, or follow flow records.

    Without --follow, prints the totals of the hosts' active flows. With --follow, prints one
    published record per line until Ctrl-C: time of the last packet, protocol, source →
    destination, packets and bytes since the flow's previous record, and the reason for the
    record. Records are published only if metering is on.
    """

    name = "flows"

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "-f", "--follow", action="store_true", help="print new flow records until Ctrl-C"
        )
        parser.add_argument(
            "-n",
            "--count",
            type=whole(1),
            metavar="N",
            help="N flows per host (100); with --follow, stop after N records",
        )
        parser.add_argument("--sort", choices=["bytes", "packets", "recent"])
        parser.add_argument("--min-packets", type=whole(0), metavar="N")
        add_filter_arguments(parser)
        parser.add_argument(
            "--by",
            type=flow_fields,
            metavar="FIELD,…",
            help=f"add the flows up by these fields: {', '.join(BY)}",
        )
        add_client_arguments(parser)

    def run(self, args: Namespace) -> int:
        if args.follow:
            try:
                return asyncio.run(follow_flows(args))
            except KeyboardInterrupt:
                return EXIT_OK
        outcome = gather_flows(args)
        columns, rows = (by_columns(args.by), list_sums) if args.by else (COLUMNS, list_flows)
        print_outcome(args, outcome, columns, rows)
        return conclude(args, outcome)


def flow_fields(text: str) -> list[str]:
    fields = [field.strip() for field in text.split(",")]
    for field in fields:
        if field not in BY:
            raise ArgumentTypeError(f"{field!r} is not one of {', '.join(BY)}")
    return fields


def flows_body(args: Namespace) -> dict[str, Any]:
    return _named(
        limit=min(args.count, PAGE_MAX) if args.count is not None else None,
        sort=args.sort,
        min_packets=args.min_packets,
        filter=filter_body(args),
        by=args.by,
    )


def _named(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


class Listed(TypedDict, total=False):
    """The fields of a flow that the table shows. Others are not decoded."""

    protocol: Any
    source_ip: Any
    dest_ip: Any
    source_port: Any
    dest_port: Any
    icmp_type: Any
    packets: Any
    bytes: Any
    last_seen: Any


def list_flows(reply: Reply) -> Sequence[Sequence[Cell]]:
    return [
        (
            reply.host,
            flow["protocol"],
            *endpoints(flow),
            int(flow["packets"]),
            int(flow["bytes"]),
            clock_time(flow.get("last_seen")),
        )
        for flow in rows_of(reply.body, Listed)
    ]


def rows_of(body: Mapping[str, Any], kind: Any = dict[str, Any]) -> list[Any]:
    """Returns the rows as dictionaries of this type. Raises ValueError or TypeError if they are
    malformed."""
    rows = body["flows"]
    if isinstance(rows, Packed):
        return msgspec.json.decode(rows.text, type=list[kind])
    return list(rows)


def by_columns(by: Sequence[str]) -> Sequence[str]:
    return ("HOST", *(field.replace("_", " ").upper() for field in by), "FLOWS", "PACKETS", "BYTES")


def list_sums(reply: Reply) -> Sequence[Sequence[Cell]]:
    return [(reply.host, *row.values()) for row in rows_of(reply.body)]


# ---- paging --------------------------------------------------------------------------------


def gather_flows(args: Namespace) -> Outcome:
    """Requests the flows, and further pages of each host whose reply was truncated."""
    from ..fleet.client import connect
    from ..fleet.outcome import Outcome
    from ..fleet.request import IN_FLIGHT_BYTES_MAX

    # Report errors of the command line before connecting.
    address, body = read_nats_section(args), flows_body(args)
    plan, outcome = replace(plan_request(args, "flows", body), encoded=ROWS), Outcome()

    async def ask() -> None:
        async with connect(address) as client:
            await plan.ask(client, outcome)
            in_flight = asyncio.Semaphore(max(1, IN_FLIGHT_BYTES_MAX // client.max_payload))

            async def complete(index: int, reply: Reply) -> None:
                async with in_flight:
                    wanted = args.count or DEFAULT_COUNT
                    outcome.replies[index] = await _with_rest(
                        client, reply, body, wanted, args.timeout
                    )

            pages = [complete(index, reply) for index, reply in enumerate(outcome.replies)]
            await asyncio.gather(*pages)

    run_until_cut(ask(), outcome)
    return outcome


async def _with_rest(
    client: FleetClient, first: Reply, body: dict[str, Any], wanted: int, timeout_sec: float
) -> Reply:
    """Returns the reply with the rows of the pages that follow it, `wanted` rows at most."""
    from ..fleet.scatter import decode_object, same_name
    from ..fleet.targeting import host_subject

    subject = host_subject(client.address.root, first.host, "flows")
    page = first.body
    if not first.accepted or not page.get("next"):
        return first
    try:
        count = len(rows_of(page))
    except (ValueError, LookupError, TypeError):
        return first  # print_outcome reports it
    texts = [page["flows"]]
    while (after := page.get("next")) and count < wanted:
        asked = body | {"limit": min(wanted - count, PAGE_MAX), "after": after}
        data = await client.request(subject, msgspec.json.encode(asked), timeout_sec)
        if client.connection.is_closed:
            raise UnreachableError("The connection to NATS was lost.")
        try:
            page = decode_object(data or b"", ROWS)
            same_name(first.host, page.get("host", first.host))
            more = len(rows_of(page))
        except (ValueError, LookupError, TypeError):
            why = f"no reply, or a malformed one, after {counted(count, 'row')}; ask again"
            return first.unreadable(first.host, why, first.elapsed_sec)
        if not more:
            break
        count += more
        texts.append(page["flows"])
    return replace(first, body=first.body | page | {"flows": Packed.joined(texts)})


# ---- following -----------------------------------------------------------------------------


async def follow_flows(args: Namespace) -> int:
    from ..collect.batches import UnreadableError, read_batch
    from ..fleet.client import connect
    from ..fleet.members import Members, joins_late

    def notify(text: str) -> None:
        say(f"netsonde: {text}")

    address, target, pace = read_nats_section(args), read_target(args), read_pace(args)
    async with connect(address, lasting=True, notify=notify) as client:
        members = Members(client, target)
        late = joins_late(target) and pace.limit is None and await members.read()
        hosts = await client.stream_hosts(target, pace)
        if late:
            members.first, hosts = frozenset(hosts or ()), None
        if hosts == ():
            notify(f"no agent replied ({target.describe()})")
            return EXIT_REFUSED
        if sys.stderr.isatty():
            notify(f"following the flows of {target.describe()}; stop with Ctrl-C")
        counter, missed = GapCounter(), 0
        with_host = hosts is None or len(hosts) > 1
        printed, refused = 0, 0  # refused: malformed, or of another host than the subject's
        heard: set[str] = set()

        def end() -> int:
            say(follow_summary(printed, len(heard), counter.missed, refused))
            return EXIT_REFUSED if refused else EXIT_OK

        try:
            async for message in client.follow("flows", hosts):
                host = stream_host(message.subject)
                if late and host is not None and not await members.includes(host):
                    continue
                try:
                    batch = read_batch(message.subject, message.data, message.headers)
                    records = batch.objects()
                except UnreadableError as error:
                    refused += 1
                    notify(f"{message.subject}: {error.detail}")
                    continue
                heard.add(batch.host)
                if not counter.note(batch.host, batch.boot, batch.seq):
                    continue
                if counter.missed > missed:
                    new = counter.missed - missed
                    notify(f"{batch.host}: {counted(new, 'batch is', 'batches are')} missing")
                missed = counter.missed
                for record in records:
                    try:
                        if not matches(record, args):
                            continue
                        print_record(batch.host, record, as_json=args.json, with_host=with_host)
                    except (TypeError, ValueError, AttributeError, OverflowError) as error:
                        refused += 1
                        notify(f"{message.subject}: not a flow record: {error}")
                        continue
                    printed += 1
                    if printed == args.count:
                        return end()
                sys.stdout.flush()
        except asyncio.CancelledError:  # Ctrl-C
            pass
        return end()


def follow_summary(printed: int, hosts: int, missing: int, refused: int) -> str:
    text = f"{counted(printed, 'record')} from {counted(hosts, 'host')}"
    words = counted(refused, "batch or record", "batches or records")
    if missing:
        text += f", {counted(missing, 'batch', 'batches')} missing"
    return f"{text}, {words} refused" if refused else text


def print_record(host: str, record: dict[str, Any], *, as_json: bool, with_host: bool) -> None:
    if as_json:
        put_json({"host": host, **record})
    else:
        text = describe_record(record)
        put(f"{host}  {text}" if with_host else text)


def amount(value: object, noun: str) -> str:
    """Returns a count of a record, or a dash, with its noun."""
    return counted(value, noun) if isinstance(value, int) else f"{value} {noun}s"


def describe_record(record: dict[str, Any]) -> str:
    """Renders a record as one line. Fields that `[flows] fields` excludes are dashes."""
    source, dest = endpoints(record)
    extra = "".join(f" vlan {number}" for number in record.get("vlan", ()))
    if record.get("icmp_type") is not None:
        extra += f" type {record['icmp_type']}"
    shown = {name: record.get(name, "-") for name in ("protocol", "packets", "bytes", "end_reason")}
    return (
        f"{clock_time(record.get('last_seen'))}  {shown['protocol']:<6}  {source} → {dest}{extra}  "
        f"{amount(shown['packets'], 'packet')}  {amount(shown['bytes'], 'byte')}"
        f"  {shown['end_reason']}"
        f"{describe_owner(record)}"
    )


def describe_owner(record: dict[str, Any]) -> str:
    """Returns the flow's name, process and unit, each after two spaces, if they are known."""
    process = record.get("process") or {}
    owner = process.get("name")
    if owner and process.get("pid"):
        owner = f"{owner} [{process['pid']}]"
    return "".join(f"  {text}" for text in (record.get("name"), owner, process.get("unit")) if text)


def endpoints(record: dict[str, Any]) -> tuple[str, str]:
    """Returns source and destination, without ICMP's pseudo ports of the Community ID."""
    source, dest = record.get("source_ip", "-"), record.get("dest_ip", "-")
    if record.get("icmp_type") is not None:
        return source, dest
    from_port, to_port = record.get("source_port", 0), record.get("dest_port", 0)
    return endpoint(source, from_port), endpoint(dest, to_port)


def clock_time(time: str | int | None) -> str:
    """Returns `14:02:11.123` in UTC, from RFC 3339 or from nanoseconds since the epoch."""
    if time is None:
        return "-"
    return (rfc3339(time) if isinstance(time, int) else time)[11:23]
