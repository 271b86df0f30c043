"""Checks of what limits a capture: memory, locked memory, disk speed, the clock."""

from __future__ import annotations

import ctypes
import os
import resource
import tempfile
import time
from collections.abc import Iterator

from ...capture import memory
from ...daemon import privileges
from . import links
from .finding import Finding, Subject
from .interfaces import captured
from .process import drop_in, under_systemd

MIB = 1 << 20
FLOW_BYTES = 256  # a slot of the flow table, its index included
RECORD_BYTES = 264  # a record in the ring
PROCESS_MB = 128  # interpreter, libraries, requests in flight
KEYS_BYTES = 64 << 10  # pages of sealing keys and their derived keys

SPEED_BYTES = 64 * MIB
SPEED_CHUNK_BYTES = MIB
SPEED_SEC = 1.0

_TIME_ERROR, _STA_UNSYNC = 5, 0x40  # sys/timex.h


# ---- memory --------------------------------------------------------------------------------------


def examine_memory(subject: Subject) -> Iterator[Finding]:
    """Compares the largest capture that the settings allow with the memory of host or cgroup."""
    total_mb = memory.total_mb()
    parts = memory_parts(subject, total_mb)
    sizes = ", ".join(f"{key} {size} MiB" for key, (size, _) in parts.items())
    wanted_mb = sum(size for size, _ in parts.values()) + PROCESS_MB
    detail = f"{sizes} and the process {PROCESS_MB} MiB, of {total_mb} MiB"
    if wanted_mb <= total_mb:
        yield Finding("memory", "ok", detail)
        return
    repair = " && ".join(_reduce(subject, parts, total_mb))
    yield Finding("memory", "warning", f"{wanted_mb} MiB do not fit: {detail}", repair=repair)


def memory_parts(subject: Subject, total_mb: int) -> dict[str, tuple[int, int]]:
    """Returns MiB and bytes per unit of each setting that takes memory."""
    settings = subject.settings
    if subject.buffer_mb is None:
        buffer = ("buffer.max_mb", settings.buffer.max_mb or total_mb // 4)
    else:
        buffer = ("session.buffer_size_mb", subject.buffer_mb)
    flows = settings.flows
    return {
        buffer[0]: (buffer[1], MIB),
        "flows.flow_table_size": (-(-flows.flow_table_size * FLOW_BYTES // MIB), FLOW_BYTES),
        "flows.record_ring_size": (-(-flows.record_ring_size * RECORD_BYTES // MIB), RECORD_BYTES),
        "capture.ring_mb": (settings.capture.ring_mb, MIB),
    }


def _reduce(subject: Subject, parts: dict[str, tuple[int, int]], total_mb: int) -> Iterator[str]:
    """Yields the commands that lower the largest settings until all fit."""
    excess = sum(size for size, _ in parts.values()) + PROCESS_MB - total_mb
    for key, (size, unit) in sorted(parts.items(), key=lambda part: -part[1][0]):
        if excess <= 0:
            return
        kept = max(size - excess, 16)
        excess -= size - kept
        yield subject.set_key(key, kept * MIB // unit)


# ---- locked memory -------------------------------------------------------------------------------


def examine_locked_memory(subject: Subject) -> Iterator[Finding]:
    """Sealing keys, DPDK and AF_XDP lock memory."""
    wanted = KEYS_BYTES if subject.settings.encryption.key_dirs else 0
    if subject.backend == "dpdk" or (subject.backend == "xdp" and subject.dedicated):
        wanted += subject.settings.capture.ring_mb * MIB
    if privileges.IPC_LOCK in privileges.standing().capabilities:
        yield Finding("locked_memory", "ok", "CAP_IPC_LOCK: no limit")
        return
    limit, most = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    shown = "unlimited" if limit == resource.RLIM_INFINITY else f"{limit >> 10} KiB"
    if limit == resource.RLIM_INFINITY or limit >= wanted:
        yield Finding("locked_memory", "ok", f"limit {shown}, {wanted >> 10} KiB are needed")
        return
    detail = f"limit {shown}, but {wanted >> 10} KiB are needed"
    repair = "ulimit -l unlimited"
    if most == resource.RLIM_INFINITY or most >= wanted:
        repair = 'ulimit -S -l "$(ulimit -H -l)"'
    if under_systemd():
        repair = drop_in("memlock", "LimitMEMLOCK=infinity")
    yield Finding("locked_memory", "bad", detail, repair=repair)


# ---- the clock -----------------------------------------------------------------------------------


def examine_clock(_: Subject) -> Iterator[Finding]:
    state, status = clock_state()
    if state < 0:
        yield Finding("clock", "note", "its state cannot be read here")
    elif state == _TIME_ERROR or status & _STA_UNSYNC:
        detail = "not synchronised: times of flow records differ from those of other hosts"
        yield Finding("clock", "warning", detail, repair="timedatectl set-ntp true")
    else:
        yield Finding("clock", "ok", "synchronised")


def clock_state() -> tuple[int, int]:
    """Returns the result of adjtimex(2) and its status bits. -1 if it is not allowed."""
    timex = ctypes.create_string_buffer(512)  # struct timex with modes 0: read only
    libc = ctypes.CDLL(None, use_errno=True)
    state = int(libc.adjtimex(timex))
    status = int(ctypes.c_int.from_buffer(timex, 5 * ctypes.sizeof(ctypes.c_long)).value)
    return state, status


# ---- the disk ------------------------------------------------------------------------------------


def examine_disk_speed(subject: Subject) -> Iterator[Finding]:
    """Compares the disk of [buffer] dir with the speed of the interfaces that it must record."""
    directory = subject.settings.buffer.dir
    if not directory or not os.path.isdir(directory):
        return
    if not os.access(directory, os.W_OK | os.X_OK, effective_ids=True):
        return
    try:
        speed = disk_bytes_per_sec(directory)
    except OSError as error:
        detail = f"{directory}: cannot write a test file: {error.strerror}"
        repair = subject.set_key("buffer.dir", "")
        yield Finding("disk_speed", "bad", detail, repair=repair)
        return
    wire = sum(_wire_bytes_per_sec(name) for name in captured(subject))
    yield judge_speed(subject, directory, speed, wire)


def judge_speed(subject: Subject, directory: str, speed: float, wire: float) -> Finding:
    """speed, wire: bytes a second of the disk and of the interfaces."""
    detail = f"{directory}: {speed / 1e6:.0f} MB/s"
    if not wire:
        return Finding("disk_speed", "ok", detail)
    detail += f", the interfaces deliver up to {wire / 1e6:.0f} MB/s"
    if speed >= wire:
        return Finding("disk_speed", "ok", detail)
    detail += "; at full load packets stay only in memory"
    return Finding("disk_speed", "warning", detail, repair=subject.set_key("buffer.dir", ""))


def disk_bytes_per_sec(directory: str) -> float:
    """Writes at most SPEED_BYTES for at most about SPEED_SEC to a file without a name."""
    chunk = os.urandom(SPEED_CHUNK_BYTES)
    written, begin = 0, time.monotonic()
    with tempfile.TemporaryFile(dir=directory, buffering=0) as file:
        while written < SPEED_BYTES and time.monotonic() - begin < SPEED_SEC:
            written += file.write(chunk)
            os.fdatasync(file.fileno())
    return written / max(time.monotonic() - begin, 1e-6)


def _wire_bytes_per_sec(name: str) -> float:
    return links.speed_mbps(name) * 1e6 / 8
