"""10,000 new QUIC flows a second: the work for labels is bounded, and each flow has one state.

At most `quic_per_second` connections are decrypted in a second of packet time. The others are
`skipped`. The first Initials are sealed like real ones, so the agent derives keys for each flow.
"""

from __future__ import annotations

import asyncio
import functools
import os
import time
from collections import Counter
from pathlib import Path
from typing import Any

import capturing
from agents import Agent, Fleet
from bus import Bus, Collector
from netns import Sender, Wire
from packets import SECOND_NS, UDP, at, ethernet, ipv4, udp, write_pcap
from quic import client_hello, initial
from replay import check_lives, finished, records_of, replay

START_NS = 1_767_225_600 * SECOND_NS
RATE, SECONDS = 10_000, 4
LIMIT = 2_000  # the default of quic_per_second
HELLOS = 256
PLAIN_EVERY, HALF_EVERY = 50, 20  # a datagram that is not QUIC; a hello whose rest is missing
UNLIMITED = 1_000_000


@functools.cache
def hellos() -> list[bytes]:
    return [initial(os.urandom(8), client_hello(f"h{n}.example.com")) for n in range(HELLOS)]


@functools.cache
def half() -> bytes:
    hello = client_hello("half.example.com", padding=1500)
    return initial(os.urandom(8), hello[:1000])


def kind_of(number: int) -> str:
    if number % PLAIN_EVERY == 0:
        return "not_seen"
    return "partial" if number % HALF_EVERY == 1 else "complete"


def frame(number: int) -> bytes:
    payloads = {"not_seen": b"\x01 no QUIC", "partial": half()}
    payload = payloads.get(kind_of(number)) or hellos()[number % HELLOS]
    source = f"10.{number >> 14 & 255}.{number >> 6 & 255}.{number & 63}"
    return ethernet(ipv4(udp(payload, 40_000, 443), UDP, source, "192.0.2.1"))


def expected(limit: int) -> Counter[str]:
    """The states of the flows: in each second the first `limit` QUIC connections are read."""
    states: Counter[str] = Counter()
    for second in range(SECONDS):
        opened = 0
        for number in range(second * RATE, (second + 1) * RATE):
            kind = kind_of(number)
            opened += kind != "not_seen"
            states[kind if kind == "not_seen" or opened <= limit else "skipped"] += 1
    return states


def states_of(records: list[dict[str, Any]]) -> Counter[str]:
    return Counter(record["label_state"] for record in records)


def cpu_sec(agent: Agent) -> float:
    """The processor time of all threads of the agent."""
    fields = Path(f"/proc/{agent.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def capture_file(path: Path) -> Path:
    interval_ns = SECOND_NS // RATE
    return write_pcap(
        path, [at(START_NS + n * interval_ns, frame(n)) for n in range(RATE * SECONDS)]
    )


async def test_each_flow_of_a_file_has_one_state(fleet: Fleet, bus: Bus, tmp_path: Path) -> None:
    fleet.start("alpha", flows={"labels": ["quic"]})
    replayed = await replay(bus, capture_file(tmp_path / "quic.pcap"))
    states = states_of(replayed.records)
    print(f"\n{RATE} flows/s for {SECONDS} s: {dict(states)}")
    assert states == expected(LIMIT)
    assert states.total() == replayed.status["flows_created"] == RATE * SECONDS
    status = replayed.status
    assert status["labels_complete"] == states["complete"]
    assert status["labels_skipped"] == states["skipped"]
    named = {record["name"] for record in replayed.records if record["label_state"] == "complete"}
    assert named <= {f"h{n}.example.com" for n in range(HELLOS)}
    assert len(named) > HELLOS // 2


async def test_limit_bounds_the_processor_time(fleet: Fleet, bus: Bus, tmp_path: Path) -> None:
    path = capture_file(tmp_path / "quic.pcap")
    used = {}
    for host, flows in (
        ("off", {"labels": []}),
        ("limited", {"labels": ["quic"]}),
        ("unlimited", {"labels": ["quic"], "quic_per_second": UNLIMITED, "labels_mb": 256}),
    ):
        agent = fleet.start(host, flows=flows)
        before = cpu_sec(agent)
        request = {"interface": str(path), "backend": "file", "record": False}
        await bus.ok("start", request, host=host)
        status = await finished(bus, host)
        used[host] = cpu_sec(agent) - before
        assert status["flows_created"] == RATE * SECONDS
        agent.terminate()
    limited, unlimited = used["limited"] - used["off"], used["unlimited"] - used["off"]
    print(
        f"\nprocessor time of labels at {RATE} flows/s: "
        f"{limited / SECONDS:.1%} of a core with the limit, {unlimited / SECONDS:.1%} without"
    )
    assert limited < unlimited / 2


async def test_each_flow_of_the_wire_has_one_state(
    fleet: Fleet, bus: Bus, wire: Wire, sender: Sender
) -> None:
    fleet.start("alpha", flows={"labels": ["quic"]})
    collector = await Collector.listen(bus)
    metering = {"enable": True, "flow_timeout_sec": 300, "active_timeout_sec": 86_400}
    started = await capturing.start(bus, record=False, metering=metering)
    before = capturing.delivered(wire)
    seconds = await asyncio.to_thread(send_paced, sender)
    status = await capturing.settled(bus, capturing.delivered(wire) - before)
    records = await records_of(collector, started["session_id"], await bus.ok("stop"))
    await collector.close()
    check_lives(records)
    states = states_of(records)
    print(f"\n{len(records) / seconds:.0f} flows/s for {seconds:.1f} s: {dict(states)}")
    assert set(states) <= {"skipped", "complete", "partial", "not_seen"}
    assert states.total() == status["flows_created"] == status["packets_captured"]
    # A second of packet time need not begin with the first packet.
    assert states["complete"] + states["partial"] <= LIMIT * (int(seconds) + 2)
    assert states["complete"] > 0
    assert states["not_seen"] <= RATE * SECONDS // PLAIN_EVERY


def send_paced(sender: Sender) -> float:
    """Sends all flows, RATE of them in a second or as many as the machine can. Returns the time."""
    frames = [frame(number) for number in range(RATE * SECONDS)]
    began, step = time.monotonic(), RATE // 100
    for first in range(0, len(frames), step):
        sender.send(frames[first : first + step])
        ahead = began + (first + step) / RATE - time.monotonic()
        if ahead > 0:
            time.sleep(ahead)
    return time.monotonic() - began
