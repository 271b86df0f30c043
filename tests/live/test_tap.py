"""Taps on a live capture: whole packets, only the granted bytes, and a reason for each end.

Frames go over a veth pair. nats-server, the agent and the reader are in the `host` namespace, so
NATS is on its loopback and every packet on the wire is the test's.
"""

from __future__ import annotations

import asyncio
import itertools
import signal
import socket
import time
from pathlib import Path
from typing import Any

import pytest

import capturing
from agents import Agent, Fleet
from bus import Bus
from capturing import at_rest, settled
from deadlines import eventually
from netns import HOST_DEVICE, Sender, Wire
from packets import TCP, UDP, ethernet, ipv4, tcp, udp
from recording import make_key, sealing
from tapping import open_tap, refused

A, B = "10.0.0.1", "10.0.0.2"
WINDOW_MAX = 4 << 20
LARGE, PACKET_BLOCK = 64_910, 44  # bytes of a payload, and of a packet block around the packet
RATE = 100_000  # bytes per second
BURST_SEC = 0.1


def datagram(number: int, size: int = 64, port: int = 53) -> bytes:
    load = number.to_bytes(4) + bytes(size)
    return ethernet(ipv4(udp(load, 1000, port), UDP, A, B, ident=number & 0xFFFF))


def segment(number: int) -> bytes:
    return ethernet(ipv4(tcp(number.to_bytes(4), 1000, 80), TCP, A, B))


async def test_matching_packets_arrive_whole_and_in_order(
    fleet: Fleet, bus: Bus, sender: Sender
) -> None:
    fleet.start(tap={"rate_kbps": 0})
    await capturing.start(bus, workers=1)
    tapped = await open_tap(bus, filter="udp port 53", snaplen=0, credit=WINDOW_MAX)
    assert [one["name"] for one in tapped.reply["interfaces"]] == [HOST_DEVICE]
    wanted = [datagram(number, size=number % 1400) for number in range(3000)]
    for number, frame in enumerate(wanted):
        sender.send([frame, segment(number)])
    await eventually(lambda: len(tapped.frames) >= len(wanted), "the packets to arrive")
    totals = await tapped.stop()
    assert tapped.frames == wanted
    assert (totals.matched, totals.lost) == (3000, {"ring": 0, "rate": 0})
    assert tapped.end == "stop"
    await settled(bus, sender.frames_sent)


async def test_snaplen_direction_and_limits(fleet: Fleet, bus: Bus, sender: Sender) -> None:
    fleet.start(tap={"taps": 4})
    await capturing.start(bus)
    short = await open_tap(bus, filter="udp", snaplen=60, max_packets=10)
    outward = await open_tap(bus, filter="udp", direction="out")
    inward = await open_tap(bus, filter="udp", direction="in", interface="sonde*", max_bytes=2000)
    sender.send(datagram(number, size=500) for number in range(100))
    totals = await short.ended()
    assert short.end == "limit"
    assert [len(frame) for frame in short.frames] == [60] * 10
    assert totals.matched == 10
    await inward.ended()
    assert inward.end == "limit"
    assert 0 < inward.bytes <= 2000
    assert (await outward.stop()).matched == 0
    await settled(bus, sender.frames_sent)


async def test_the_tap_ends_after_its_duration_and_with_the_session(
    fleet: Fleet, bus: Bus, sender: Sender
) -> None:
    fleet.start()
    events = await bus.events(kind="audit")
    await capturing.start(bus)
    timed = await open_tap(bus, filter="udp", duration_sec=3)
    ended = await open_tap(bus, filter="udp")
    sender.send([datagram(1)])
    assert (await timed.ended()).sent == 1
    assert timed.end == "duration"
    await at_rest(bus)
    await bus.ok("stop")
    assert (await ended.ended()).sent == 1
    assert ended.end == "session_stop"
    await eventually(
        lambda: sum(b'"tap_ended"' in one.data for one in events.messages) == 2, "two audit events"
    )
    assert await refused(bus, filter="udp") == (400, "no_session")


async def test_status_while_taps_end(fleet: Fleet, bus: Bus, sender: Sender) -> None:
    """`status` counts the packets of a tap that is being closed on a thread."""
    fleet.start(tap={"taps": 4})
    await capturing.start(bus)
    ended = asyncio.Event()

    async def ask() -> None:
        while not ended.is_set():
            await bus.ok("status")

    async def closed() -> bool:
        return bool((await bus.ok("status"))["taps"] == [])

    asking = [asyncio.create_task(ask()) for _ in range(4)]
    for number in range(20):
        taps = [await open_tap(bus, filter="udp") for _ in range(4)]
        sender.send([datagram(number)])
        await asyncio.gather(*(one.stop() for one in taps))
        assert [one.end for one in taps] == ["stop"] * 4
        await eventually(closed, "the taps to be closed", interval_sec=0.01)
    ended.set()
    await asyncio.gather(*asking)
    await settled(bus, sender.frames_sent)


async def test_refusals(fleet: Fleet, bus: Bus, tmp_path: Path) -> None:
    key = make_key(tmp_path / "keys" / "tap.key")
    agent = fleet.start(encryption={"key_dirs": [key.parent]})
    await capturing.start(bus)
    assert await refused(bus) == (400, "invalid_filter")
    assert await refused(bus, filter="  ") == (400, "invalid_filter")
    assert await refused(bus, filter="udp and") == (400, "invalid_filter")
    assert await refused(bus, filter="udp", interface="eth9") == (400, "invalid_interface")
    reply = await bus.request("tap", {"filter": "udp", "data": "capture.stop"})
    assert (reply.code, reply.error) == (422, "invalid_request")
    taps = [await open_tap(bus, filter="udp") for _ in range(2)]
    assert await refused(bus, filter="udp") == (429, "too_many_requests")
    status = await bus.ok("status")
    assert [one["filter"] for one in status["taps"]] == ["udp", "udp"]
    await bus.ok("encryption.enable", sealing(key))
    for one in taps:
        await one.ended()
        assert one.end == "sealed"
    assert await refused(bus, filter="udp") == (403, "policy_denied")
    agent.config_path.write_text(agent.config_path.read_text() + "\n[tap]\nwhile_sealed = true\n")
    agent.signal(signal.SIGHUP)
    await eventually(lambda: '"reloaded"' in agent.log or "reloaded" in agent.log, "the reload")

    async def allowed() -> Any:
        reply = await bus.request("tap", {"data": bus.client.new_inbox(), "filter": "udp"})
        return reply.code == 200

    await eventually(allowed, "the tap to be allowed")


# ---- credit --------------------------------------------------------------------------------------


async def test_bytes_are_sent_only_as_far_as_granted(
    fleet: Fleet, bus: Bus, sender: Sender
) -> None:
    """Repeated, old and oversized credits do no harm; packets without credit are counted.

    A message holds one of these packets, at any speed of the machine."""
    fleet.start(tap={"rate_kbps": 0})
    await capturing.start(bus)
    tapped = await open_tap(bus, filter="udp", snaplen=0, credit=1)
    assert tapped.reply["limits"]["credit"] == 64 << 10
    large = datagram(1, size=LARGE)
    block = len(large) + PACKET_BLOCK
    assert (64 << 10) - 1200 < block <= 64 << 10
    sender.send([large] * 400)
    await eventually(
        lambda: bool(tapped.header("Lost-Packets")) and tapped.bytes > 0, "a loss to be reported"
    )
    assert tapped.bytes == block
    for total in (1 << 17, 1 << 17, 1 << 16, 0):
        assert (await tapped.grant(total)).code == 200
    await eventually(lambda: tapped.bytes >= 2 * block, "the granted bytes")
    await settled(bus, sender.frames_sent)
    assert tapped.bytes == 2 * block
    before = tapped.bytes
    assert (await tapped.grant(1 << 40)).code == 200
    await eventually(lambda: tapped.bytes > before, "more bytes")
    assert tapped.bytes <= before + WINDOW_MAX
    foreign = await bus.request(f"tap.{'0' * 32}.credit", {"bytes": 1})
    assert (foreign.code, foreign.error) == (404, "not_found")
    malformed = await bus.request(tapped.control("credit"), {"bytes": -1})
    assert malformed.code == 422
    totals = await tapped.stop()
    assert totals.matched == 400
    assert totals.lost["ring"] > 0
    await settled(bus, sender.frames_sent)


async def test_a_reader_without_credit_loses_its_tap(
    fleet: Fleet, bus: Bus, sender: Sender
) -> None:
    fleet.start(tap={"rate_kbps": 0})
    await capturing.start(bus)
    tapped = await open_tap(bus, filter="udp", snaplen=0, credit=64 << 10)
    sender.send(datagram(number, size=1000) for number in range(8000))
    totals = await tapped.ended()
    assert tapped.end == "lease"
    assert totals.matched == 8000
    assert tapped.bytes <= 64 << 10
    status = await settled(bus, sender.frames_sent)
    assert status["packets_dropped"] == 0


async def test_a_reader_that_is_gone_loses_its_tap(fleet: Fleet, bus: Bus) -> None:
    """Nobody subscribes any more, and credits still come."""
    fleet.start()
    await capturing.start(bus)
    inbox = bus.client.new_inbox()
    subscription = await bus.client.subscribe(f"{inbox}.*")
    reply = await bus.ok("tap", {"data": inbox, "filter": "udp"})
    events = await bus.events(kind="audit")
    await subscription.unsubscribe()

    async def over() -> bool:
        await bus.request(f"tap.{reply['tap']}.credit", {"bytes": 1})
        return any(b"no_responders" in one.data for one in events.messages)

    await eventually(over, "the tap to end")
    assert (await bus.ok("status"))["taps"] == []


async def test_the_rate_is_kept_and_the_loss_is_counted(
    fleet: Fleet, bus: Bus, wire: Wire, sender: Sender
) -> None:
    """The time between two packets counts only as far as a burst allows: no packet passes in a
    pause of the machine."""
    fleet.start(tap={"rate_kbps": RATE * 8 // 1000})
    await capturing.start(bus)
    began = time.monotonic()
    tapped = await open_tap(bus, filter="udp", snaplen=0, credit=WINDOW_MAX, duration_sec=8)
    number = 0
    while tapped.end is None:
        number += 1
        sender.send([datagram(number, size=1000)] * 20)
        await asyncio.sleep(0.01)
    totals = await tapped.ended()
    most_sec = time.monotonic() - began
    assert totals.lost["rate"] > 0
    assert totals.lost["ring"] == 0
    times = [at / 1e9 for at in tapped.times_ns]
    active_sec = sum(min(then - at, BURST_SEC) for at, then in itertools.pairwise(times))
    assert 0.9 * RATE * active_sec <= tapped.bytes <= RATE * (most_sec + BURST_SEC) + 2000
    await settled(bus, sender.frames_sent)


@pytest.mark.parametrize("own_traffic", ["exclude", "include"])
async def test_a_tap_does_not_copy_its_own_messages(
    fleet: Fleet, bus: Bus, own_traffic: str
) -> None:
    """NATS, the agent and the reader are all on the captured interface. A copy of one message would
    cause the next one."""
    fleet.start(capture={"own_traffic": own_traffic})
    await bus.ok("start", {"interface": "lo", "backend": "af_packet"})
    tapped = await open_tap(bus, filter="tcp", snaplen=0)
    other = await open_tap(bus, filter="udp port 4999", snaplen=0)
    before = await bus.ok("status")
    asked = 300
    for _ in range(asked):
        await bus.ok("status")

    async def captured() -> bool:
        nonlocal asked
        asked += 1
        now = await bus.ok("status")
        return bool(now["packets_captured"] - before["packets_captured"] > asked)

    await eventually(captured, "the requests and replies to be captured")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sending:
        sending.sendto(b"seen", ("127.0.0.1", 4999))
    await eventually(lambda: len(other.frames) >= 1, "a packet that is not the tap's")
    assert (await tapped.stop()).matched == 0
    await other.stop()


async def test_an_agent_that_drains_ends_its_taps(fleet: Fleet, bus: Bus, sender: Sender) -> None:
    agent: Agent = fleet.start()
    await capturing.start(bus)
    tapped = await open_tap(bus, filter="udp")
    sender.send([datagram(1)])
    await eventually(lambda: len(tapped.frames) == 1, "the packet")
    fleet.agents.remove(agent)
    assert agent.terminate() == 0
    await tapped.ended()
    assert tapped.end == "drain"
