"""Every test here has its own wire and runs inside its host namespace."""

from __future__ import annotations

import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

import netns
import oracle
from agents import Fleet
from bus import Bus
from servers import NatsServer
from tapping import Follow

MODULE = "pfring_module_double.c"
PFRING_DOUBLES = {"pfring_double.c": "libpfring.so.8", MODULE: "pf_ring_module.so"}

collect_ignore = [] if oracle.traces() else ["test_conformance_traces.py"]


@pytest.fixture(autouse=True)
def inside(wire: netns.Wire) -> netns.Wire:
    """Runs first, as autouse, so the nats-server and the client are in the namespace too."""
    return wire


@pytest.fixture(scope="session")
def pfring_double(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of the test doubles of libpfring and of its kernel module."""
    directory = tmp_path_factory.mktemp("pfring")
    for source, library in PFRING_DOUBLES.items():
        path = oracle.REPOSITORY / "native" / "tests" / source
        command = ["cc", "-D_GNU_SOURCE", "-O1", "-shared", "-fPIC"]
        subprocess.run([*command, "-o", directory / library, path], check=True)
    return directory


@pytest.fixture(autouse=True)
def libraries(pfring_double: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes agents find the library, and a kernel that has its module."""
    monkeypatch.setenv("LD_LIBRARY_PATH", str(pfring_double))
    monkeypatch.setenv("LD_PRELOAD", str(pfring_double / PFRING_DOUBLES[MODULE]))


@pytest.fixture
def sender(wire: netns.Wire) -> Iterator[netns.Sender]:
    sender = wire.sender()
    yield sender
    sender.close()


@pytest.fixture
def follow(nats_server: NatsServer, tmp_path: Path) -> Iterator[Callable[..., Follow]]:
    """Starts `netsonde packets --follow` with arguments, and ends it with the test."""
    made: list[Follow] = []

    def make(*arguments: str) -> Follow:
        made.append(Follow(nats_server, tmp_path, *arguments))
        return made[-1]

    yield make
    for one in made:
        if one.process.poll() is None:
            one.process.kill()
            one.process.wait()


@pytest_asyncio.fixture
async def control(wire: netns.Wire, tmp_path: Path) -> AsyncIterator[Bus]:
    """Another host on a separate server that sees the same packets: what a test does to the first
    one must not show here, and the load of the machine shows in both."""
    directory = tmp_path / "control"
    server = NatsServer(directory / "nats").start()
    fleet = Fleet(server, directory)
    fleet.prefix = wire.prefix
    fleet.start()
    bus = await Bus.connect(server.url)
    yield bus
    await bus.close()
    problems = fleet.dismiss()
    server.kill()
    assert not problems, problems
