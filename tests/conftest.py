"""Fixtures of the tests above unit level: a bus, agents, a wire, the shared traces.

Each test gets a nats-server of its own (ready in some 25 ms) and starts agents as
processes; async tests run on asyncio's loop and on uvloop (see ONE_LOOP). Nothing here retries,
and nothing skips.
"""

from __future__ import annotations

import asyncio
import signal
import zlib
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path

import hypothesis
import pytest
import pytest_asyncio
import uvloop

import netns
import packets
from agents import Agent, Fleet
from bus import Bus
from servers import NatsServer

LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.SelectorEventLoop,
    "uvloop": uvloop.new_event_loop,
}


# The agents of these suites are processes of their own, on uvloop. What is tested there depends
# little on the loop that the test asks them from, and time is dear: in e2e each test has one of
# the two, half of them this one and half that; on the wire it is the quicker.
ONE_LOOP = {"faults", "live", "wire"}
EITHER_LOOP = {"e2e"}


def pytest_asyncio_loop_factories(
    item: pytest.Item,
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    suite = item.path.parent.name
    if suite in ONE_LOOP:
        return {"uvloop": LOOPS["uvloop"]}
    if suite in EITHER_LOOP and not _chooses(item):
        name = sorted(LOOPS)[zlib.crc32(item.nodeid.encode()) % 2]
        return {name: LOOPS[name]}
    return LOOPS


def _chooses(item: pytest.Item) -> bool:
    """Its file or the test itself names the loop."""
    return any(mark.kwargs.get("loop_factories") for mark in item.iter_markers("asyncio"))


def pytest_configure() -> None:
    """A terminated run cleans up like an interrupted one: namespaces, servers, agents. And no
    example that hypothesis makes is timed: on a busy machine any of them may take long."""
    signal.signal(signal.SIGTERM, lambda *_: pytest.exit("terminated", returncode=143))
    untimed = {"deadline": None, "suppress_health_check": [hypothesis.HealthCheck.too_slow]}
    hypothesis.settings.register_profile("untimed", hypothesis.settings(), **untimed)
    hypothesis.settings.load_profile("untimed")


@pytest.fixture
def nats_server(tmp_path: Path) -> Iterator[NatsServer]:
    server = NatsServer(tmp_path / "nats").start()
    yield server
    server.kill()


@pytest.fixture
def wire() -> Iterator[netns.Wire]:
    """Two namespaces and a veth pair; the test runs inside the `host` one. To be asked for
    before nats_server, so that the server is in there too: tests/live does so for all."""
    wire = netns.Wire()
    try:
        wire.create()
        with netns.entered(wire.host):
            yield wire
    finally:
        wire.delete()


@pytest.fixture
def fleet(
    nats_server: NatsServer, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[Fleet]:
    fleet = Fleet(nats_server, tmp_path)
    if "wire" in request.fixturenames:
        fleet.prefix = request.getfixturevalue("wire").prefix
    yield fleet
    for agent in fleet.agents:
        # Captured output: pytest shows it where the test failed, and only there.
        print(f"---- {agent.host}\n{agent.log}")
    problems = fleet.dismiss()
    assert not problems, "\n".join([*problems, *(agent.log for agent in fleet.agents)])


@pytest.fixture
def alpha(fleet: Fleet) -> Agent:
    """One agent, ready, host `alpha`, with quick metrics."""
    return fleet.start("alpha", labels={"site": "ams"}, metrics={"interval_sec": 0.5})


@pytest_asyncio.fixture
async def bus(nats_server: NatsServer) -> AsyncIterator[Bus]:
    bus = await Bus.connect(nats_server.url)
    yield bus
    await bus.close()


@pytest.fixture
def capture_file(tmp_path: Path) -> Callable[[list[packets.Packet]], Path]:
    """Writes packets to a pcap that the test's agents may replay."""

    def write(made: list[packets.Packet], name: str = "made.pcap") -> Path:
        return packets.write_pcap(tmp_path / name, made)

    return write
