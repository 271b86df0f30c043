"""A reader of one tap that does exactly what a test wants: when to grant, and how much."""

from __future__ import annotations

import asyncio
import json
import signal
import statistics
import struct
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nats.aio.msg import Msg

from agents import COMMAND, client_flags
from bus import Bus, Events, Reply
from deadlines import eventually
from servers import NatsServer

SECTION, INTERFACE, STATISTICS, PACKET = 0x0A0D0D0A, 1, 5, 6
WINDOW = 1 << 20  # default of the command
CAUSES = ("ring", "rate")


def packets_in(payload: bytes) -> Iterator[tuple[int, bytes]]:
    """Yields the time in ns and the captured bytes of each packet block."""
    at = 0
    while at < len(payload):
        kind, length = struct.unpack_from("<II", payload, at)
        high, low, caplen = struct.unpack_from("<III", payload, at + 12)
        assert kind == PACKET
        assert struct.unpack_from("<I", payload, at + length - 4)[0] == length
        yield high << 32 | low, payload[at + 28 : at + 28 + caplen]
        at += length


def causes(text: str | None) -> dict[str, int]:
    if not text:
        return dict.fromkeys(CAUSES, 0)
    return {name: int(number) for name, number in (one.split("=") for one in text.split(","))}


@dataclass
class Totals:
    """The totals in the last message."""

    matched: int
    sent: int
    lost: dict[str, int]
    sent_bytes: int
    matched_bytes: int
    lost_bytes: int


@dataclass
class Tapped:
    bus: Bus
    reply: dict[str, Any]
    messages: list[Msg] = field(default_factory=list)
    bytes_heard: int = 0

    @property
    def data(self) -> list[Msg]:
        return [one for one in self.messages if "Seq" in (one.headers or {})]

    def header(self, name: str) -> list[str]:
        return [(one.headers or {})[name] for one in self.data if name in (one.headers or {})]

    @property
    def frames(self) -> list[bytes]:
        return [frame for one in self.data for _, frame in packets_in(one.data)]

    @property
    def times_ns(self) -> list[int]:
        return [time_ns for one in self.data for time_ns, _ in packets_in(one.data)]

    @property
    def bytes(self) -> int:
        return sum(len(one.data) for one in self.data)

    @property
    def end(self) -> str | None:
        return next(iter(self.header("End")), None)

    def control(self, action: str) -> str:
        return f"tap.{self.reply['tap']}.{action}"

    async def grant(self, total: int, **options: Any) -> Reply:
        body = {"bytes": total, "through_seq": len(self.data)}
        return await self.bus.request(self.control("credit"), body, **options)

    async def stop(self) -> Totals:
        await self.bus.ok(self.control("stop"))
        return await self.ended()

    async def ended(self) -> Totals:
        await eventually(lambda: self.end is not None, "the tap to end")
        self.check()
        last = self.data[-1].headers or {}
        lost, lost_bytes = causes(last["All-Lost-Packets"]), causes(last["All-Lost-Bytes"])
        totals = Totals(
            int(last["Matched-Packets"]),
            int(last["Sent-Packets"]),
            lost,
            int(last["Sent-Bytes"]),
            int(last["Matched-Bytes"]),
            sum(lost_bytes.values()),
        )
        assert totals.matched == totals.sent + sum(lost.values())
        assert totals.matched_bytes == totals.sent_bytes + totals.lost_bytes
        assert totals.sent == len(self.frames)
        assert totals.sent_bytes == self.bytes
        reported = [causes(one) for one in self.header("Lost-Packets")]
        assert {name: sum(one[name] for one in reported) for name in CAUSES} == lost
        return totals

    def check(self) -> None:
        """Checks the headers of all messages so far."""
        assert [int(one) for one in self.header("Seq")] == list(range(1, len(self.data) + 1))
        through = [int(one) for one in self.header("Through")]
        assert through == sorted(through)
        sent = 0
        for one in self.data:
            assert len(one.data) <= 65536
            sent += len(one.data)
            assert int((one.headers or {})["Sent"]) == sent


async def open_tap(bus: Bus, *, host: str = "alpha", **body: Any) -> Tapped:
    """Opens a tap that must be accepted, and gathers its messages."""
    inbox = bus.client.new_inbox()
    tapped = Tapped(bus, {})

    async def keep(message: Msg) -> None:
        tapped.messages.append(message)
        tapped.bytes_heard += len(message.data)

    await bus.client.subscribe(f"{inbox}.*", cb=keep)
    tapped.reply = await bus.ok("tap", {"data": inbox, **body}, host=host)
    return tapped


async def refused(bus: Bus, **body: Any) -> tuple[int, str | None]:
    reply = await bus.request("tap", {"data": bus.client.new_inbox(), **body})
    return reply.code, reply.error


# ---- the command ---------------------------------------------------------------------------------


def blocks(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + 12 <= len(data):
        kind, length = struct.unpack_from("<II", data, at)
        if at + length > len(data):
            return
        yield kind, data[at : at + length]
        at += length


class Follow:
    """A running `netsonde packets --follow`."""

    def __init__(
        self,
        server: NatsServer,
        directory: Path,
        *arguments: str,
        prefix: Sequence[str] = (),
    ) -> None:
        self.path = directory / "live.pcapng"
        self.errors = directory / "follow.err"
        words = ["packets", "--follow", *client_flags(server.url), *arguments]
        if "-w" not in arguments:
            words += ["-w", str(self.path)]
        with self.errors.open("wb") as out:
            self.process = subprocess.Popen([*prefix, str(COMMAND), *words], stderr=out)

    @property
    def said(self) -> str:
        return self.errors.read_text()

    def kinds(self) -> list[int]:
        return [kind for kind, _ in blocks(self.path.read_bytes())] if self.path.exists() else []

    def drops(self) -> int:
        """Returns the last isb_ifdrop."""
        found = [one for kind, one in blocks(self.path.read_bytes()) if kind == STATISTICS]
        return int.from_bytes(found[-1][36:44], "little") if found else 0

    def packets(self) -> int:
        return self.kinds().count(PACKET)

    def packet_bytes(self) -> int:
        found = blocks(self.path.read_bytes())
        return sum(len(one) for kind, one in found if kind == PACKET)

    async def opened(self, hosts: int = 1) -> Follow:
        """Returns when the file has the interfaces of these hosts, each with one. A busy host joins
        after the first ones."""
        await eventually(
            lambda: self.kinds().count(INTERFACE) >= hosts or self.process.poll() is not None,
            f"{hosts} interfaces in the file",
        )
        assert self.process.poll() is None, self.said
        return self

    def stop(self) -> int:
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(60)


# ---- harm ----------------------------------------------------------------------------------------

PAIRS = 5


@dataclass
class Stall:
    """Harm that a stopped reader did until its tap ended. tapped, control: delays of
    `status` on the host of the tap, and on a host without one that captures the same packets, at
    the same time. pending_bytes: most that the server held for its connections."""

    tapped: list[float] = field(default_factory=list)
    control: list[float] = field(default_factory=list)
    pending_bytes: int = 0
    took_sec: float = 0.0

    def describe(self) -> str:
        return (
            f"status p99 {p99(self.tapped) * 1e3:.1f} ms, without a tap"
            f" {p99(self.control) * 1e3:.1f} ms ({len(self.tapped)} pairs);"
            f" tap ended after {self.took_sec:.1f} s; nats-server held {self.pending_bytes} bytes"
        )

    def check(self) -> None:
        """The tap ended in time, the server held one window at most, and the 99th percentile of
        `status` is not significantly above twice that of the host without a tap: no more delays
        exceed it than the hundredth and four standard deviations."""
        print(self.describe())
        assert self.took_sec < 10 + 3.5, self.describe()
        assert self.pending_bytes <= WINDOW + (64 << 10), self.describe()
        limit = 2 * p99(self.control)
        slow = sum(one > limit for one in self.tapped)
        expected = len(self.tapped) / 100
        assert slow <= expected + 4 * max(expected, 1) ** 0.5, (slow, self.describe())


async def until_ended(
    bus: Bus, control: Bus, server: NatsServer, audits: Events, offer: Callable[[], None]
) -> Stall:
    """Offers packets and measures until the tap of `bus` has ended."""
    stall = Stall()
    began = time.monotonic()
    while not ended_taps(audits):
        assert time.monotonic() - began < 60
        offer()
        for number in range(PAIRS):
            for tapped in (number % 2 == 0, number % 2 == 1):
                spent = await status_time(bus if tapped else control)
                (stall.tapped if tapped else stall.control).append(spent)
            await asyncio.sleep(0.005)
        held = await asyncio.to_thread(server.ask, "/connz")
        pending = sum(one["pending_bytes"] for one in held["connections"])
        stall.pending_bytes = max(stall.pending_bytes, pending)
    stall.took_sec = time.monotonic() - began
    return stall


async def status_time(bus: Bus) -> float:
    began = time.monotonic()
    await bus.ok("status")
    return time.monotonic() - began


def p99(times: list[float]) -> float:
    return statistics.quantiles(times, n=100)[98]


def check_bus(ended: dict[str, Any], live: Follow, server: NatsServer) -> None:
    """The host has sent one window at most that the reader did not write, and the server cut no
    connection for it."""
    assert ended["packets_matched"] == ended["packets_sent"] + ended["packets_lost"]
    assert ended["packets_lost"] > 0
    assert ended["bytes_sent"] - live.packet_bytes() <= WINDOW
    assert server.ask("/varz")["slow_consumers"] == 0


def ended_taps(audits: Events) -> list[dict[str, Any]]:
    """Returns the data of the events of ended taps."""
    found = [json.loads(one.data) for one in audits.messages]
    return [one["data"] for one in found if one["event"] == "tap_ended"]
