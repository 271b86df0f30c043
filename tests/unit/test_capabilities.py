"""The capabilities of a process, and the systemd units that grant them."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from netsonde.daemon.privileges import NEEDED, OWNERS, standing
from netsonde.wire.requests import BACKEND_NAMES

UNITS = Path(__file__).resolve().parents[2] / "deploy" / "systemd"
EXPOSURE_MAX = 2.5

STATUS = """\
Name:\tnetsonde
Uid:\t998\t998\t998\t998
CapEff:\t{:016x}
NoNewPrivs:\t1
Seccomp:\t2
"""


def test_standing_reads_proc_status() -> None:
    has = standing(STATUS.format(1 << 13 | 1 << 39))
    assert (has.uid, has.no_new_privileges, has.seccomp) == (998, True, True)
    assert has.capabilities == {"CAP_NET_RAW", "CAP_BPF"}
    assert has.missing("af_packet") == has.missing("file") == []
    assert has.missing("xdp") == ["CAP_NET_ADMIN", "CAP_PERFMON"]
    assert standing(STATUS.format(0)).missing("pcap") == ["CAP_NET_RAW"]
    assert standing().uid >= 0


def test_needed_lists_every_backend() -> None:
    assert NEEDED.keys() == set(BACKEND_NAMES)


def settings(path: Path) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for key, value in re.findall(r"^(\w+)=(.*)$", path.read_text(), re.M):
        found.setdefault(key, []).extend(value.split())
    return found


def test_unit_grants_exactly_the_default_backends_capabilities() -> None:
    unit = settings(UNITS / "netsonde.service")
    for key in ("AmbientCapabilities", "CapabilityBoundingSet"):
        assert set(unit[key]) == set(NEEDED["af_packet"]) == set(NEEDED["pcap"])
    assert unit["Type"] == ["notify"]
    assert unit["RestartPreventExitStatus"] == ["77", "78"]


@pytest.mark.parametrize("backend", ["xdp", "dpdk", "pf_ring"])
def test_drop_in_adds_the_backends_missing_capabilities(backend: str) -> None:
    unit = settings(UNITS / "netsonde.service")
    more = settings(UNITS / "netsonde.service.d" / f"{backend}.conf.example")
    for key in ("AmbientCapabilities", "CapabilityBoundingSet"):
        assert set(unit[key] + more.get(key, [])) == set(NEEDED[backend])


def test_drop_in_adds_the_capabilities_for_owners() -> None:
    more = settings(UNITS / "netsonde.service.d" / "owners.conf.example")
    for key in ("AmbientCapabilities", "CapabilityBoundingSet"):
        assert set(more[key]) == set(OWNERS)
    assert more["SystemCallFilter"] == ["bpf"]


def test_unit_is_hardened() -> None:
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", UNITS / "netsonde.service"],
        capture_output=True,
        text=True,
    )
    found = re.search(r"Overall exposure level for .*: ([0-9.]+)", done.stdout)
    assert found, done.stderr
    assert float(found[1]) <= EXPOSURE_MAX
