"""One open tap: moves packet blocks from the core to the caller, as far as the caller allows.

The caller grants bytes. Without credit nothing is taken from the core, whose ring then fills and
counts what it loses; capture never waits. The credit is also the lease: without it for LEASE_SEC
the tap ends. Each message reports what was lost since the one before, and the last one the totals,
for which matched = sent + lost holds.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, Protocol, TypeAlias

import msgspec

from ..core.tap import MESSAGE_BYTES_MAX, Tap, TapCounts, TapMessage
from ..core.threads import on_thread
from ..wire.replies import TapInterfaceState, TapState
from ..wire.requests import TAP_WINDOW_MAX

LEASE_SEC = 10
PROBE_SEC = 5.0
PROBE_TIMEOUT_SEC = 1.0
IDLE_SEC = 1.0  # between messages while no packet matches
TURN_SEC = 0.25
FLUSH_SEC = 1.0  # deadline of the packets in the ring when the tap ends
UNSENT_BYTES_MAX = 8 * MESSAGE_BYTES_MAX  # in the connection, not yet with the kernel

EndReason: TypeAlias = Literal[
    "stop", "duration", "limit", "lease", "no_responders", "session_stop", "sealed", "drain"
]


class Channel(Protocol):
    """The NATS connection of the taps."""

    @property
    def unsent_bytes(self) -> int: ...

    async def publish(
        self, subject: str, payload: bytes, headers: dict[str, str] | None = None
    ) -> bool: ...

    async def interest(self, subject: str, timeout_sec: float) -> bool: ...


@dataclass(slots=True)
class Totals:
    """Packets and bytes of their blocks."""

    packets: int = 0
    bytes: int = 0

    def since(self, before: Totals) -> Totals:
        return Totals(self.packets - before.packets, self.bytes - before.bytes)


@dataclass(slots=True)
class Sums:
    """matched = sent + lost, once the tap has ended."""

    matched: Totals = field(default_factory=Totals)
    sent: Totals = field(default_factory=Totals)
    ring: Totals = field(default_factory=Totals)  # lost: the ring was full, or a message
    rate: Totals = field(default_factory=Totals)  # lost to the rate

    @property
    def lost(self) -> Totals:
        return Totals(self.ring.packets + self.rate.packets, self.ring.bytes + self.rate.bytes)


@dataclass(frozen=True, slots=True)
class TapPlan:
    """subject: of the data messages. credit: bytes granted at first. closing: is set when the
    session ends. sealed: whether the tap must end because the buffer is sealed."""

    id: str
    filter: str
    subject: str
    credit: int
    duration_sec: float
    closing: asyncio.Event
    sealed: Callable[[], bool]
    name_of: Callable[[int, int], TapInterfaceState]  # slot and link type


class LiveTap:
    def __init__(self, tap: Tap, plan: TapPlan, channel: Channel) -> None:
        self.plan = plan
        self._tap = tap
        self._channel = channel
        self._credit = min(plan.credit, TAP_WINDOW_MAX)
        self._began = self._granted = self._spoke = time.monotonic()
        self._wake = asyncio.Event()
        self._ending: EndReason | None = None
        self._held: TapMessage | None = None  # taken, and not allowed yet
        self._through_ns = 0
        self._interfaces = 0  # numbers that the caller knows
        self._seq = 0
        self._unsent = Totals()  # in messages that the connection refused
        self._reported = Sums()
        self._limited = False
        self._settled = False  # `sums` are final
        self.sums = Sums()

    # ---- for the service ---------------------------------------------------------------------

    def grant(self, total_bytes: int) -> None:
        """Allows messages up to this total, at most the largest window ahead. Renews the lease."""
        ahead = self.sums.sent.bytes + TAP_WINDOW_MAX
        self._credit = max(self._credit, min(total_bytes, ahead))
        self._granted = time.monotonic()
        self._wake.set()

    def end(self, reason: EndReason) -> None:
        if self._ending is None:
            self._ending = reason
        self._wake.set()

    def set_rate(self, rate: int) -> None:
        self._tap.set_rate(rate)

    def state(self) -> TapState:
        self._count(self._tap.counts())
        return TapState(
            tap=self.plan.id,
            filter=self.plan.filter,
            age_sec=time.monotonic() - self._began,
            packets_matched=self.sums.matched.packets,
            packets_sent=self.sums.sent.packets,
            packets_lost=self.sums.lost.packets,
            bytes_sent=self.sums.sent.bytes,
        )

    # ---- the run -------------------------------------------------------------------------------

    async def run(self, known: int) -> EndReason:
        """Sends until the tap ends; returns why. known: interface numbers in the reply."""
        self._interfaces = known
        loop = asyncio.get_running_loop()
        loop.add_reader(self._tap.event_fd, self._on_readable)
        closing = asyncio.create_task(_after(self.plan.closing, "session_stop", self.end))
        probing = asyncio.create_task(self._probe())
        try:
            while (reason := self._reason()) is None:
                await self._send_ready()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._wake.wait(), TURN_SEC)
                self._wake.clear()
            await self._finish(reason)
            return reason
        finally:
            probing.cancel()
            closing.cancel()
            loop.remove_reader(self._tap.event_fd)
            await on_thread(self._tap.retire())

    def _on_readable(self) -> None:
        self._tap.rearm()
        self._wake.set()

    def _reason(self) -> EndReason | None:
        now = time.monotonic()
        if self._ending is not None:
            return self._ending
        if self._limited:
            return "limit"
        if self.plan.sealed():
            return "sealed"
        if now - self._granted >= LEASE_SEC:
            return "lease"
        return "duration" if now - self._began >= self.plan.duration_sec else None

    async def _probe(self) -> None:
        """Ends the tap when nobody subscribes to its messages."""
        while True:
            await asyncio.sleep(PROBE_SEC)
            if not await self._channel.interest(self.plan.subject, PROBE_TIMEOUT_SEC):
                self.end("no_responders")

    async def _send_ready(self) -> bool:
        """Sends what is ready and allowed. Returns whether the core's last message was sent."""
        while self._channel.unsent_bytes <= UNSENT_BYTES_MAX:
            message = self._held or self._tap.take()
            self._held = message
            if message is None:
                break
            if message.data and self.sums.sent.bytes + len(message.data) > self._credit:
                break
            self._held = None
            await self._send(message)
            if message.last:
                return True
        if time.monotonic() - self._spoke >= IDLE_SEC:
            await self._say({}, b"")
        return False

    async def _send(self, message: TapMessage) -> None:
        self._through_ns = max(self._through_ns, message.through_ns)
        self._limited = self._limited or message.limited
        headers = {}
        if message.interfaces > self._interfaces:
            headers["Interfaces"] = self._new_interfaces()
        if not message.data:
            if headers or time.monotonic() - self._spoke >= IDLE_SEC:
                await self._say(headers, b"")
            return
        headers |= {"First-Time": str(message.first_ns), "Last-Time": str(message.last_ns)}
        self.sums.sent.packets += message.packets
        self.sums.sent.bytes += len(message.data)
        if not await self._say(headers, message.data):
            self.sums.sent.packets -= message.packets
            self.sums.sent.bytes -= len(message.data)
            self._unsent.packets += message.packets
            self._unsent.bytes += len(message.data)

    def _new_interfaces(self) -> str:
        listed = self._tap.interfaces()
        added = [self.plan.name_of(one.slot, one.linktype) for one in listed[self._interfaces :]]
        self._interfaces = len(listed)
        return msgspec.json.encode(added).decode()

    async def _say(self, headers: dict[str, str], data: bytes) -> bool:
        """Sends one message with the headers that every message has."""
        self._count(self._tap.counts())
        ring = self.sums.ring.since(self._reported.ring)
        rate = self.sums.rate.since(self._reported.rate)
        said = {
            "Tap": self.plan.id,
            "Seq": str(self._seq + 1),
            "Sent": str(self.sums.sent.bytes),
            "Through": str(self._through_ns),
        }
        if ring.packets or rate.packets:
            said["Lost-Packets"] = f"ring={ring.packets},rate={rate.packets}"
            said["Lost-Bytes"] = f"ring={ring.bytes},rate={rate.bytes}"
        if not await self._channel.publish(self.plan.subject, data, said | headers):
            return False
        self._seq += 1
        self._spoke = time.monotonic()
        self._reported.ring = Totals(self.sums.ring.packets, self.sums.ring.bytes)
        self._reported.rate = Totals(self.sums.rate.packets, self.sums.rate.bytes)
        return True

    def _count(self, counts: TapCounts) -> None:
        if self._settled:
            return
        sums, unsent = self.sums, self._unsent
        sums.matched = Totals(counts.matched_packets, counts.matched_bytes)
        sums.rate = Totals(counts.lost_rate_packets, counts.lost_rate_bytes)
        sums.ring = Totals(
            counts.lost_ring_packets + unsent.packets, counts.lost_ring_bytes + unsent.bytes
        )

    # ---- the end ---------------------------------------------------------------------------------

    async def _finish(self, reason: EndReason) -> None:
        """Sends what is in the ring if the caller allows it, and the last message."""
        await on_thread(self._tap.stop)
        if reason not in ("limit", "lease", "no_responders", "sealed"):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(FLUSH_SEC):
                    while not await self._send_ready():
                        await self._wake.wait()
                        self._wake.clear()
        self._settle()
        await self._say({"End": reason} | _totals(self.sums), b"")

    def _settle(self) -> None:
        """Counts what stayed in the ring as lost; after a limit it does not count at all."""
        self._count(self._tap.counts())
        self._settled = True
        sums = self.sums
        if self._limited:
            sums.matched.packets = sums.sent.packets + sums.lost.packets
            sums.matched.bytes = sums.sent.bytes + sums.lost.bytes
        else:
            sums.ring.packets = sums.matched.packets - sums.sent.packets - sums.rate.packets
            sums.ring.bytes = sums.matched.bytes - sums.sent.bytes - sums.rate.bytes


def _totals(sums: Sums) -> dict[str, str]:
    return {
        "Matched-Packets": str(sums.matched.packets),
        "Matched-Bytes": str(sums.matched.bytes),
        "Sent-Packets": str(sums.sent.packets),
        "Sent-Bytes": str(sums.sent.bytes),
        "All-Lost-Packets": f"ring={sums.ring.packets},rate={sums.rate.packets}",
        "All-Lost-Bytes": f"ring={sums.ring.bytes},rate={sums.rate.bytes}",
    }


async def _after(event: asyncio.Event, reason: EndReason, end: Callable[[EndReason], None]) -> None:
    await event.wait()
    end(reason)
