"""Every test here has its own wire and runs inside its host namespace."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import netns
import oracle

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
