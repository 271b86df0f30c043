"""`netsonde events`: lists or follows the events of hosts."""

from __future__ import annotations

import asyncio
import sys
import time
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING

import msgspec

from ..errors import EXIT_OK, EXIT_REFUSED, NetsondeError
from ..wire.events import EVENT_KINDS, Event
from ..wire.instant import instant_ns
from ..wire.quantity import counted
from .around import event_id
from .output import notify, put, put_json
from .packets import TIME_AGO
from .requests import add_client_arguments, read_nats_section, read_pace, read_target, whole

if TYPE_CHECKING:
    from nats.aio.msg import Msg

    from ..fleet.client import FleetClient

SINCE = "-1h"


class EventsCommand:
    """List the events of hosts, or follow them.

    Without --follow, prints the events that the stream CAPTURE_EVENTS holds since a time. With
    --follow, prints new events until Ctrl-C, after the stored ones if --since is given. A line has
    time, host, kind, event, detail and the event's id. `netsonde packets --around ID` fetches the
    packets around an event.
    """

    name = "events"

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "-f", "--follow", action="store_true", help="print new events until Ctrl-C"
        )
        parser.add_argument(
            "--kind", action="append", choices=EVENT_KINDS, help="may be repeated (default: all)"
        )
        parser.add_argument(
            "--since",
            type=read_since,
            metavar="TIME",
            help=f"RFC 3339, or an age ({SINCE} without --follow)",
        )
        parser.add_argument("-n", "--count", type=whole(1), metavar="N", help="stop after N events")
        add_client_arguments(parser)
        # argparse reads `-5m` as a flag unless it matches this pattern.
        parser._negative_number_matcher = TIME_AGO

    def run(self, args: Namespace) -> int:
        try:
            return asyncio.run(print_events(args))
        except KeyboardInterrupt:
            return EXIT_OK


def read_since(text: str) -> int:
    """Returns nanoseconds since the epoch."""
    try:
        return instant_ns(text, time.time_ns(), field="--since")
    except NetsondeError:
        raise ArgumentTypeError(
            f"{text!r} is neither RFC 3339 with an offset nor a time ago like -5m"
        ) from None


async def print_events(args: Namespace) -> int:
    from ..fleet.client import connect
    from ..fleet.events import read_event
    from ..fleet.members import Members, joins_late

    address, target, pace = read_nats_section(args), read_target(args), read_pace(args)
    since_ns = read_since(SINCE) if args.since is None and not args.follow else args.since
    printed, refused = 0, 0
    seen: set[tuple[str, str, int]] = set()  # stored ones, which may arrive again as new ones
    async with connect(address, lasting=args.follow, notify=notify) as client:
        members = Members(client, target)
        late = joins_late(target) and pace.limit is None and await members.read()
        hosts = None if late else await client.stream_hosts(target, pace)
        if hosts == ():
            notify(f"no agent replied ({target.describe()})")
            return EXIT_REFUSED
        async for message, stored in _messages(client, hosts, since_ns, follow=args.follow):
            try:
                event = read_event(message, address.root)
            except ValueError as error:
                refused += 1
                notify(f"{message.subject}: {error}")
                continue
            key = event.host, event.boot, event.seq
            if key in seen or (late and not await members.includes(event.host)):
                continue
            if args.kind and event.kind not in args.kind:
                continue
            if stored and args.follow:
                seen.add(key)
            print_event(event, as_json=args.json)
            printed += 1
            if printed == args.count:
                break
    if refused:
        notify(f"{counted(refused, 'event')} refused")
    return EXIT_REFUSED if refused else EXIT_OK


async def _messages(
    client: FleetClient, hosts: tuple[str, ...] | None, since_ns: int | None, *, follow: bool
) -> AsyncGenerator[tuple[Msg, bool], None]:
    """Yields messages, and whether each was stored. New ones are subscribed to first, so that no
    event is lost between the two."""
    from ..fleet.events import StoredEvents, read_stored

    root = client.address.root
    news = await client.subscribe("events", hosts) if follow else None
    if since_ns is not None:
        subjects = [f"{root}.stream.events.{host}.*" for host in hosts or ("*",)]
        async for message in read_stored(client, StoredEvents(since_ns, subjects)):
            yield message, True
    while news is not None:
        yield await news.get(), False


def print_event(event: Event, *, as_json: bool) -> None:
    if as_json:
        put_json(event)
    else:
        detail = event.detail
        if event.kind == "audit":
            detail = " ".join((detail, msgspec.json.encode(event.data).decode())).strip()
        text = f"{event.time[:23]}Z  {event.host}  {event.kind}  {event.event}  {detail}".rstrip()
        put(f"{text}  [{event_id(event)}]")
    sys.stdout.flush()
