"""Filters: bounded work, no names, the link type of the source. And the limit of the buffer."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path
from typing import Any

import pytest

from agents import Agent, Fleet
from bus import Bus
from packets import SECOND_NS, UDP, Packet, at, ethernet, ipv4, udp, write_pcap
from replay import check_conservation, finished

START_NS = 1_767_225_600 * SECOND_NS
IEEE_802_11, RAW = 105, 101
SLOW = "port 0" + "".join(f" or {number}" for number in range(1, 590))  # 56 s in libpcap
NAMES = ["host db.example.com", "src example.com", "net corp", "not src a1"]
SLOW_SEC = 4.0  # the limit of 2 s, on a busy machine
QUICK_SEC = 2.0  # no work and no wait; a look-up by DNS waits 5 s


def packet() -> Packet:
    return at(START_NS, ethernet(ipv4(udp(b"payload", 1000, 53), UDP, "10.0.0.1", "10.0.0.2")))


@pytest.fixture
def start_body(tmp_path: Path) -> dict[str, Any]:
    path = write_pcap(tmp_path / "one.pcap", [packet()] * 20)
    return {"interface": str(path), "backend": "file", "buffer_size_mb": 8}


async def refused(bus: Bus, verb: str, body: dict[str, Any]) -> tuple[str, float]:
    began = time.monotonic()
    reply = await bus.request(verb, body, timeout_sec=30)
    assert (reply.code, reply.error, reply.body["field"]) == (400, "invalid_filter", "$.filter")
    return reply.body["detail"], time.monotonic() - began


async def test_slow_filter_is_refused_while_others_are_served(
    alpha: Agent, bus: Bus, start_body: dict[str, Any]
) -> None:
    assert len(SLOW) < 4096
    starting = asyncio.create_task(refused(bus, "start", start_body | {"filter": SLOW}))
    await asyncio.sleep(0.2)
    await bus.ok("start", start_body)
    assert not starting.done(), "a start waited for the filter"
    status = await finished(bus)
    asking = asyncio.create_task(refused(bus, "packets", {"filter": SLOW, "to": "file"}))
    await asyncio.sleep(0.2)
    assert (await bus.request("status")).code == 200
    assert not asking.done(), "a status waited for the filter"
    check_conservation(status)
    await bus.ok("stop")
    for one in (starting, asking):
        detail, elapsed_sec = await one
        assert "2 s" in detail
        assert elapsed_sec < SLOW_SEC


async def test_sigterm_does_not_wait_for_a_filter(
    fleet: Fleet, alpha: Agent, bus: Bus, start_body: dict[str, Any]
) -> None:
    """Compared with an agent that has no work: on a busy machine each end takes longer."""
    idle = fleet.start("beta")
    asked = asyncio.create_task(bus.request("start", start_body | {"filter": SLOW}))
    await asyncio.sleep(0.3)
    took = await asyncio.gather(*(asyncio.to_thread(end, one) for one in (alpha, idle)))
    assert took[0] < took[1] + 1.2
    assert (await asked).error in ("draining", "invalid_filter")


def end(agent: Agent) -> float:
    """Returns the seconds that SIGTERM took."""
    began = time.monotonic()
    agent.terminate()
    return time.monotonic() - began


@pytest.mark.parametrize("text", NAMES)
async def test_names_of_hosts_are_not_resolved(
    alpha: Agent, bus: Bus, start_body: dict[str, Any], text: str
) -> None:
    detail, elapsed_sec = await refused(bus, "start", start_body | {"filter": text})
    assert "not resolved" in detail
    assert elapsed_sec < QUICK_SEC
    await bus.ok("start", start_body | {"filter": "udp port domain and host 10.0.0.1"})
    assert (await finished(bus))["packets_captured"] == 20
    detail, _ = await refused(bus, "packets", {"filter": text, "to": "file"})
    assert "not resolved" in detail


async def test_filter_is_compiled_for_the_link_type_of_the_file(
    alpha: Agent, bus: Bus, tmp_path: Path, start_body: dict[str, Any]
) -> None:
    data, beacon = b"\x08\0" + bytes(30), b"\x80\0" + bytes(30)
    path = tmp_path / "wifi.pcap"
    write_pcap(path, [at(START_NS, data), at(START_NS, beacon)], linktype=IEEE_802_11)
    wifi = start_body | {"interface": str(path)}
    await bus.ok("start", wifi | {"filter": "type data"})
    status = await finished(bus)
    assert status["packets_captured"] == 1
    check_conservation(status)
    await refused(bus, "packets", {"filter": "vlan 7 and type", "to": "file"})
    reply = await bus.request("packets", {"filter": "type data", "to": "file"})
    assert reply.error != "invalid_filter"
    await bus.ok("stop")

    await refused(bus, "start", start_body | {"filter": "type data"})
    write_pcap(path, [at(START_NS, packet().data[14:])], linktype=RAW)
    await refused(bus, "start", wifi | {"filter": "ether host 02:00:00:00:00:01"})
    await bus.ok("start", wifi | {"filter": "udp port 53"})
    assert (await finished(bus))["packets_captured"] == 1


async def test_buffer_above_the_limit_is_refused(
    fleet: Fleet, bus: Bus, start_body: dict[str, Any]
) -> None:
    fleet.start("beta", buffer={"max_mb": 100})
    asked = start_body | {"buffer_size_mb": 101}
    reply = await bus.request("start", asked, host="beta")
    assert (reply.code, reply.error) == (400, "buffer_too_large")
    assert reply.body["field"] == "$.buffer_size_mb"
    await bus.ok("start", asked | {"record": False}, host="beta")
    await bus.ok("stop", host="beta")
    await bus.ok("start", start_body | {"buffer_size_mb": 100}, host="beta")


async def test_buffer_is_limited_to_a_quarter_of_the_memory(
    alpha: Agent, bus: Bus, start_body: dict[str, Any]
) -> None:
    reply = await bus.request("start", start_body | {"buffer_size_mb": 65536})
    if os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") >> 20 < 4 * 65536:
        assert (reply.code, reply.error) == (400, "buffer_too_large")
    else:
        assert reply.code == 200
