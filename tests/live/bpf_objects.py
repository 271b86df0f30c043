"""What eBPF a process holds, and whether the kernel still has it: by the numbers that
/proc/<pid>/fdinfo tells of its descriptors, asked of bpf(2) itself."""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import re
import struct
from collections.abc import Iterator
from pathlib import Path

_SYS_BPF = {"x86_64": 321, "aarch64": 280}[platform.machine()]
_GET_FD_BY_ID = {"prog": 13, "map": 14, "link": 30}
_ENABLE_STATS = 32
_STATS_RUN_TIME = 0
_ENOENT = 2
_libc = ctypes.CDLL(None, use_errno=True)


def held_by(pid: int) -> set[tuple[str, int]]:
    """("prog" | "map" | "link", number) of each descriptor; those of links tell their program."""
    found = set()
    for info in Path(f"/proc/{pid}/fdinfo").iterdir():
        try:
            told = info.read_text()
        except FileNotFoundError:
            continue  # a descriptor that has just been closed
        for kind, number in re.findall(r"^(prog|map|link)_id:\s*(\d+)", told, re.M):
            found.add((kind, int(number)))
    return found


def exists(kind: str, number: int) -> bool:
    request = ctypes.create_string_buffer(struct.pack("III", number, 0, 0))
    fd = _libc.syscall(_SYS_BPF, _GET_FD_BY_ID[kind], request, len(request) - 1)
    if fd >= 0:
        os.close(fd)
        return True
    error = ctypes.get_errno()
    assert error == _ENOENT, os.strerror(error)
    return False


@contextlib.contextmanager
def programs_timed() -> Iterator[None]:
    """The kernel times every run of every program, until here or until this process ends."""
    request = ctypes.create_string_buffer(struct.pack("I", _STATS_RUN_TIME))
    fd = _libc.syscall(_SYS_BPF, _ENABLE_STATS, request, len(request) - 1)
    assert fd >= 0, os.strerror(ctypes.get_errno())
    try:
        yield
    finally:
        os.close(fd)


def runs_of(pid: int) -> tuple[int, int]:
    """How often the programs that a process holds have run while timed, and for how many ns."""
    found = {}
    for info in Path(f"/proc/{pid}/fdinfo").iterdir():
        told = dict(re.findall(r"^(prog_id|run_cnt|run_time_ns):\s*(\d+)", info.read_text(), re.M))
        if "run_cnt" in told:  # not a link, which only names its program
            found[told["prog_id"]] = int(told["run_cnt"]), int(told["run_time_ns"])
    return sum(count for count, _ in found.values()), sum(ns for _, ns in found.values())
