"""`netsonde packets --follow`: live packets of hosts, merged into one pcapng."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import IO, TYPE_CHECKING

from ..errors import EXIT_REFUSED, EXIT_USAGE, NetsondeError
from ..fleet.outcome import Outcome
from ..wire.quantity import counted
from .downloads import STANDARD_OUTPUT, find_viewer, opened_viewer
from .files import WriteError
from .flow_filters import process
from .output import say
from .requests import print_failures, read_nats_section, read_pace, read_target, whole

if TYPE_CHECKING:
    from ..fleet.tap import TapOptions, TapSession

PROGRESS_SEC = 5.0
ANSWER_SEC = 5.0  # for each host to open its tap
MIB = 1 << 20


class FollowError(NetsondeError):
    exit_code = EXIT_USAGE


def add_follow_arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "-f",
        "--follow",
        action="store_true",
        help="copy live packets until Ctrl-C",
    )
    live = parser.add_argument_group("with --follow")
    live.add_argument("--snaplen", type=whole(0, 262_144), metavar="N", help="0: all (256)")
    live.add_argument("--interface", metavar="NAME", help="names and patterns, by commas (all)")
    live.add_argument("--process", type=process, metavar="GLOB|PID", help="of an end on the host")
    live.add_argument("--direction", choices=["both", "in", "out"], help="(both)")
    live.add_argument("--duration", type=whole(1, 3600), metavar="SEC", help="(3600)")
    live.add_argument("--rate-kbps", type=whole(1, 10_000_000), metavar="N", help="of each host")
    live.add_argument("--window-kib", type=whole(64, 4096), metavar="N", help="in flight (1024)")
    live.add_argument(
        "--reorder-ms", type=whole(0, 60_000), metavar="N", help="wait for a slow host (1000)"
    )
    live.add_argument("--rotate-mb", type=whole(1), metavar="N", help="a new file after N MB")
    live.add_argument("--rotate-sec", type=whole(1), metavar="N", help="a new file after N seconds")
    live.add_argument("--files", type=whole(1), metavar="N", help="keep the newest N files (all)")


LIVE_OPTIONS = (
    *(
        "snaplen",
        "interface",
        "process",
        "direction",
        "duration",
        "rate_kbps",
        "window_kib",
        "reorder_ms",
    ),
    *("rotate_mb", "rotate_sec", "files"),
)


def check_live_options(args: Namespace) -> None:
    """Raises FollowError for options that fit only a live or only a stored retrieval."""
    if args.follow:
        wrong = [name for name in ("start", "end") if getattr(args, name) is not None]
        wrong += [name for name in ("split", "list") if getattr(args, name)]
        wrong += [name for name in ("around", "delete") if getattr(args, name) is not None]
        wrong += ["to"] * (args.to == "file")
        if wrong:
            raise FollowError(f"--{wrong[0]} does not go with --follow.")
        if not args.filter:
            raise FollowError("--follow needs --filter; `ip or ip6` matches nearly all packets.")
        if args.write is None and not args.open:
            raise FollowError("--follow needs --write FILE, --write - or --open.")
        rotates = args.rotate_mb or args.rotate_sec
        if (rotates or args.files) and args.write in (None, STANDARD_OUTPUT):
            raise FollowError("Rotation needs --write FILE.")
        if args.files and not rotates:
            raise FollowError("--files needs --rotate-mb or --rotate-sec.")
        return
    given = [name for name in LIVE_OPTIONS if getattr(args, name) is not None]
    if given:
        raise FollowError(f"--{given[0].replace('_', '-')} needs --follow.")


def tap_options(args: Namespace) -> TapOptions:
    from ..fleet.tap import TapOptions

    return TapOptions(
        filter=args.filter,
        snaplen=256 if args.snaplen is None else args.snaplen,
        interface=args.interface or "",
        direction=args.direction or "both",
        max_packets=args.max_packets,
        max_bytes=args.max_bytes,
        duration_sec=args.duration or 3600,
        rate_kbps=args.rate_kbps,
        process=args.process,
        window_bytes=(args.window_kib or 1024) << 10,
        reorder_ms=1000 if args.reorder_ms is None else args.reorder_ms,
        statistics=args.open or args.write == STANDARD_OUTPUT,
    )


def run_follow(args: Namespace) -> int:
    """Returns 1 if a host refused, a host ended early or a packet was lost."""
    viewer = find_viewer() if args.open else None
    with opened_sink(args, viewer) as sink:
        return asyncio.run(follow(args, sink))


async def follow(args: Namespace, sink: Sink) -> int:
    from ..fleet.client import connect
    from ..fleet.tap import TapSession

    target = read_target(args)
    pace = read_pace(args)
    pace = replace(pace, timeout_sec=min(pace.timeout_sec, ANSWER_SEC))
    async with connect(read_nats_section(args), lasting=True, notify=say) as client:
        session = TapSession(client, tap_options(args), report=say)
        with stopped_by_signals(session.stop):
            shown = Progress(session)
            async for chunk in session.follow(target, pace):
                if not await asyncio.to_thread(sink.write, chunk):
                    session.stop()
                shown.show()
        print_failures(session.outcome, target.describe(), with_refusals=True)
        return summarize(session)


def summarize(session: TapSession) -> int:
    for line in session.summary():
        say(line)
    outcome: Outcome = session.outcome
    accepted = any(reply.accepted for reply in outcome.replies)
    if not accepted or not outcome.complete or session.failed or session.lost_packets:
        return EXIT_REFUSED
    return 0


class Progress:
    """Shows packets and losses on a terminal, every PROGRESS_SEC."""

    def __init__(self, session: TapSession) -> None:
        self._session = session
        self._due_sec = time.monotonic() + PROGRESS_SEC
        self._visible = sys.stderr.isatty()

    def show(self) -> None:
        if not self._visible or time.monotonic() < self._due_sec:
            return
        self._due_sec = time.monotonic() + PROGRESS_SEC
        hosts = self._session.hosts.values()
        packets, open_hosts = sum(one.packets for one in hosts), sum(not one.end for one in hosts)
        lost = self._session.lost_packets
        say(f"{counted(packets, 'packet')} from {counted(open_hosts, 'host')}, {lost} lost")


@contextlib.contextmanager
def stopped_by_signals(stop: Callable[[], None]) -> Iterator[None]:
    """Ctrl-C and SIGTERM call `stop`; a second one ends the command at once."""
    loop = asyncio.get_running_loop()
    numbers = (signal.SIGINT, signal.SIGTERM)

    def first() -> None:
        for number in numbers:
            loop.remove_signal_handler(number)
        stop()

    for number in numbers:
        loop.add_signal_handler(number, first)
    try:
        yield
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)


# ---- where the packets go ------------------------------------------------------------------------


class Sink:
    """A file or a pipe. `write` returns False when nobody reads the pipe any more."""

    def __init__(self, out: IO[bytes]) -> None:
        self._out = out

    def write(self, chunk: bytes) -> bool:
        try:
            self._out.write(chunk)
            self._out.flush()
        except BrokenPipeError:
            return False
        except OSError as error:
            raise WriteError(f"cannot write packets: {error.strerror or error}") from None
        return True


class RotatedFiles(Sink):
    """Files with a number and a time in their names. Each begins with the section and all
    interfaces so far."""

    def __init__(self, path: str, *, bytes_max: int, seconds_max: int, files_max: int) -> None:
        self._path = Path(path)
        self._bytes_max, self._seconds_max, self._files_max = bytes_max, seconds_max, files_max
        self._number = 0
        self._head = bytearray()  # section and interface blocks
        self._written: list[Path] = []
        self._bytes = 0
        self._began_sec = 0.0
        self._file: IO[bytes] | None = None

    def write(self, chunk: bytes) -> bool:
        try:
            for block in blocks(chunk):
                head = int.from_bytes(block[:4], "little") in (0x0A0D0D0A, 1)
                if head:
                    self._head += block
                self._put(block, head=head)
            if self._file is not None:
                self._file.flush()
        except OSError as error:
            raise WriteError(f"{self._path}: {error.strerror or error}") from None
        return True

    def _put(self, block: bytes, *, head: bool) -> None:
        full = self._bytes_max and self._bytes + len(block) > self._bytes_max
        old = self._seconds_max and time.monotonic() - self._began_sec >= self._seconds_max
        file = self._file
        if file is None or ((full or old) and not head):
            file = self._open()
            if head:
                return  # `_head` has it
        file.write(block)
        self._bytes += len(block)

    def _open(self) -> IO[bytes]:
        """Begins the next file, and removes those above the limit."""
        self.close()
        self._number += 1
        stamp = time.strftime("%Y%m%d%H%M%S")
        name = f"{self._path.stem}_{self._number:05d}_{stamp}{self._path.suffix}"
        path = self._path.with_name(name)
        file = os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")
        self._file = file
        file.write(self._head)
        self._bytes, self._began_sec = len(self._head), time.monotonic()
        self._written.append(path)
        while self._files_max and len(self._written) > self._files_max:
            self._written.pop(0).unlink(missing_ok=True)
        return file

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def blocks(chunk: bytes) -> Iterator[bytes]:
    """Yields each block of a chunk of whole pcapng blocks."""
    at = 0
    while at < len(chunk):
        length = int.from_bytes(chunk[at + 4 : at + 8], "little")
        yield chunk[at : at + length]
        at += length


@contextlib.contextmanager
def opened_sink(args: Namespace, viewer: Sequence[str] | None) -> Iterator[Sink]:
    if viewer is not None:
        with opened_viewer(viewer) as out:
            yield Sink(out)
    elif args.write == STANDARD_OUTPUT:
        yield Sink(sys.stdout.buffer)
    elif args.rotate_mb or args.rotate_sec:
        files = RotatedFiles(
            args.write,
            bytes_max=(args.rotate_mb or 0) * MIB,
            seconds_max=args.rotate_sec or 0,
            files_max=args.files or 0,
        )
        with contextlib.closing(files):
            yield files
    else:
        try:
            file = os.open(args.write, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        except OSError as error:
            raise WriteError(f"{args.write}: {os.strerror(error.errno or 5).lower()}") from None
        with os.fdopen(file, "wb") as out:
            yield Sink(out)
