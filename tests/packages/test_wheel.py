"""The wheel: what it links, and a capture from a fresh virtual environment."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from elftools.elf.dynamic import DynamicSection
from elftools.elf.elffile import ELFFile
from installed import REPOSITORY, Installed, built

from netns import Wire


@pytest.fixture(scope="module")
def wheel() -> Path:
    return built("*.whl")


def needed(wheel: Path) -> dict[str, set[str]]:
    """Returns the libraries that each program and library of the wheel is linked with."""
    found = {}
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            with archive.open(name) as member:
                if member.read(4) != b"\x7fELF":
                    continue
                member.seek(0)
                dynamic = ELFFile(member).get_section_by_name(".dynamic")
                assert isinstance(dynamic, DynamicSection)
                tags: Iterable[Any] = dynamic.iter_tags("DT_NEEDED")
                found[name] = {tag.needed for tag in tags}
    return found


def test_wheel_fits_each_python_and_brings_its_libraries(wheel: Path) -> None:
    assert wheel.name.endswith("-cp311-abi3-manylinux_2_34_x86_64.whl")
    links = needed(wheel)
    brought = {Path(name).name for name in links if name.startswith("netsonde.libs/")}
    for stem in ("libbpf-", "libcrypto-", "libpcap-"):
        assert [name for name in brought if name.startswith(stem)]
    system = ("libc.so.", "libm.so.", "libz.so.", "ld-linux-")
    for name, libraries in links.items():
        outside = {one for one in libraries - brought if not one.startswith(system)}
        # A program on a host with DPDK. The agent only starts it.
        allowed = "librte_" if "dpdk-engine" in name else "-"
        assert {one for one in outside if not one.startswith(allowed)} == set(), name


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first two of the three lines in docs/install.md, with the versions of the packages."""
    directory = tmp_path_factory.mktemp("wheel") / "netsonde"
    pinned = (REPOSITORY / "deploy/packages/requirements.txt").read_text()
    constraints = directory.with_name("constraints.txt")
    constraints.write_text("\n".join(re.findall(r"^[\w.-]+==[\w.]+", pinned, re.MULTILINE)))
    subprocess.run([sys.executable, "-m", "venv", directory], check=True)
    install: list[str | Path] = [
        directory / "bin/pip",
        "install",
        "--quiet",
        "--constraint",
        constraints,
    ]
    subprocess.run([REPOSITORY / ".ci/retry", *install, f"{wheel}[demo]"], check=True)
    return directory


def test_three_lines_run_an_agent_from_the_wheel(
    environment: Path, wire: Wire, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path / "state"))
    netsonde = Installed(*wire.prefix, environment / "bin/netsonde")
    with netsonde.agent(tmp_path / "log", [*netsonde.command, "run", "--embedded-nats"]):
        assert "bad" not in netsonde.doctor().values()
        for backend in ("af_packet", "xdp"):
            netsonde.capture(wire, backend)
