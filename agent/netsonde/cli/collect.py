"""`netsonde collect`: flow records from the bus into files, each record once."""

from __future__ import annotations

import asyncio
import random
import re
import signal
import sys
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from ..config.sections import NatsSection
from ..errors import EXIT_OK, EXIT_REFUSED, EXIT_USAGE, NetsondeError, UnreachableError
from .requests import (
    add_connection_arguments,
    add_pace_arguments,
    add_target_arguments,
    positive_seconds,
    read_nats_section,
    read_pace,
    read_target,
    whole,
)
from .tables import visible

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nats.aio.client import Client

    from ..collect.collector import Collector
    from ..collect.files import Files
    from ..collect.source import Source
    from ..collect.state import State, StateFile
    from ..fleet.client import Pace
    from ..fleet.targeting import Target

RETRY_SEC, RETRY_SEC_MAX = 0.5, 10.0
GAPS_SHOWN = 20


class NobodyError(NetsondeError):
    """No host of the group is there."""


class CollectCommand:
    """Collect flow records into files, each record exactly once.

    Batches are pulled from the JetStream stream by a durable consumer and acknowledged only
    when they, and the state that says what has been collected, are on disk. Killed at any
    moment and started again, it goes on where it was: no record is missing and none is there
    twice. Files are named when they are complete; until then they end in `.part`.

    With --live the records are taken as they are published, without JetStream: what is
    published while the collector is away is missing, and told of as a gap.

    Of --group and --limit those hosts are meant that answer at the beginning: who comes later
    is not collected from. Hosts that are named, and all hosts, may come at any time.
    """

    name = "collect"

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "-o", "--output", metavar="DIR", help="directory of the files; default: standard output"
        )
        parser.add_argument(
            "--format", choices=["jsonl", "parquet"], default="jsonl", help="of the files (jsonl)"
        )
        parser.add_argument("--live", action="store_true", help="the stream as it passes")
        parser.add_argument(
            "--durable", default="netsonde-collect", type=consumer_name, metavar="NAME",
            help="of the consumer (netsonde-collect); one for each output",
        )  # fmt: skip
        parser.add_argument(
            "--stream", metavar="NAME", help="default: from the root, CAPTURE_FLOWS"
        )
        parser.add_argument(
            "--rotate-mb", type=whole(1), default=256, metavar="N", help="complete a file at N MiB"
        )
        parser.add_argument(
            "--rotate-sec", type=positive_seconds, default=300.0, metavar="S",
            help="or when it is S seconds old (300)",
        )  # fmt: skip
        parser.add_argument(
            "--ack-wait", type=positive_seconds, default=30.0, metavar="S",
            help="the server delivers again what was not acknowledged for S seconds (30)",
        )  # fmt: skip
        parser.add_argument(
            "--until-idle", type=positive_seconds, metavar="S", help="end when nothing came for S s"
        )
        add_target_arguments(parser, json_help="the summary at the end as one JSON object")
        add_pace_arguments(parser)
        add_connection_arguments(parser)

    def run(self, args: Namespace) -> int:
        if args.format == "parquet" and not args.output:
            notify("parquet needs --output DIR")
            return EXIT_USAGE
        return asyncio.run(collect(args))


def consumer_name(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_-]+", text):
        raise ArgumentTypeError(f"{text!r} is not a name of letters, digits, _ and -")
    return text


def notify(text: str) -> None:
    print(f"netsonde: {visible(text)}", file=sys.stderr, flush=True)


# ---- the run -------------------------------------------------------------------------------


async def collect(args: Namespace) -> int:
    address, target, pace = read_nats_section(args), read_target(args), read_pace(args)
    stream = "" if args.live else args.stream or stream_of(address.root)
    collector, state_file = make_collector(args, stream)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, collector.stopping.set)
    try:
        await keep_collecting(args, address, target, pace, stream, collector)
        await collector.finish()
    except BrokenPipeError:
        raise
    except OSError as error:
        # It was not acknowledged either, so it comes again.
        raise NetsondeError(f"{args.output or 'standard output'}: {error.strerror}") from None
    finally:
        if state_file is not None:
            state_file.close()
    tell(args, collector.state)
    return EXIT_REFUSED if any(collector.state.ledger.gaps()) else EXIT_OK


def stream_of(root: str) -> str:
    from ..spool.streams import flows_stream

    return flows_stream(root)


def make_collector(args: Namespace, stream: str) -> tuple[Collector, StateFile | None]:
    from ..collect.collector import Collector, Rotation
    from ..collect.files import JsonlFiles, Lines
    from ..collect.state import State, StateFile

    rotation = Rotation(args.rotate_mb << 20, args.rotate_sec)
    files: Files
    if not args.output:
        files = Lines(sys.stdout.fileno())
        state = State(format=files.format, stream=stream)
        state.ledger.from_one = not args.live
        return Collector(files, None, state, rotation=rotation, notify=notify), None
    directory = Path(args.output)
    state_file = StateFile(directory)
    if args.format == "parquet":
        from ..collect.parquet import ParquetFiles

        files = ParquetFiles(directory)
    else:
        files = JsonlFiles(directory)
    state = state_file.load(format=files.format, stream=stream)
    state.ledger.from_one = not args.live
    files.resume(state)
    return Collector(files, state_file, state, rotation=rotation, notify=notify), state_file


async def keep_collecting(
    args: Namespace,
    address: NatsSection,
    target: Target,
    pace: Pace,
    stream: str,
    collector: Collector,
) -> None:
    """Connects, and again with patience whenever the connection ends for good."""
    from ..collect.files import ReaderGoneError
    from ..collect.source import ERRORS, ConsumerError
    from ..fleet.client import connect

    wait_sec, connected = RETRY_SEC, False
    subjects: list[str] = []
    while not collector.stopping.is_set():
        try:
            async with connect(address, lasting=True, notify=notify) as client:
                connected = True
                if not subjects:
                    hosts = await client.stream_hosts(target, pace)
                    subjects = flow_subjects(address.root, hosts)
                if not subjects:
                    raise NobodyError(f"no agent answered ({target.describe()})")
                source = make_source(args, subjects, stream, client.connection)
                await collector.run(source, idle_sec=args.until_idle)
                return
        except UnreachableError as error:
            if not connected:
                raise
            notify(error.detail)
        except ConsumerError as error:
            notify(error.detail)
        except ReaderGoneError:
            raise BrokenPipeError from None
        except ERRORS as error:
            notify(f"{str(error) or repr(error)}; trying again")
            wait_sec = RETRY_SEC
        await pause(collector, wait_sec)
        wait_sec = min(wait_sec * 2, RETRY_SEC_MAX)


async def pause(collector: Collector, wait_sec: float) -> None:
    try:
        # Jitter, so that hosts do not come back all at once; no secret.
        async with asyncio.timeout(wait_sec * random.uniform(0.5, 1.0)):  # noqa: S311
            await collector.stopping.wait()
    except TimeoutError:
        pass


def flow_subjects(root: str, hosts: Sequence[str] | None) -> list[str]:
    """hosts: None for all."""
    return [f"{root}.stream.flows.{host}" for host in (("*",) if hosts is None else hosts)]


def make_source(args: Namespace, subjects: list[str], stream: str, client: Client) -> Source:
    from ..collect.source import DurableSource, LiveSource

    if args.live:
        return LiveSource(client, subjects=subjects)
    return DurableSource(
        client,
        stream=stream,
        subjects=subjects,
        durable=args.durable,
        ack_wait_sec=args.ack_wait,
    )


def tell(args: Namespace, state: State) -> None:
    """The summary, on standard error: standard output may be the records'."""
    gaps = list(state.ledger.gaps())
    if args.json:
        summary = {
            **msgspec.to_builtins(state.totals),
            "gaps": [msgspec.to_builtins(g) for g in gaps],
        }
        print(msgspec.json.encode(summary).decode(), file=sys.stderr)
        return
    totals = state.totals
    notify(
        f"{totals.records} records in {totals.batches} batches, {totals.packets} packets, "
        f"{totals.bytes} bytes; {totals.repeated} batches came again and were left out"
    )
    for gap in gaps[:GAPS_SHOWN]:
        notify(f"gap: {gap.host} boot {gap.boot}: batches {gap.first} to {gap.last} are missing")
    if len(gaps) > GAPS_SHOWN:
        notify(f"and {len(gaps) - GAPS_SHOWN} more gaps")
