"""Fixtures of the tests above unit level: a bus, agents, a wire, capture files.

Each test starts its own nats-server (ready after about 25 ms) and its agents as processes. Async
tests run on asyncio's loop, on uvloop or on both (see ONE_LOOP and EITHER_LOOP). A test owns every
port, directory and namespace that it uses. Nothing here retries or skips a test.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import shutil
import signal
import tempfile
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
from netsonde.bus.nats_client import GuardedClient
from netsonde.config.sections import NatsSection
from netsonde.fleet.client import connect
from operators import Operator
from servers import NatsServer

# A shell without job control starts `make test &` with SIGINT ignored, and so the tests' processes.
signal.signal(signal.SIGINT, signal.default_int_handler)

LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.SelectorEventLoop,
    "uvloop": uvloop.new_event_loop,
}


# The agents of these suites are separate processes, on uvloop. The loop of the test itself matters
# little there. To save time, each e2e test runs on one of the two loops, and the other suites run
# on the faster one.
ONE_LOOP = {"examples", "faults", "live", "packages", "prometheus", "wire"}
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
    """Returns whether the test or its module names the loop."""
    return any(mark.kwargs.get("loop_factories") for mark in item.iter_markers("asyncio"))


# Variables of the user's shell that would change what the program under test does.
FOREIGN_VARIABLES = ("NETSONDE__", "NATS_", "XDG_", "NOTIFY_SOCKET", "STATE_DIRECTORY")


def pytest_configure() -> None:
    """Isolates the tests from the user's settings. Makes a terminated run clean up namespaces,
    servers and agents. Removes hypothesis's time limit, which a busy machine can exceed."""
    for name in [name for name in os.environ if name.startswith(FOREIGN_VARIABLES)]:
        del os.environ[name]
    # The command line keeps a journal of each request.
    os.environ["XDG_STATE_HOME"] = tempfile.mkdtemp(prefix="netsonde-tests-")
    atexit.register(shutil.rmtree, os.environ["XDG_STATE_HOME"], ignore_errors=True)
    signal.signal(signal.SIGTERM, lambda *_: pytest.exit("terminated", returncode=143))
    untimed = {"deadline": None, "suppress_health_check": [hypothesis.HealthCheck.too_slow]}
    hypothesis.settings.register_profile("untimed", hypothesis.settings(), **untimed)
    hypothesis.settings.load_profile("untimed")


@pytest.fixture
def nats_server(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[NatsServer]:
    directory = tmp_path / "nats"
    stored = request.node.get_closest_marker("jetstream") is not None
    config = f'jetstream {{ store_dir: "{directory}" }}' if stored else ""
    server = NatsServer(directory, config=config).start()
    yield server
    server.kill()


@pytest.fixture
def wire() -> Iterator[netns.Wire]:
    """Two namespaces and a veth pair; the test runs inside the `host` namespace. Request this
    fixture before nats_server, so that the server runs there too."""
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
        # pytest captures this output and shows it for a failed test only.
        print(f"---- {agent.host}\n{agent.log}")
    problems = fleet.dismiss()
    assert not problems, "\n".join([*problems, *(agent.log for agent in fleet.agents)])


@pytest.fixture
def alpha(fleet: Fleet) -> Agent:
    """A running agent on host `alpha` with a short metrics interval."""
    return fleet.start("alpha", labels={"site": "ams"}, metrics={"interval_sec": 0.5})


@pytest_asyncio.fixture
async def bus(nats_server: NatsServer) -> AsyncIterator[Bus]:
    bus = await Bus.connect(nats_server.url)
    yield bus
    await bus.close()


@pytest_asyncio.fixture
async def client(nats_server: NatsServer) -> AsyncIterator[GuardedClient]:
    """A client of the fleet that stays connected."""
    async with connect(NatsSection(servers=[nats_server.url]), lasting=True) as found:
        yield found.connection


@pytest.fixture
def operator(nats_server: NatsServer, tmp_path: Path) -> Operator:
    return Operator(nats_server, tmp_path)


@pytest.fixture
def capture_file(tmp_path: Path) -> Callable[[list[packets.Packet]], Path]:
    """Writes packets to a pcap file that the test's agents may replay."""

    def write(made: list[packets.Packet], name: str = "made.pcap") -> Path:
        return packets.write_pcap(tmp_path / name, made)

    return write
