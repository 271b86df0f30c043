"""The merge of live packets: hosts with wrong clocks, a host that stops, and a real nats-server.

The hosts are played by the test, because the clocks of real agents on one machine are equal. Each
answers `tap`, sends blocks with the headers of docs/tap.md, and hears the grants.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import struct
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from nats.aio.msg import Msg

from bus import Bus
from deadlines import eventually
from netsonde.fleet import tap, tap_search
from netsonde.fleet.client import FleetClient, connect
from netsonde.fleet.outcome import Pace
from netsonde.fleet.tap import TapOptions, TapSession
from netsonde.fleet.targeting import Target
from servers import NatsServer

MS = 1_000_000
PACKET = 6
SKEWS = {"even": 0, "ahead": 40 * MS, "behind": -40 * MS}


class Played:
    """A host whose clock is off by skew_ns."""

    def __init__(self, bus: Bus, host: str, skew_ns: int) -> None:
        self.bus, self.host, self.skew_ns = bus, host, skew_ns
        self.inbox = ""
        self.seq = self.sent = 0
        self.granted: list[int] = []
        self.stopped = asyncio.Event()
        self.replaced: dict[str, Any] = {}  # in the reply to `tap`
        self.code = 200  # status of the reply to `tap`
        self.silent = False

    async def listen(self) -> None:
        prefix = f"capture.host.{self.host}.tap"
        await self.bus.client.subscribe(prefix, cb=self._on_open)
        await self.bus.client.subscribe(f"{prefix}.>", cb=self._on_control)

    async def _answer(self, message: Msg, body: dict[str, Any], code: int = 200) -> None:
        headers = {"Status-Code": str(code), "Host": self.host, "Content-Type": "application/json"}
        await self.bus.client.publish(
            message.reply, json.dumps({"host": self.host, **body}).encode(), headers=headers
        )

    async def _on_open(self, message: Msg) -> None:
        if self.silent:
            return
        body = json.loads(message.data)
        self.inbox = body["data"]
        interface = {"name": "eth0", "linktype": 1, "tsresol": 9, "snaplen": 256}
        await self._answer(
            message,
            {
                "tap": f"id-{self.host}",
                "data": f"{self.inbox}.{self.host}",
                "interfaces": [interface],
                "limits": {"credit": body["credit"], "rate_kbps": 0, "snaplen": 256},
                "clock": {"utc_ns": time.time_ns() + self.skew_ns, "offset_known": False},
                "lease_sec": 10,
                **self.replaced,
            },
            self.code,
        )

    async def _on_control(self, message: Msg) -> None:
        if message.subject.endswith(".stop"):
            self.stopped.set()
        else:
            self.granted.append(json.loads(message.data)["bytes"])
        if message.reply:
            await self._answer(message, {"utc_ns": time.time_ns() + self.skew_ns})

    async def say(self, numbers: range, through_ns: int, **headers: str) -> None:
        """Sends packets whose times are their numbers, in milliseconds of this host's clock."""
        data = b"".join(block(number, number * MS + self.skew_ns) for number in numbers)
        self.seq += 1
        self.sent += len(data)
        said = {
            "Tap": f"id-{self.host}",
            "Seq": str(self.seq),
            "Sent": str(self.sent),
            "Through": str(through_ns + self.skew_ns),
        }
        renamed = {name.replace("_", "-"): value for name, value in headers.items()}
        await self.bus.client.publish(f"{self.inbox}.{self.host}", data, headers=said | renamed)


def block(number: int, time_ns: int) -> bytes:
    data = number.to_bytes(8)
    length = 44 + len(data)
    head = struct.pack(
        "<7I", PACKET, length, 0, time_ns >> 32, time_ns & 0xFFFFFFFF, len(data), len(data)
    )
    return head + data + struct.pack("<4I", 2 | 4 << 16, 1, 0, length)


@pytest.fixture
def origin() -> int:
    """The number of a packet now."""
    return time.time_ns() // MS


@contextlib.asynccontextmanager
async def followed(
    server: NatsServer, session_options: TapOptions, said: list[str], timeout_sec: float = 10
) -> AsyncIterator[tuple[TapSession, bytearray, asyncio.Task[None]]]:
    """A running session, what it has written, and its task."""
    written = bytearray()
    async with connect(server.url, lasting=True) as client:
        session = TapSession(client, session_options, said.append)
        task = asyncio.create_task(gather(client, session, written, timeout_sec))
        try:
            yield session, written, task
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def gather(
    client: FleetClient, session: TapSession, written: bytearray, timeout_sec: float
) -> None:
    async for chunk in session.follow(Target(hosts=tuple(SKEWS)), Pace(timeout_sec)):
        written += chunk


def parsed(data: bytes | bytearray) -> tuple[list[str], list[tuple[int, int, str]], list[int]]:
    """Returns the interface names, (interface, time, comment) of packets, and isb_ifdrop values."""
    names: list[str] = []
    packets: list[tuple[int, int, str]] = []
    drops: list[int] = []
    at = 0
    while at + 12 <= len(data):
        kind, length = struct.unpack_from("<II", data, at)
        body = bytes(data[at + 8 : at + length - 4])
        if kind == 1:
            names.append(options(body[8:])[2].decode())
        elif kind == PACKET:
            number, high, low, caplen = struct.unpack_from("<4I", body)
            rest = options(body[20 + (caplen + 3) // 4 * 4 :])
            packets.append((number, high << 32 | low, rest.get(1, b"").decode()))
        elif kind == 5:
            drops.append(int.from_bytes(options(body[12:])[5], "little"))
        at += length
    return names, packets, drops


def options(data: bytes) -> dict[int, bytes]:
    found, at = {}, 0
    while at + 4 <= len(data):
        code, length = struct.unpack_from("<HH", data, at)
        if code == 0:
            break
        found[code] = data[at + 4 : at + 4 + length]
        at += 4 + (length + 3) // 4 * 4
    return found


@pytest_asyncio.fixture
async def hosts(bus: Bus) -> list[Played]:
    made = [Played(bus, host, skew_ns) for host, skew_ns in SKEWS.items()]
    for one in made:
        await one.listen()
    await bus.client.flush()
    return made


async def opened(hosts: list[Played], session: TapSession) -> None:
    await eventually(lambda: len(session.hosts) == 3, "three taps")


async def test_wrong_clocks_keep_the_order_of_each_host(
    nats_server: NatsServer, hosts: list[Played], origin: int
) -> None:
    """All packets are there, in order of the times as written; the clock error is in the file."""
    said: list[str] = []
    options_ = TapOptions(filter="udp", reorder_ms=60_000)
    async with followed(nats_server, options_, said) as (session, written, task):
        await opened(hosts, session)
        for step in range(20):
            numbers = range(origin + step * 10, origin + step * 10 + 10)
            for one in hosts:
                await one.say(numbers, numbers.stop * MS)
        for one in hosts:
            await one.say(range(0), 0, End="stop")
        await asyncio.wait_for(task, 30)
        names, packets, _ = parsed(written)
        assert names == [f"{host}/eth0" for host in sorted(SKEWS)]
        assert len(packets) == 600
        times = [time_ns for _, time_ns, _ in packets]
        assert times == sorted(times)
        assert not session.failed
        errors = {one.host: one.clock_error_ns for one in session.hosts.values()}
        for host, skew_ns in SKEWS.items():
            error_ns = errors[host]
            assert error_ns is not None
            assert error_ns >= abs(skew_ns)
        assert sum(one.late for one in session.hosts.values()) == 0


async def test_a_host_that_stops_delays_the_others_for_a_moment_only(
    nats_server: NatsServer, hosts: list[Played], origin: int
) -> None:
    """Its late packets are written at once and counted; it is named, and the run fails."""
    said: list[str] = []
    async with followed(nats_server, TapOptions(filter="udp"), said) as (session, written, task):
        await opened(hosts, session)
        even, ahead, behind = hosts
        for one in (even, ahead):
            await one.say(range(origin, origin + 10), (origin + 10) * MS)
        await eventually(lambda: len(parsed(written)[1]) == 20, "packets despite a silent host")
        await behind.say(range(origin, origin + 5), (origin + 5) * MS)
        await eventually(lambda: len(parsed(written)[1]) == 25, "the late packets")
        assert session.hosts["behind"].late == 5
        for one in (even, ahead):
            await one.say(range(0), 0, End="stop")
        await asyncio.wait_for(task, 60)
        assert session.failed
        assert any("behind: gone" in one for one in said)
        assert any("behind: the tap ended early: gone" in one for one in session.summary())


async def test_losses_and_missing_messages_are_in_the_file_and_the_summary(
    nats_server: NatsServer, hosts: list[Played], origin: int
) -> None:
    said: list[str] = []
    async with followed(nats_server, TapOptions(filter="udp"), said) as (session, written, task):
        await opened(hosts, session)
        even, ahead = hosts[:2]
        await even.say(
            range(origin, origin + 2), 0, Lost_Packets="ring=7,rate=3", Lost_Bytes="ring=1,rate=1"
        )
        ahead.seq += 2  # two messages that never arrive
        await ahead.say(range(origin, origin + 1), 0)
        for one in hosts:
            await one.say(range(0), 0, End="stop")
        await asyncio.wait_for(task, 30)
        _, packets, drops = parsed(written)
        assert max(drops) == 10
        assert [comment for _, _, comment in packets if comment] == [
            "10 packets lost before this one"
        ]
        assert session.lost_packets == 10
        assert session.hosts["ahead"].missing == 2
        assert session.failed
        assert any("even: 10 packets lost" in one for one in said)


async def test_grants_follow_what_was_written(
    nats_server: NatsServer, hosts: list[Played], origin: int
) -> None:
    """Half a window written: a new grant. Nothing written: the same total, as the lease."""
    options_ = TapOptions(filter="udp", window_bytes=64 << 10)
    async with followed(nats_server, options_, []) as (session, _, task):
        await opened(hosts, session)
        even = hosts[0]
        await eventually(lambda: even.granted.count(64 << 10) >= 4, "the lease to be renewed")
        await even.say(range(origin, origin + 800), (origin + 800) * MS)
        await eventually(lambda: max(even.granted) == (64 << 10) + even.sent, "a new grant")
        session.stop()
        await asyncio.wait_for(even.stopped.wait(), 10)
        for one in hosts:
            await one.say(range(0), 0, End="stop")
        await asyncio.wait_for(task, 30)
        assert not session.failed


# ---- hosts that send nonsense --------------------------------------------------------------------


INTERFACE = {"name": "eth0", "linktype": 1, "tsresol": 9, "snaplen": 256}


@pytest.mark.parametrize(
    "replaced",
    [
        {"tap": None},
        {"tap": ""},
        {"limits": {}},
        {"limits": {"credit": -1}},
        {"limits": {"credit": 1 << 80}},
        {"interfaces": "eth0"},
        {"interfaces": [{**INTERFACE, "linktype": 1 << 16}]},
        {"interfaces": [{**INTERFACE, "snaplen": -1}]},
        {"interfaces": [{**INTERFACE, "name": "x" * 100_000}]},
    ],
    ids=[
        "no id",
        "empty id",
        "no credit",
        "debt",
        "riches",
        "text",
        "link type",
        "snaplen",
        "name",
    ],
)
async def test_a_malformed_reply_costs_only_that_host(
    nats_server: NatsServer, hosts: list[Played], origin: int, replaced: dict[str, Any]
) -> None:
    hosts[1].replaced = replaced
    said: list[str] = []
    async with followed(nats_server, TapOptions(filter="udp"), said) as (session, written, task):
        await opened(hosts, session)
        await check_others(session, hosts, origin, written, task)
    assert any("ahead: malformed: " in one for one in said)


def wrong_blocks() -> dict[str, bytes]:
    right = block(1, 1)
    return {
        "kind": struct.pack("<I", 5) + right[4:],
        "length": right[:4] + struct.pack("<I", len(right) + 400) + right[8:],
        "trailer": right[:-4] + struct.pack("<I", len(right) + 4),
        "captured": right[:20] + struct.pack("<I", 1 << 31) + right[24:],
        "cut": right + right[:20],
        "text": b"no blocks",
    }


@pytest.mark.parametrize(
    ("data", "headers"),
    [
        *((one, {}) for one in wrong_blocks().values()),
        (b"", {"Seq": "x"}),
        (b"", {"Through": "soon"}),
        (b"", {"Sent": str(1 << 60)}),
        (b"", {"Lost-Packets": "ring=many"}),
        (b"", {"Interfaces": "{"}),
        (b"", {"Interfaces": '[{"name": "eth1"}]'}),
    ],
    ids=[*wrong_blocks(), "seq", "through", "sent", "lost", "json", "interface"],
)
async def test_a_malformed_message_costs_only_that_host(
    nats_server: NatsServer,
    hosts: list[Played],
    origin: int,
    data: bytes,
    headers: dict[str, str],
) -> None:
    said: list[str] = []
    async with followed(nats_server, TapOptions(filter="udp"), said) as (session, written, task):
        await opened(hosts, session)
        evil = hosts[1]
        told = {"Tap": f"id-{evil.host}", "Seq": "1", "Sent": "1", "Through": "1", **headers}
        await evil.bus.client.publish(f"{evil.inbox}.{evil.host}", data, headers=told)
        await check_others(session, hosts, origin, written, task)
    assert any("ahead: malformed: " in one for one in said)


async def test_messages_of_unknown_hosts_take_bounded_memory(
    nats_server: NatsServer,
    hosts: list[Played],
    origin: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tap, "EARLY_BYTES_MAX", 1 << 20)
    async with followed(nats_server, TapOptions(filter="udp"), []) as (session, written, task):
        await opened(hosts, session)
        for number in range(2000):
            await hosts[1].bus.client.publish(f"{hosts[1].inbox}.unknown{number}", bytes(4096))
        for one in hosts:  # its messages arrive after the others
            await one.say(range(origin, origin + 10), (origin + 10) * MS)
            await one.say(range(0), 0, End="stop")
        await asyncio.wait_for(task, 30)
        assert 100 < len(session._early) < 256
        assert len(parsed(written)[1]) == 30
        assert not session.failed


async def check_others(
    session: TapSession,
    hosts: list[Played],
    origin: int,
    written: bytearray,
    task: asyncio.Task[None],
) -> None:
    """The packets of the other hosts arrive, none of the malformed one, and it is named."""
    for one in (hosts[0], hosts[2]):
        await one.say(range(origin, origin + 10), (origin + 10) * MS)
        await one.say(range(0), 0, End="stop")
    await asyncio.wait_for(task, 30)
    assert len(parsed(written)[1]) == 20
    assert session.failed
    assert "ahead: the tap ended early: malformed" in session.summary()


# ---- hosts that refuse ---------------------------------------------------------------------------


async def test_a_refusal_does_not_wait_for_a_silent_host(
    nats_server: NatsServer, hosts: list[Played], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two hosts refuse for good and one never replies: the run ends after the pace's timeout, not
    when the silent host can no longer join."""
    monkeypatch.setattr(tap_search, "REPLY_SEC", 600.0)
    for one in hosts[:2]:
        one.code, one.replaced = 400, {"error": "invalid_filter"}
    hosts[2].silent = True
    said: list[str] = []
    async with followed(nats_server, TapOptions(filter="udp"), said, 1.0) as (session, _, task):
        await asyncio.wait_for(task, 60)
        assert [reply.host for reply in session.outcome.replies] == ["ahead", "even"]
        assert [one.host for one in session.outcome.absences] == ["behind"]
        assert not session.outcome.complete
