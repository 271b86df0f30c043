"""Live packets of many hosts as one pcapng: opens taps, pays for them, merges by time.

Each host sends as many bytes as it was granted. A grant follows what was written, so a slow writer
slows down the hosts, which count what they lose; nothing piles up here or on the bus. Every host
says until which time it has sent all (`Through`). Packets are written in order of time up to the
smallest of these, or after `reorder_ms` at the latest. The order of one host's packets is kept.
A host that replies late or appears later joins: its interfaces are written before its first packet.
A host whose agent or capture restarts joins again, after a gap.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from typing import Any

import msgspec
from nats.aio.msg import Msg

from ..errors import NetsondeError
from ..wire.quantity import counted
from ..wire.subjects import tapped_subject
from .client import FleetClient
from .outcome import PACE, Outcome, Pace
from .scatter import Reply
from .tap_blocks import Block, interface_block, section_block, statistics_block, with_comment
from .tap_host import GONE, MALFORMED, PASSING, HostTap
from .tap_reply import (
    Interface,
    Loss,
    MalformedError,
    TapMessage,
    read_message,
    read_opened,
    read_utc_ns,
)
from .tap_search import TapSearch
from .targeting import ALL, Target

GRANT_SEC = 3.0
SILENT_SEC = 3.0  # a host speaks every second
GONE_SEC = 10.0  # equals the lease
REJOIN_SEC = 20.0  # how long hosts may be away while no tap is open
BACK_OFF_SEC, BACK_OFF_SEC_MAX = 0.5, 30.0  # before a host is asked for another tap
TURN_SEC = 0.1
ENDING_SEC = 3.0  # for the last messages after a stop
CLOCK_PINGS = 3
CLOCK_TIMEOUT_SEC = 1.0
PROBE_SEC = 1.0
NOT_FOUND = "404"
CHUNK_BYTES = 1 << 18
EARLY_MESSAGES = 1024  # kept for a host that has not joined; its first credit allows fewer
EARLY_BYTES_MAX = 64 << 20  # kept for all of them

Report = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class TapOptions:
    """Options of a tap. statistics: write a statistics block every second, so that a closed pipe is
    noticed."""

    filter: str
    snaplen: int = 256
    interface: str = ""
    direction: str = "both"
    max_packets: int | None = None
    max_bytes: int | None = None
    duration_sec: int = 60
    rate_kbps: int | None = None
    process: str | int | None = None
    window_bytes: int = 1 << 20
    reorder_ms: int = 1000
    statistics: bool = False

    def body(self, inbox: str, elapsed_sec: float, before: HostTap | None) -> dict[str, Any]:
        """Returns the body of the request `tap`. elapsed_sec: of the duration. before: the host's
        tap that has ended, whose packets count for the limits."""
        packets, size = self.left(before)
        optional = {
            "max_packets": packets,
            "max_bytes": size,
            "rate_kbps": self.rate_kbps,
            "process": self.process,
        }
        return {
            "filter": self.filter,
            "data": inbox,
            "snaplen": self.snaplen,
            "interface": self.interface,
            "direction": self.direction,
            "duration_sec": max(self.duration_sec - int(elapsed_sec), 1),
            "credit": self.window_bytes,
            **{name: value for name, value in optional.items() if value is not None},
        }

    def left(self, before: HostTap | None) -> tuple[int | None, int | None]:
        """Returns the packets and bytes that the limits allow after the host's earlier tap."""
        packets, size = (0, 0) if before is None else (before.received, before.bytes_received)
        return (
            None if self.max_packets is None else self.max_packets - packets,
            None if self.max_bytes is None else self.max_bytes - size,
        )

    def ended(self, one: HostTap, elapsed_sec: float) -> bool:
        """Returns whether the host has sent all that was asked for."""
        left = (self.duration_sec - elapsed_sec, *self.left(one))
        return any(part is not None and part < 1 for part in left)


class TapSession:
    """One run of `follow`. report: gets a sentence for each loss and each host that comes or
    goes."""

    def __init__(
        self, client: FleetClient, options: TapOptions, report: Report = lambda text: None
    ) -> None:
        self.hosts: dict[str, HostTap] = {}
        self._client = client
        self._options = options
        self._report = report
        self._inbox = client.connection.new_inbox()
        self._search: TapSearch | None = None
        self._began_sec = 0.0
        self._opened: dict[str, HostTap] = {}  # their interfaces are not written yet
        self._preparing: set[asyncio.Task[None]] = set()
        self._probing: set[asyncio.Task[None]] = set()
        self._prepared: list[tuple[HostTap, list[Interface]]] = []
        self._early: dict[str, deque[Msg]] = {}  # messages of hosts that are not in `hosts` yet
        self._early_bytes = 0
        self._arrived: asyncio.Queue[Msg] = asyncio.Queue()
        self._stopping = asyncio.Event()
        self._interfaces = 0
        self._last_ns = 0  # time of the last packet written
        self._out = bytearray()
        self._statistics_sec = time.monotonic()
        self._watched_sec = time.monotonic()
        self._resumed_sec = 0.0  # when this process last continued after a stop

    @property
    def outcome(self) -> Outcome:
        """The last reply or the absence of each host."""
        return self._search.outcome if self._search is not None else Outcome()

    @property
    def lost_packets(self) -> int:
        return sum(one.loss.total for one in self.hosts.values())

    @property
    def failed(self) -> bool:
        """A host ended without being asked to, or was gone, or a message did not arrive."""
        return any(one.failed or one.missing or one.gaps for one in self.hosts.values())

    def stop(self) -> None:
        """Ends all taps; `follow` yields what is left and returns."""
        self._stopping.set()

    def summary(self, *, faulty: bool = False) -> list[str]:
        """Returns a sentence for each host, and one for each of its losses. faulty: only hosts that
        ended early or lost packets."""
        return [
            line for one in self.hosts.values() if one.faulty or not faulty for line in one.lines()
        ]

    # ---- the run --------------------------------------------------------------------------------

    async def follow(self, target: Target = ALL, pace: Pace = PACE) -> AsyncGenerator[bytes, None]:
        """Yields one pcapng: the section, one interface per host and interface, then packets.
        Raises the errors of FleetClient.ask."""
        nonce = self._inbox.rpartition(".")[2]
        elsewhere = tapped_subject(self._client.address.root, "mine", f"{nonce}.*")
        subscriptions = [
            await self._client.connection.subscribe(
                subject,
                cb=self._on_message,
                pending_msgs_limit=1 << 20,
                pending_bytes_limit=1 << 30,  # the grants are the limit
            )
            for subject in (f"{self._inbox}.*", elsewhere)
        ]
        granting: asyncio.Task[None] | None = None
        try:
            self._began_sec = time.monotonic()
            search = self._search = TapSearch(
                self._client, target, pace, self._request_body, self._on_opened
            )
            await search.start()
            await asyncio.gather(*self._preparing)
            self._out += section_block()
            self._admit(first=True)
            granting = asyncio.create_task(self._keep_leases())
            yield self._take()
            async for chunk in self._merge():
                yield chunk
        finally:
            if granting is not None:
                granting.cancel()
            if self._search is not None:
                await self._search.close()
            for task in (*self._preparing, *self._probing):
                task.cancel()
            await self._stop_all()
            for subscription in subscriptions:
                with contextlib.suppress(Exception):
                    await subscription.unsubscribe()

    async def _merge(self) -> AsyncGenerator[bytes, None]:
        """Yields merged packets until every tap has ended."""
        ending_sec = None
        while self._is_running():
            self._admit()
            if self._stopping.is_set() and ending_sec is None:
                await self._stop_all()
                ending_sec = time.monotonic() + ENDING_SEC
            if ending_sec is not None and time.monotonic() > ending_sec:
                for one in self.hosts.values():
                    one.end = one.end or GONE
                break
            await self._receive()
            await self._watch()
            self._release()
            self._add_statistics()
            if self._out:
                yield self._take()
            await self._grant_read()
        self._release(everything=True)
        for one in self.hosts.values():
            if one.end in PASSING:
                one.add_gap(time.monotonic())
            self._add_counts(one)
        if self._out:
            yield self._take()

    def _is_running(self) -> bool:
        joining = bool(self._preparing or self._prepared)
        return joining or any(self._is_open(one) for one in self.hosts.values())

    def _take(self) -> bytes:
        taken = bytes(self._out)
        self._out.clear()
        return taken

    # ---- hosts ----------------------------------------------------------------------------------

    def _request_body(self, lost: str | None) -> dict[str, Any]:
        before = None if lost is None else self.hosts[lost]
        return self._options.body(self._inbox, time.monotonic() - self._began_sec, before)

    def _on_opened(self, reply: Reply) -> None:
        """A host has opened its tap."""
        old = self.hosts.get(reply.host)
        try:
            opened = read_opened(reply.body)
        except MalformedError as error:
            one = HostTap(reply.host, "", window=0)
            if old is not None:
                one.continue_from(old)
            self.hosts[reply.host] = one
            self._reject(one, error)
            return
        credit = opened.limits.credit
        one = HostTap(reply.host, opened.tap, window=credit, granted=credit)
        one.granted_sec = time.monotonic()
        self._opened[one.host] = one
        task = asyncio.create_task(self._prepare(one, opened.interfaces))
        self._preparing.add(task)
        task.add_done_callback(self._preparing.discard)

    async def _prepare(self, one: HostTap, interfaces: list[Interface]) -> None:
        await self._measure_clock(one)
        self._prepared.append((one, interfaces))

    def _admit(self, *, first: bool = False) -> None:
        """Writes the interfaces of the hosts that are prepared, and reads what they have sent so
        far. first: the hosts that were there at the start are not reported."""
        prepared, self._prepared = self._prepared, []
        for one, interfaces in sorted(prepared, key=lambda each: each[0].host):
            old = self.hosts.get(one.host)
            self.hosts[one.host] = self._opened.pop(one.host)
            if old is not None:
                gap_sec = one.continue_from(old)
                self._report(f"{one.host}: joined again after a gap of {gap_sec:.1f} s")
            elif not first:
                self._report(f"{one.host}: joined")
            one.heard_sec = time.monotonic()
            self._add_interfaces(one, interfaces)
            for message in self._early.pop(one.host, ()):
                self._early_bytes -= size_of(message)
                self._read(message)

    def _add_interfaces(self, one: HostTap, listed: list[Interface]) -> None:
        comment = ""
        if one.clock_error_ns is not None:
            comment = f"clock error of {one.host}: at most {one.clock_error_ns / 1e6:.1f} ms"
        for interface in listed:
            if not one.add_interface(interface, self._interfaces):
                continue
            self._interfaces += 1
            self._out += interface_block(
                f"{one.host}/{interface.name}",
                interface.linktype,
                interface.snaplen,
                expression=self._options.filter,
                comment=comment,
            )

    def _control(self, one: HostTap, action: str) -> str:
        return f"{self._client.address.root}.host.{one.host}.tap.{one.id}.{action}"

    async def _measure_clock(self, one: HostTap) -> None:
        """Asks for the host's time. The error is at most the difference plus half the time of the
        shortest round trip."""
        best: tuple[int, int] | None = None
        credit = msgspec.json.encode({"bytes": one.granted, "through_seq": 0})
        for _ in range(CLOCK_PINGS):
            sent_ns = time.time_ns()
            answer = await self._client.request(
                self._control(one, "credit"), credit, CLOCK_TIMEOUT_SEC
            )
            back_ns = time.time_ns()
            found = None if answer is None else read_utc_ns(answer)
            if found is None:
                return
            trip = back_ns - sent_ns
            if best is None or trip < best[0]:
                best = trip, found - (sent_ns + trip // 2)
        if best is not None:
            one.clock_error_ns = abs(best[1]) + best[0] // 2

    async def _grant(self, one: HostTap) -> None:
        one.granted = max(one.granted, one.written + one.window)
        one.granted_sec = time.monotonic()
        body = msgspec.json.encode({"bytes": one.granted, "through_seq": one.seq})
        with contextlib.suppress(Exception):  # the connection is down: the lease decides
            await self._client.connection.publish(self._control(one, "credit"), body)

    async def _grant_read(self) -> None:
        """Grants what was written since, at half the window."""
        for one in list(self.hosts.values()):
            if not one.end and one.written + one.window - one.granted >= one.window // 2:
                await self._grant(one)

    async def _keep_leases(self) -> None:
        """Renews the leases also while the writer is blocked."""
        while True:
            await asyncio.sleep(GRANT_SEC / 3)
            for one in list(self.hosts.values()):
                if not one.end and time.monotonic() - one.granted_sec >= GRANT_SEC - 0.1:
                    await self._grant(one)

    async def _stop_all(self) -> None:
        for one in (*self.hosts.values(), *self._opened.values()):
            if not one.end:
                await self._stop(one)
        with contextlib.suppress(Exception):
            await self._client.connection.flush(1)

    async def _stop(self, one: HostTap) -> None:
        with contextlib.suppress(Exception):
            await self._client.connection.publish(self._control(one, "stop"), b"{}")

    async def _watch(self) -> None:
        """Notices hosts that have become silent."""
        now = time.monotonic()
        if now - self._watched_sec >= SILENT_SEC:
            self._resumed_sec = now  # this process was stopped: messages wait to be read
        self._watched_sec = now
        if not self._arrived.empty():
            return
        for one in list(self.hosts.values()):
            quiet = now - max(one.heard_sec, self._resumed_sec)
            if one.end:
                continue
            if quiet >= GONE_SEC:
                self._report(f"{one.host}: gone: nothing came for {GONE_SEC:.0f} s")
                await self._end_gone(one)
            elif quiet >= SILENT_SEC and not one.silent:
                one.silent = True
                self._report(f"{one.host}: silent for {SILENT_SEC:.0f} s; not waiting for it")
                task = asyncio.create_task(self._probe(one))
                self._probing.add(task)
                task.add_done_callback(self._probing.discard)

    async def _probe(self, one: HostTap) -> None:
        """Asks a silent host whether it still has the tap. An agent that has restarted does not."""
        credit = msgspec.json.encode({"bytes": one.granted, "through_seq": one.seq})
        while one.silent and not one.end:
            with contextlib.suppress(NetsondeError):
                subject = self._control(one, "credit")
                reply = await self._client.request_message(subject, credit, PROBE_SEC)
                status = ((reply and reply.headers) or {}).get("Status-Code")
                if status == NOT_FOUND and one.silent and not one.end:
                    self._report(f"{one.host}: gone: its agent has no such tap")
                    await self._end_gone(one)
            await asyncio.sleep(PROBE_SEC)

    # ---- hosts that come back -------------------------------------------------------------------

    async def _end_gone(self, one: HostTap) -> None:
        one.end = GONE
        self._lose(one)
        await self._stop(one)  # if it continues, it does not have two taps

    def _lose(self, one: HostTap) -> None:
        """Asks the host for another tap, if its agent or capture has ended. A tap that never sent a
        message cannot be read from here: the host is not asked again."""
        now = time.monotonic()
        asked_for = self._stopping.is_set() or self._options.ended(one, now - self._began_sec)
        if one.end not in PASSING or not one.seq or asked_for or self._search is None:
            return
        one.away, one.lost_sec = True, now
        self._report(f"{one.host}: waiting until it sends packets again")
        self._search.lost(one.host, min(BACK_OFF_SEC * 2**one.short_taps, BACK_OFF_SEC_MAX))

    def _is_open(self, one: HostTap) -> bool:
        """Returns whether the host sends packets, or may soon do so again."""
        now = time.monotonic()
        if not one.end or not one.away or self._search is None:
            return not one.end
        wanted = not self._stopping.is_set() and now - self._began_sec < self._options.duration_sec
        return wanted and now - one.lost_sec < REJOIN_SEC and self._search.awaits(one.host)

    # ---- messages -------------------------------------------------------------------------------

    async def _on_message(self, message: Msg) -> None:
        await self._arrived.put(message)

    async def _receive(self) -> None:
        """Reads what has arrived; waits a moment if nothing has."""
        with contextlib.suppress(TimeoutError):
            self._read(await asyncio.wait_for(self._arrived.get(), TURN_SEC))
        while not self._arrived.empty() and len(self._out) < CHUNK_BYTES:
            self._read(self._arrived.get_nowait())

    def _keep(self, host: str, message: Msg) -> None:
        """Keeps a message for a host that has not joined. A dropped one is a gap in its numbers."""
        kept = self._early.setdefault(host, deque())
        if len(kept) < EARLY_MESSAGES and self._early_bytes + size_of(message) <= EARLY_BYTES_MAX:
            kept.append(message)
            self._early_bytes += size_of(message)
        elif not kept:
            del self._early[host]

    def _read(self, message: Msg) -> None:
        headers = message.headers or {}
        host = message.subject.rpartition(".")[2]
        one = self.hosts.get(host)
        if one is None or (one.away and headers.get("Tap", one.id) != one.id):  # a reply may follow
            self._keep(host, message)
            return
        if headers.get("Tap") != one.id or "Seq" not in headers or one.end == MALFORMED:
            return  # a probe of the lease, or not a message of these taps
        try:
            read = read_message(headers, message.data)
            if read.sent > one.granted:
                raise MalformedError("more bytes than were granted")
        except MalformedError as error:
            self._reject(one, error)
        else:
            self._take_in(one, read)

    def _take_in(self, one: HostTap, read: TapMessage) -> None:
        if read.seq <= one.seq:
            return
        one.missing += read.seq - one.seq - 1
        one.seq = read.seq
        one.heard_sec = time.monotonic()
        if one.silent and not one.end:
            one.silent = False
            self._report(f"{one.host}: back")
        one.sent = max(one.sent, read.sent)
        self._count_loss(one, read.loss)
        self._add_interfaces(one, read.interfaces)
        for block in read.blocks:
            self._queue(one, block)
        one.through_ns = max(one.through_ns, read.through_ns)
        if read.end and not one.end:
            one.end = read.end
            one.through_ns = 1 << 63
            if read.end != "stop":
                self._report(f"{one.host}: the tap ended: {read.end}")
            self._lose(one)

    def _queue(self, one: HostTap, block: Block) -> None:
        """Lets a packet wait, with the number of its interface in the merged file."""
        if block.number >= len(one.interfaces):
            one.missing += 1
            return
        number = one.interfaces[block.number][1]
        one.waiting.append((Block(block.data, number, block.time_ns), one.heard_sec))
        one.queued += len(block.data)

    def _reject(self, one: HostTap, error: MalformedError) -> None:
        """Reads no more from this host, whose lease then ends."""
        one.end = MALFORMED
        self._report(f"{one.host}: malformed: {error}")

    def _count_loss(self, one: HostTap, lost: Loss) -> None:
        if not lost.total:
            return
        one.loss.ring += lost.ring
        one.loss.rate += lost.rate
        one.comment = f"{counted(lost.total, 'packet')} lost before this one"
        self._add_counts(one)
        self._report(f"{one.host}: {counted(lost.total, 'packet')} lost ({one.loss.total} so far)")

    # ---- order ----------------------------------------------------------------------------------

    def _release(self, *, everything: bool = False) -> None:
        """Writes waiting packets in order of time: up to the time that every host has passed, and
        those that have waited for reorder_ms."""
        speaking = [one for one in self.hosts.values() if not one.silent and not one.end]
        through_ns = min((one.through_ns for one in speaking), default=1 << 63)
        overdue_sec = time.monotonic() - self._options.reorder_ms / 1000
        while True:
            one = min(
                (one for one in self.hosts.values() if one.waiting),
                key=lambda one: one.waiting[0][0].time_ns,
                default=None,
            )
            if one is None:
                return
            block, arrived_sec = one.waiting[0]
            if not everything and block.time_ns > through_ns and arrived_sec > overdue_sec:
                if not self._release_overdue(overdue_sec):
                    return
                continue
            self._write(one)

    def _release_overdue(self, overdue_sec: float) -> bool:
        """Writes the oldest packet of a host whose head has waited too long. False if none has."""
        for one in self.hosts.values():
            if one.waiting and one.waiting[0][1] <= overdue_sec:
                self._write(one)
                return True
        return False

    def _write(self, one: HostTap) -> None:
        block = one.take()
        data = block.renumbered(block.number)
        if one.comment:
            data, one.comment = with_comment(data, one.comment), ""
        self._out += data
        one.packets += 1
        if block.time_ns < self._last_ns:
            one.late += len(self.hosts) > 1
        else:
            self._last_ns = block.time_ns

    def _add_statistics(self) -> None:
        now = time.monotonic()
        if not self._options.statistics or now - self._statistics_sec < 1.0:
            return
        self._statistics_sec = now
        for one in self.hosts.values():
            self._add_counts(one)

    def _add_counts(self, one: HostTap) -> None:
        if one.number is not None:
            self._out += statistics_block(one.number, time.time_ns(), one.packets, one.loss.total)


def size_of(message: Msg) -> int:
    """Returns about the bytes that a message takes in memory."""
    return len(message.data) + 1024
