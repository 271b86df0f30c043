"""`netsonde collect`: writes flow records from the bus to files, each record once."""

from __future__ import annotations

import asyncio
import random
import re
import signal
import sys
import time
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import msgspec

from ..config.sections import NatsSection
from ..errors import EXIT_OK, EXIT_REFUSED, EXIT_USAGE, NetsondeError, UnreachableError
from ..wire.quantity import counted
from ..wire.subjects import SHARDS_MAX, any_shard, flows_subject
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
    from ..collect.lease import Lease
    from ..collect.source import Source
    from ..collect.state import State, StateFile
    from ..fleet.client import FleetClient, Pace
    from ..fleet.members import Members
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

    Hosts may connect at any time. With an inventory, hosts that join a --group or --select later
    are collected too. --limit chooses among the hosts that reply at the start.

    --shards reads the streams of agents with [flows] shards. Several collectors with the same
    --durable share them: each shard has one reader, which holds a lease. Another collector
    continues when a reader stops or dies. If the collectors share the output directory, each
    record is written once in any case.
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
            "--shards", type=whole(1, SHARDS_MAX), default=1, metavar="P",
            help="[flows] shards of the agents; each in DIR/STREAM (1)",
        )  # fmt: skip
        parser.add_argument(
            "--max-shards", type=whole(1, SHARDS_MAX), default=SHARDS_MAX, metavar="N",
            help="read at most N shards at once, and leave the others to other collectors",
        )  # fmt: skip
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
        if args.shards > 1 and (args.live or args.stream or not args.output):
            notify("--shards needs --output DIR, and goes with neither --live nor --stream")
            return EXIT_USAGE
        return asyncio.run(collect(args))


def consumer_name(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_-]+", text):
        raise ArgumentTypeError(f"{text!r} is not a name of letters, digits, _ and -")
    return text


def notify(text: str) -> None:
    say(f"netsonde: {text}")


# ---- the run -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Job:
    """The task of one collector. shard: None without shards. stopping: set to end it."""

    args: Namespace
    address: NatsSection
    target: Target
    pace: Pace
    stopping: asyncio.Event
    shard: int | None = None
    lease: Lease | None = None

    @property
    def stream(self) -> str:
        if self.args.live:
            return ""
        from ..spool.streams import flows_stream

        return self.args.stream or flows_stream(self.address.root, self.shard)

    @property
    def directory(self) -> Path | None:
        if not self.args.output:
            return None
        output = Path(self.args.output)
        return output if self.shard is None else output / self.stream


async def collect(args: Namespace) -> int:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopping.set)
    job = Job(args, read_nats_section(args), read_target(args), read_pace(args), stopping)
    failure: NetsondeError | None = None
    if args.shards == 1:
        state, failure = await run_collector(job)
        states = [state]
    else:
        from .shards import collect_shards

        states, failure = await collect_shards(job)
    print_summary(args, states)
    if failure is not None:
        raise failure
    return EXIT_OK if all(map(is_complete, states)) else EXIT_REFUSED


async def run_collector(job: Job) -> tuple[State, NetsondeError | None]:
    """Collects until it is stopped or idle. Returns the state, and why the stream could not be
    read further. Raises OtherReaderError, LeaseLostError."""
    from ..collect.source import ConsumerError, OtherReaderError

    collector, state_file = make_collector(job)
    failure: ConsumerError | None = None
    try:
        try:
            await keep_collecting(job, collector)
        except OtherReaderError:
            raise  # the other collector receives these messages again
        except ConsumerError as error:
            failure = error
        await collector.finish()
    except BrokenPipeError:
        raise
    except OSError as error:
        # The messages are not acked, so they are delivered again.
        where = job.directory or "standard output"
        raise NetsondeError(f"{where}: {error.strerror}") from None
    finally:
        if state_file is not None:
            state_file.close()
    return collector.state, failure


def is_complete(state: State) -> bool:
    """Returns whether everything was collected, once, and could be believed."""
    ledger = state.ledger
    return not (state.totals.dead_letters or ledger.forgotten.any or any(ledger.gaps()))


def make_collector(job: Job) -> tuple[Collector, StateFile | None]:
    from ..collect.collector import Collector, Rotation
    from ..collect.dead_letters import DeadLetters
    from ..collect.files import JsonlFiles, Lines
    from ..collect.state import State, StateFile

    args, directory = job.args, job.directory
    rotation = Rotation(args.rotate_mb << 20, args.rotate_sec)
    files: Files
    state_file, dead_letters = None, None
    if directory is None:
        files = Lines(sys.stdout.fileno())
        state = State(format=files.format, stream=job.stream)
    else:
        state_file = StateFile(directory)
        if args.format == "parquet":
            from ..collect.parquet import ParquetFiles

            files = ParquetFiles(directory)
        else:
            files = JsonlFiles(directory)
        state = state_file.load(format=files.format, stream=job.stream)
        files.resume(state)
        dead_letters = DeadLetters(directory)
        dead_letters.resume(state)
    state.ledger.from_one = not args.live
    collector = Collector(
        files, state_file, state, rotation=rotation, notify=notify, dead_letters=dead_letters
    )
    collector.stopping = job.stopping
    return collector, state_file


async def keep_collecting(job: Job, collector: Collector) -> None:
    """Runs the collector. Reconnects with backoff after a lost connection."""
    from ..collect.files import ReaderGoneError
    from ..collect.source import ERRORS, NotAnsweredError, StreamMissingError
    from ..fleet.client import connect

    args = job.args
    wait_sec, connected, noticed = RETRY_SEC, False, ""
    begun_sec = time.monotonic()
    hosts = Hosts(job)
    while not collector.stopping.is_set():
        try:
            async with connect(job.address, lasting=True, notify=notify) as client:
                connected = True
                source = await hosts.source(client)
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


class Hosts:
    """The hosts whose records a collector reads; found once, on the first connection."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._subjects: list[str] = []
        self._members: Members | None = None

    async def source(self, client: FleetClient) -> Source:
        """Raises NobodyError."""
        from ..collect.lease import LeasedSource
        from ..collect.selected import SelectedSource

        if not self._subjects:
            await self._find(client)
        elif self._members is not None:
            self._members.client = client
        source = make_source(self._job, self._subjects, client)
        if self._members is not None:
            source = SelectedSource(source, self._members)
        return source if self._job.lease is None else LeasedSource(source, self._job.lease)

    async def _find(self, client: FleetClient) -> None:
        from ..fleet.members import Members, joins_late

        job, root = self._job, self._job.address.root
        members = Members(client, job.target)
        late = joins_late(job.target) and job.pace.limit is None and await members.read()
        hosts = await client.stream_hosts(job.target, job.pace)
        if late:
            members.first = frozenset(hosts or ())
            self._members, hosts = members, None
        self._subjects = flow_subjects(root, hosts, job.shard, live=job.args.live)
        if not self._subjects:
            raise NobodyError(f"no agent replied ({job.target.describe()})")


def flow_subjects(
    root: str, hosts: Sequence[str] | None, shard: int | None = None, *, live: bool = False
) -> list[str]:
    """Returns the subjects of the hosts' flow streams. hosts: None for all. live: of every shard,
    as there is no stream of one shard."""
    subjects = [flows_subject(root, host, shard) for host in ("*",) if hosts is None]
    subjects += [flows_subject(root, host, shard) for host in hosts or ()]
    return [one for subject in subjects for one in any_shard(subject)] if live else subjects


def make_source(job: Job, subjects: list[str], client: FleetClient) -> Source:
    from ..collect.source import DurableSource, LiveSource

    if job.args.live:
        return LiveSource(client.connection, subjects=subjects, errors=client.errors)
    return DurableSource(
        client.connection,
        stream=job.stream,
        subjects=subjects,
        durable=job.args.durable,
        ack_wait_sec=job.args.ack_wait,
        errors=client.errors,
        notify=notify,
        domain=client.address.jetstream_domain,
    )


def print_summary(args: Namespace, states: Sequence[State]) -> None:
    """Prints the summary on standard error, as records may go to standard output."""
    from ..collect.ledger import Forgotten
    from ..collect.state import Totals

    gaps = [gap for state in states for gap in state.ledger.gaps()]
    totals = sum_fields(Totals(), [state.totals for state in states])
    forgotten = sum_fields(Forgotten(), [state.ledger.forgotten for state in states])
    if args.json:
        summary = {
            **msgspec.to_builtins(totals),
            "forgotten": msgspec.to_builtins(forgotten),
            "gaps": [msgspec.to_builtins(g) for g in gaps],
        }
        say(json_text(summary))
        return
    notify(
        f"{counted(totals.records, 'record')} in {counted(totals.batches, 'batch', 'batches')}, "
        f"{counted(totals.packets, 'packet')}, {counted(totals.bytes, 'byte')}; "
        f"{counted(totals.repeated, 'duplicate batch', 'duplicate batches')} skipped"
    )
    if totals.dead_letters:
        directory = Path(args.output or "") / ("*" if args.shards > 1 else "")
        where = f" in {directory / 'dead-letters.jsonl'}" if args.output else ""
        notify(f"{counted(totals.dead_letters, 'dead letter')}{where}")
    if forgotten.any:
        one = forgotten
        notify(
            f"the state is full: {counted(one.hosts, 'host')}, {counted(one.boots, 'boot')} and "
            f"{counted(one.holes, 'gap')} with "
            f"{counted(one.batches, 'missing batch', 'missing batches')} are forgotten; "
            "duplicates of them are not recognised"
        )
    for gap in gaps[:GAPS_SHOWN]:
        notify(f"gap: {gap.host} boot {gap.boot}: batches {gap.first} to {gap.last} are missing")
    if len(gaps) > GAPS_SHOWN:
        notify(f"and {counted(len(gaps) - GAPS_SHOWN, 'more gap')}")


Sums = TypeVar("Sums", bound=msgspec.Struct)


def sum_fields(total: Sums, parts: Sequence[Sums]) -> Sums:
    """Adds the counts of the parts to the total."""
    for part in parts:
        for name in part.__struct_fields__:
            setattr(total, name, getattr(total, name) + getattr(part, name))
    return total
