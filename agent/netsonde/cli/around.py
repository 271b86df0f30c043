"""`netsonde packets --around`: the host and the time range of the packets around an event."""

from __future__ import annotations

import asyncio
import re
import time
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from typing import TYPE_CHECKING

from ..errors import EXIT_USAGE, NetsondeError
from ..wire.instant import instant_ns, parse_rfc3339, rfc3339
from .requests import read_nats_section

if TYPE_CHECKING:
    from ..wire.events import Event

EVENT_ID = re.compile(r"([A-Za-z0-9_-]+)\.([0-9a-f]{16})\.([0-9]{1,19})")
PLACE = re.compile(r"([A-Za-z0-9_-]+)@(\S+)")
SPAN = "30s"


class AroundError(NetsondeError):
    exit_code = EXIT_USAGE


def event_id(event: Event) -> str:
    """Returns `<host>.<boot>.<seq>`, which is unique."""
    return f"{event.host}.{event.boot}.{event.seq}"


def add_around_arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--around",
        metavar="EVENT-ID",
        help="packets around an event of `netsonde events`, or around HOST@TIME",
    )
    parser.add_argument(
        "--span", type=span_ns, metavar="TIME", help=f"--around: before and after it ({SPAN})"
    )


def span_ns(text: str) -> int:
    """Returns a duration such as 30s, 500ms or 2m."""
    now_ns = time.time_ns()
    try:
        return now_ns - instant_ns(f"-{text}", now_ns, field="--span")
    except NetsondeError:
        raise ArgumentTypeError(f"{text!r} is not a duration such as 30s or 2m") from None


def resolve_around(args: Namespace) -> None:
    """Sets host, start and end. Raises AroundError, or NetsondeError if the event is not found."""
    if args.around is None:
        if args.span is not None:
            raise AroundError("--span needs --around.")
        return
    chosen = (args.start, args.end, args.select, args.nodes, args.resume)
    if args.host or args.group or any(value is not None for value in chosen):
        raise AroundError("--around chooses the host and the time: leave out the other options.")
    place, known = PLACE.fullmatch(args.around), EVENT_ID.fullmatch(args.around)
    if place is not None:
        args.host, at_ns = [place[1]], read_time(place[2])
    elif known is not None:
        args.host = [known[1]]
        at_ns = asyncio.run(find_time(args, known[1], known[2], int(known[3])))
    else:
        raise AroundError(f"--around: {args.around!r} is neither an event's id nor HOST@TIME.")
    span = span_ns(SPAN) if args.span is None else args.span
    args.start, args.end = rfc3339(max(at_ns - span, 0)), rfc3339(at_ns + span)


def read_time(text: str) -> int:
    try:
        return instant_ns(text, time.time_ns(), field="--around")
    except NetsondeError as error:
        raise AroundError(error.detail) from None


async def find_time(args: Namespace, host: str, boot: str, seq: int) -> int:
    """Returns the time of a stored event."""
    from ..fleet.client import connect
    from ..fleet.events import StoredEvents, read_event, read_stored

    address = read_nats_section(args)
    subjects = [f"{address.root}.stream.events.{host}.*"]
    async with connect(address) as client:
        async for message in read_stored(client, StoredEvents(0, subjects)):
            try:
                event = read_event(message, address.root)
                if (event.boot, event.seq) == (boot, seq):
                    return parse_rfc3339(event.time)
            except ValueError:
                continue
    raise NetsondeError(
        f"The stream holds no event {args.around}. With its time: --around {host}@TIME."
    )
