"""The part of the Wireshark plug-in that needs NATS: lists hosts, checks a filter, captures.

A capture ends when Wireshark closes the pipe, sends SIGTERM or is gone. tshark that was killed
closes nothing: dumpcap keeps the pipe open. The process id of the parent then changes.

Wireshark shows all text on standard error as the error of the capture. A capture without faults
prints nothing there.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import select
import signal
import stat
import struct
import time
import traceback
from argparse import Namespace
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager, contextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING

from ..capture import link_types
from ..core.filters import FilterChecks
from ..errors import EXIT_OK, EXIT_REFUSED, EXIT_USAGE, NetsondeError
from ..fleet.targeting import ALL, Target, parse_target
from .output import notify, put, visible
from .requests import print_failures, read_nats_section

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from ..config.sections import NatsSection
    from ..fleet.tap import TapOptions, TapSession

LOG_NUMBER = 0  # equals the control in extcap.INTERFACES
WATCH_SEC = 0.1
CONNECT_SEC = 3.0
ANSWER_SEC = 5.0  # for each host to open its tap
RELOAD_SEC = 1.0
RELEASE_SEC = 5.0
READER_SEC = 30.0  # dumpcap opens the pipe when it starts
SIGNALS = (signal.SIGTERM, signal.SIGINT)
LOG_ADD = 2  # command of a control message


class ExtcapUsageError(NetsondeError):
    exit_code = EXIT_USAGE


def run(
    args: SimpleNamespace, parent: int, describe_hosts: Callable[[Sequence[str]], list[str]]
) -> int:
    """Returns the exit code. parent: the process id of Wireshark or tshark."""
    try:
        if args.capture and args.fifo:
            return asyncio.run(capture(args, parent))
        if args.extcap_config:
            return asyncio.run(print_hosts(args, describe_hosts))
        if args.extcap_capture_filter is not None:
            return asyncio.run(report_filter(args.extcap_capture_filter))
        raise ExtcapUsageError(
            "--capture with --fifo, --extcap-config or --extcap-capture-filter is missing"
        )
    except NetsondeError as error:
        return report(error)


def report(error: NetsondeError) -> int:
    """Returns the exit code."""
    with contextlib.suppress(BrokenPipeError):  # Wireshark was killed
        notify(error.detail)
    return error.exit_code


def read_address(args: SimpleNamespace) -> NatsSection:
    names = ("root", "jetstream_domain", "tls_ca", "tls_cert", "tls_key")
    given = {name: getattr(args, name) or None for name in ("config", "nats", "creds", "nkey")}
    return read_nats_section(Namespace(**dict.fromkeys(names), **given))


def read_hosts(args: SimpleNamespace) -> Target:
    hosts = [one.strip() for one in args.hosts.split(",") if one.strip()]
    groups = [args.group] if args.group else []
    if not (hosts or groups or args.select):
        return ALL
    return parse_target(hosts, groups, None, select=args.select or None)


async def print_hosts(
    args: SimpleNamespace, describe_hosts: Callable[[Sequence[str]], list[str]]
) -> int:
    """Prints the values of the field `Hosts`."""
    from ..fleet.client import connect
    from ..fleet.outcome import Pace

    async with connect(read_address(args)) as client:
        hosts = await client.expect_hosts(ALL, Pace(RELOAD_SEC)) or ()
    for line in describe_hosts(hosts):
        put(line)
    return EXIT_OK


async def report_filter(expression: str) -> int:
    """Prints why the filter is invalid. Wireshark reads the text only if the exit code is 0."""
    try:
        await check_filter(expression)
    except NetsondeError as error:
        put(error.detail)
    return EXIT_OK


async def check_filter(expression: str | None) -> None:
    """Raises NetsondeError. tshark starts a capture without having checked the filter."""
    if not (expression or "").strip():
        raise ExtcapUsageError("A capture filter is required, for example -f 'tcp port 443'.")
    await FilterChecks().check(expression or "", link_types.ALL, kernel=False)


# ---- capture -----------------------------------------------------------------------------------


async def capture(args: SimpleNamespace, parent: int) -> int:
    """Returns the exit code after the capture has ended."""
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in SIGNALS:
        loop.add_signal_handler(number, stopped.set)
    watching = asyncio.create_task(watch(lambda: os.getppid() != parent, stopped))
    code = EXIT_REFUSED
    try:
        with opened_log(args) as log:
            if args.fault:
                raise ExtcapUsageError(args.fault)
            await check_filter(args.extcap_capture_filter)
            await copy(args, log, stopped)
        code = EXIT_OK
    except NetsondeError as error:
        code = report(error)
    except Exception:  # a bug; Wireshark must not wait for the pipe
        traceback.print_exc()
    if code != EXIT_OK:
        await release_reader(args.fifo, stopped)
    watching.cancel()
    if os.getppid() != parent:
        remove_pipes(args)
    for number in SIGNALS:  # while the loop closes, Python would report them as an error
        loop.remove_signal_handler(number)
        signal.signal(number, signal.SIG_IGN)
    return code


async def watch(ended: Callable[[], bool], stopped: asyncio.Event) -> None:
    """Sets the event when the other side has ended."""
    while True:
        if ended():
            return stopped.set()
        await asyncio.sleep(WATCH_SEC)


def remove_pipes(args: SimpleNamespace) -> None:
    """Removes the named pipes that a killed Wireshark has left."""
    for path in filter(None, (args.fifo, args.extcap_control_in, args.extcap_control_out)):
        with contextlib.suppress(OSError):
            if stat.S_ISFIFO(os.lstat(path).st_mode):
                os.unlink(path)


def read_options(args: SimpleNamespace) -> TapOptions:
    from ..fleet.tap import TapOptions

    return TapOptions(
        filter=args.extcap_capture_filter,
        snaplen=args.snaplen,
        interface=args.iface,
        duration_sec=args.duration,
        rate_kbps=args.rate_kbps,
        window_bytes=args.window_kib << 10,
        reorder_ms=args.reorder_ms,
        statistics=True,
    )


async def copy(args: SimpleNamespace, log: Log, stopped: asyncio.Event) -> None:
    """Writes the packets to the pipe until one side ends. Raises NetsondeError."""
    from ..fleet.client import connect
    from ..fleet.outcome import Pace
    from ..fleet.tap import TapSession

    target, address = read_hosts(args), read_address(args)
    async with connect(address, lasting=True, notify=log.add, timeout_sec=CONNECT_SEC) as client:
        session = TapSession(client, read_options(args), log.add)
        stopping = asyncio.create_task(stop(session, stopped))
        try:
            async with aclosing(session.follow(target, Pace(ANSWER_SEC))) as chunks:
                first = await anext(chunks)
                log_hosts(session, log)
                if session.hosts:
                    await write_all(args.fifo, first, chunks, stopped)
        finally:
            stopping.cancel()
    for line in session.summary():
        log.add(line)
    with contextlib.suppress(BrokenPipeError):  # Wireshark was killed
        print_faults(session, target)
    if not session.hosts:
        raise NetsondeError(f"no host sends packets ({target.describe()})")


def log_hosts(session: TapSession, log: Log) -> None:
    log.add(f"hosts that send packets: {len(session.hosts)}")
    for reply in session.outcome.replies:
        if not reply.accepted:
            log.add(f"{reply.host}: {reply.code} {reply.body.get('detail', '')}")
    for absence in session.outcome.absences:
        log.add(f"{absence.host}: {absence.reason}")


async def stop(session: TapSession, stopped: asyncio.Event) -> None:
    await stopped.wait()
    session.stop()


async def write_all(
    fifo: str, first: bytes, chunks: AsyncIterator[bytes], stopped: asyncio.Event
) -> None:
    """Opens the pipe only now, so that Wireshark makes no file for a capture that was refused."""
    async with opened_pipe(fifo, stopped) as pipe:
        reading = pipe is not None and await pipe.write(first)
        async for chunk in chunks:  # to the end of every tap, which has the totals
            if pipe is None or not (reading and await pipe.write(chunk)):
                reading = False
                stopped.set()


async def release_reader(fifo: str, stopped: asyncio.Event) -> None:
    """Opens and closes the pipe of a capture that failed: Wireshark waits until that has happened,
    and then shows the error."""
    with contextlib.suppress(NetsondeError, TimeoutError):
        async with asyncio.timeout(RELEASE_SEC), opened_pipe(fifo, stopped):
            pass


def print_faults(session: TapSession, target: Target) -> None:
    """Wireshark shows the first 1,024 bytes."""
    for line in session.summary(faulty=True):
        notify(line)
    print_failures(session.outcome, target.describe(), with_refusals=True)


class Pipe:
    """The write end of a named pipe."""

    def __init__(self, file: int, stopped: asyncio.Event) -> None:
        self._file = file
        self._stopped = stopped
        self._room = asyncio.Event()

    def closed(self) -> bool:
        """Returns whether the reader has closed its end."""
        poll = select.poll()
        poll.register(self._file, 0)
        return bool(poll.poll(0))

    async def write(self, data: bytes) -> bool:
        """Returns False if the reader has closed its end, or does not read when the capture is to
        end."""
        left = memoryview(data)
        while left:
            try:
                left = left[os.write(self._file, left) :]
            except BlockingIOError:
                if self._stopped.is_set():
                    return False
                await self._wait_for_room()
            except BrokenPipeError:
                return False
        return True

    async def _wait_for_room(self) -> None:
        loop = asyncio.get_running_loop()
        self._room.clear()
        loop.add_writer(self._file, self._room.set)
        try:
            async with asyncio.timeout(WATCH_SEC):
                await self._room.wait()
        except TimeoutError:
            pass
        finally:
            loop.remove_writer(self._file)


@asynccontextmanager
async def opened_pipe(fifo: str, stopped: asyncio.Event) -> AsyncIterator[Pipe | None]:
    """Waits for the reader. Yields None if the capture is to end before. Raises NetsondeError."""
    deadline = time.monotonic() + READER_SEC
    while (file := try_open(fifo)) is None:
        if stopped.is_set():
            yield None
            return
        if time.monotonic() > deadline:
            raise NetsondeError(f"{fifo}: no program has opened the pipe to read")
        await asyncio.sleep(WATCH_SEC)
    pipe = Pipe(file, stopped)
    watching = asyncio.create_task(watch(pipe.closed, stopped))
    try:
        yield pipe
    finally:
        watching.cancel()
        os.close(file)


def try_open(fifo: str) -> int | None:
    """Returns None if the pipe has no reader yet. Raises NetsondeError."""
    try:
        return os.open(fifo, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno != errno.ENXIO:
            raise NetsondeError(f"{fifo}: {os.strerror(error.errno or 5).lower()}") from None
        return None


# ---- the log window ----------------------------------------------------------------------------


class Log:
    """Wireshark's log window of the capture. tshark has none: lines are then dropped."""

    def __init__(self, out: int) -> None:
        self._out = out

    def add(self, line: str) -> None:
        """A line that does not fit into the pipe is dropped; the capture never waits for it."""
        if self._out < 0:
            return
        # A message of up to PIPE_BUF bytes is written whole or not at all.
        text = f"{visible(line)}\n".encode()[: select.PIPE_BUF - 6]
        head = struct.pack(">cBHBB", b"T", 0, len(text) + 2, LOG_NUMBER, LOG_ADD)
        with contextlib.suppress(OSError):
            os.write(self._out, head + text)


@contextmanager
def opened_log(args: SimpleNamespace) -> Iterator[Log]:
    """Opens both control pipes. Wireshark's window is blocked until this side has opened them."""
    files: list[int] = []
    out = -1
    try:
        with contextlib.suppress(OSError):
            if args.extcap_control_in:
                flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
                files.append(os.open(args.extcap_control_in, flags))
            if args.extcap_control_out:
                # For reading too: opening then neither waits nor fails before Wireshark opens it.
                flags = os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC
                out = os.open(args.extcap_control_out, flags)
                files.append(out)
        yield Log(out)
    finally:
        for file in files:
            os.close(file)
