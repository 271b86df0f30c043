"""The eBPF objects that a process holds, from /proc/<pid>/fdinfo, and whether the kernel still
has them, from bpf(2)."""

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
    """("prog" | "map" | "link", id) of each descriptor. A link also yields its program."""
    found = set()
    for info in Path(f"/proc/{pid}/fdinfo").iterdir():
        try:
            text = info.read_text()
        except FileNotFoundError:
            continue  # the descriptor was just closed
        for kind, number in re.findall(r"^(prog|map|link)_id:\s*(\d+)", text, re.M):
            found.add((kind, int(number)))
    return found


def are_gone(held: set[tuple[str, int]]) -> bool:
    return not any(exists(*one) for one in held)


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
    """Makes the kernel time every program run until the block or this process ends."""
    request = ctypes.create_string_buffer(struct.pack("I", _STATS_RUN_TIME))
    fd = _libc.syscall(_SYS_BPF, _ENABLE_STATS, request, len(request) - 1)
    assert fd >= 0, os.strerror(ctypes.get_errno())
    try:
        yield
    finally:
        os.close(fd)


def runs_of(pid: int) -> tuple[int, int]:
    """(runs, nanoseconds) of all programs that a process holds, while timed."""
    found = {}
    for info in Path(f"/proc/{pid}/fdinfo").iterdir():
        counts = dict(
            re.findall(r"^(prog_id|run_cnt|run_time_ns):\s*(\d+)", info.read_text(), re.M)
        )
        if "run_cnt" in counts:  # a link has no counters
            found[counts["prog_id"]] = int(counts["run_cnt"]), int(counts["run_time_ns"])
    return sum(count for count, _ in found.values()), sum(ns for _, ns in found.values())
