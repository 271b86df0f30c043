"""Capabilities as the kernel shows them, and the ban on new privileges."""

from __future__ import annotations

import subprocess
import sys

import pytest

from netsonde.daemon.privileges import BPF, IPC_LOCK, NET_ADMIN, NET_RAW, PERFMON, standing

STATUS = "Name:\tx\nUid:\t7\t8\t9\t10\nCapEff:\t{:016x}\nNoNewPrivs:\t{}\nSeccomp:\t{}\n"


@pytest.mark.parametrize(  # capabilities(7) of linux/capability.h
    ("bit", "name"), [(12, NET_ADMIN), (13, NET_RAW), (14, IPC_LOCK), (38, PERFMON), (39, BPF)]
)
def test_each_bit_is_one_capability(bit: int, name: str) -> None:
    assert standing(STATUS.format(1 << bit, 0, 0)).capabilities == {name}
    assert name not in standing(STATUS.format(~(1 << bit) & (1 << 41) - 1, 0, 0)).capabilities


def test_the_other_members_are_read() -> None:
    found = standing(STATUS.format(1 << 13, 1, 2))
    assert (found.uid, found.no_new_privileges, found.seccomp) == (8, True, True)
    assert found.missing("af_packet") == []
    assert found.missing("dpdk") == [IPC_LOCK]
    found = standing(STATUS.format(0, 0, 0))
    assert (found.no_new_privileges, found.seccomp) == (False, False)
    assert found.missing("xdp") == [NET_RAW, NET_ADMIN, PERFMON, BPF]
    assert found.missing("file") == []


def test_new_privileges_can_be_forbidden() -> None:
    program = (
        "from netsonde.daemon.privileges import forbid_new, standing\n"
        "forbid_new()\nprint(standing().no_new_privileges)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    )
    assert done.stdout == "True\n"
