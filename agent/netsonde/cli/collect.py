"""`netsonde collect`: writes flow records from the bus to files, each record once."""

from __future__ import annotations

import asyncio
import random
import re
import signal
import sys
import time
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from ..config.sections import NatsSection
from ..errors import EXIT_OK, EXIT_REFUSED, EXIT_USAGE, NetsondeError, UnreachableError
from .output import json_text, say
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

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..collect.collector import Collector
    from ..collect.files import Files
    from ..collect.source import Source
    from ..collect.state import State, StateFile
    from ..fleet.client import FleetClient, Pace
    from ..fleet.targeting import Target

RETRY_SEC, RETRY_SEC_MAX = 0.5, 10.0
GAPS_SHOWN = 20


class NobodyError(NetsondeError):
    """No host of the group replied."""


class CollectCommand:
    """Collect flow records into files, each record exactly once.

    A durable consumer pulls batches from the JetStream stream. A batch is acked only when it
    and the collector's state are on disk. After a crash the collector continues without a
    missing or duplicate record. Files end in `.part` until they are complete.

    --live subscribes to the records without JetStream. Records that are published while the
    collector does not run are missing and reported as a gap.

    --group and --limit select among the hosts that reply at the start; hosts that connect
    later are not collected. Named hosts, and all hosts, may connect at any time.
    """

    name = "collect"

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "-o", "--output", metavar="DIR", help="output directory (standard output)"
        )
        parser.add_argument(
            "--format", choices=["jsonl", "parquet"], default="jsonl", help="file format (jsonl)"
        )
        parser.add_argument("--live", action="store_true", help="subscribe without JetStream")
        parser.add_argument(
            "--durable", default="netsonde-collect", type=consumer_name, metavar="NAME",
            help="consumer name (netsonde-collect); use another one for each output",
        )  # fmt: skip
        parser.add_argument(
            "--stream", metavar="NAME", help="stream name (from --root: CAPTURE_FLOWS)"
        )
        parser.add_argument(
            "--rotate-mb", type=whole(1), default=256, metavar="N", help="MiB per file (256)"
        )
        parser.add_argument(
            "--rotate-sec", type=positive_seconds, default=300.0, metavar="S",
            help="complete a file after S seconds (300)",
        )  # fmt: skip
        parser.add_argument(
            "--ack-wait", type=positive_seconds, default=30.0, metavar="S",
            help="the server delivers unacked messages again after S seconds (30)",
        )  # fmt: skip
        parser.add_argument(
            "--until-idle", type=positive_seconds, metavar="S", help="stop after S idle seconds"
        )
        add_target_arguments(parser, json_help="print the final summary as one JSON object")
        add_pace_arguments(parser)
        add_connection_arguments(parser)

    def run(self, args: Namespace) -> int:
        if args.format == "parquet" and not args.output:
            notify("--format parquet needs --output DIR")
            return EXIT_USAGE
        return asyncio.run(collect(args))


def consumer_name(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_-]+", text):
        raise ArgumentTypeError(f"{text!r} is not a name of letters, digits, _ and -")
    return text


def notify(text: str) -> None:
    say(f"netsonde: {text}")


# ---- the run -------------------------------------------------------------------------------


async def collect(args: Namespace) -> int:
    from ..collect.source import ConsumerError, OtherReaderError

    address, target, pace = read_nats_section(args), read_target(args), read_pace(args)
    stream = "" if args.live else args.stream or stream_of(address.root)
    collector, state_file = make_collector(args, stream)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, collector.stopping.set)
    failure: ConsumerError | None = None
    try:
        try:
            await keep_collecting(args, address, target, pace, stream, collector)
        except OtherReaderError:
            raise  # the other collector receives these messages again
        except ConsumerError as error:
            failure = error
        await collector.finish()
    except BrokenPipeError:
        raise
    except OSError as error:
        # The messages are not acked, so they are delivered again.
        raise NetsondeError(f"{args.output or 'standard output'}: {error.strerror}") from None
    finally:
        if state_file is not None:
            state_file.close()
    print_summary(args, collector.state)
    if failure is not None:
        raise failure
    return EXIT_OK if is_complete(collector.state) else EXIT_REFUSED


def is_complete(state: State) -> bool:
    """Returns whether everything was collected, once, and could be believed."""
    ledger = state.ledger
    return not (state.totals.dead_letters or ledger.forgotten.any or any(ledger.gaps()))


def stream_of(root: str) -> str:
    from ..spool.streams import flows_stream

    return flows_stream(root)


def make_collector(args: Namespace, stream: str) -> tuple[Collector, StateFile | None]:
    from ..collect.collector import Collector, Rotation
    from ..collect.dead_letters import DeadLetters
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
    dead_letters = DeadLetters(directory)
    dead_letters.resume(state)
    collector = Collector(
        files, state_file, state, rotation=rotation, notify=notify, dead_letters=dead_letters
    )
    return collector, state_file


async def keep_collecting(
    args: Namespace,
    address: NatsSection,
    target: Target,
    pace: Pace,
    stream: str,
    collector: Collector,
) -> None:
    """Runs the collector. Reconnects with backoff after a lost connection."""
    from ..collect.files import ReaderGoneError
    from ..collect.source import ERRORS, NotAnsweredError, StreamMissingError
    from ..fleet.client import connect

    wait_sec, connected, noticed = RETRY_SEC, False, ""
    begun_sec = time.monotonic()
    subjects: list[str] = []
    while not collector.stopping.is_set():
        try:
            async with connect(address, lasting=True, notify=notify) as client:
                connected = True
                if not subjects:
                    hosts = await client.stream_hosts(target, pace)
                    subjects = flow_subjects(address.root, hosts)
                if not subjects:
                    raise NobodyError(f"no agent replied ({target.describe()})")
                source = make_source(args, subjects, stream, client)
                await collector.run(source, idle_sec=args.until_idle)
                return
        except UnreachableError as error:
            if not connected:
                raise
            notify(error.detail)
        except (NotAnsweredError, StreamMissingError) as error:
            if args.until_idle is not None and time.monotonic() - begun_sec >= args.until_idle:
                raise
            if error.detail != noticed:
                notify(f"{error.detail} Retrying.")
            noticed = error.detail
        except ReaderGoneError:
            raise BrokenPipeError from None
        except ERRORS as error:
            notify(f"{str(error) or repr(error)}; retrying")
            wait_sec = RETRY_SEC
        await pause(collector, wait_sec)
        wait_sec = min(wait_sec * 2, RETRY_SEC_MAX)


async def pause(collector: Collector, wait_sec: float) -> None:
    try:
        # Jitter: collectors must not all reconnect at the same time. Not a secret.
        async with asyncio.timeout(wait_sec * random.uniform(0.5, 1.0)):  # noqa: S311
            await collector.stopping.wait()
    except TimeoutError:
        pass


def flow_subjects(root: str, hosts: Sequence[str] | None) -> list[str]:
    """Returns the subjects of the hosts' flow streams. hosts: None for all."""
    return [f"{root}.stream.flows.{host}" for host in (("*",) if hosts is None else hosts)]


def make_source(args: Namespace, subjects: list[str], stream: str, client: FleetClient) -> Source:
    from ..collect.source import DurableSource, LiveSource

    if args.live:
        return LiveSource(client.connection, subjects=subjects, errors=client.errors)
    return DurableSource(
        client.connection,
        stream=stream,
        subjects=subjects,
        durable=args.durable,
        ack_wait_sec=args.ack_wait,
        errors=client.errors,
        notify=notify,
    )


def print_summary(args: Namespace, state: State) -> None:
    """Prints the summary on standard error, as records may go to standard output."""
    gaps = list(state.ledger.gaps())
    if args.json:
        summary = {
            **msgspec.to_builtins(state.totals),
            "forgotten": msgspec.to_builtins(state.ledger.forgotten),
            "gaps": [msgspec.to_builtins(g) for g in gaps],
        }
        say(json_text(summary))
        return
    totals = state.totals
    notify(
        f"{totals.records} records in {totals.batches} batches, {totals.packets} packets, "
        f"{totals.bytes} bytes; {totals.repeated} duplicate batches skipped"
    )
    if totals.dead_letters:
        where = f" in {Path(args.output) / 'dead-letters.jsonl'}" if args.output else ""
        notify(f"{totals.dead_letters} dead letters{where}")
    if state.ledger.forgotten.any:
        one = state.ledger.forgotten
        notify(
            f"the state is full: {one.hosts} hosts, {one.boots} boots and {one.holes} gaps with "
            f"{one.batches} missing batches are forgotten; duplicates of them are not recognised"
        )
    for gap in gaps[:GAPS_SHOWN]:
        notify(f"gap: {gap.host} boot {gap.boot}: batches {gap.first} to {gap.last} are missing")
    if len(gaps) > GAPS_SHOWN:
        notify(f"and {len(gaps) - GAPS_SHOWN} more gaps")
