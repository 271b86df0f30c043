"""Every test here has its own wire and runs inside its host namespace."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import netns
import oracle

collect_ignore = [] if oracle.traces() else ["test_conformance_traces.py"]


@pytest.fixture(autouse=True)
def inside(wire: netns.Wire) -> netns.Wire:
    """Runs first, as autouse, so the nats-server and the client are in the namespace too."""
    return wire


@pytest.fixture(scope="session")
def pfring_double(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of the test double of libpfring."""
    directory = tmp_path_factory.mktemp("pfring")
    source = oracle.REPOSITORY / "native" / "tests" / "pfring_double.c"
    library = directory / "libpfring.so.1"
    command = ["cc", "-D_GNU_SOURCE", "-O1", "-shared", "-fPIC", "-o", str(library), str(source)]
    subprocess.run(command, check=True)
    return directory


@pytest.fixture(autouse=True)
def libraries(pfring_double: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes agents find the double as they would find the library."""
    monkeypatch.setenv("LD_LIBRARY_PATH", str(pfring_double))


@pytest.fixture
def sender(wire: netns.Wire) -> Iterator[netns.Sender]:
    sender = wire.sender()
    yield sender
    sender.close()
