"""Checks of the configured directories: they exist, the agent may use them, their limits fit."""

from __future__ import annotations

import os
import shutil
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from ...sinks.jetstream import spool_directory
from .finding import Finding, Subject, command, owner
from .process import drop_in, under_systemd

MIB = 1 << 20


def examine_directories(subject: Subject) -> Iterator[Finding]:
    """Checks the directories that the agent only reads."""
    settings = subject.settings
    wanted = {
        "capture.replay_dirs": settings.capture.replay_dirs,
        "encryption.key_dirs": settings.encryption.key_dirs,
        "firmware.dirs": settings.firmware.dirs,
    }
    for key, directories in wanted.items():
        for directory in directories:
            yield _readable(key, directory)


def examine_storage(subject: Subject) -> Iterator[Finding]:
    """Checks the directories that the agent fills, and the space for their limits."""
    usable = []
    for key, directory, limit_mb in storage(subject):
        finding = _writable(key, directory)
        yield finding
        if finding.state != "bad":
            usable.append((key, directory, limit_mb))
    yield from _space(subject, usable)


def storage(subject: Subject) -> list[tuple[str, str, int]]:
    """Returns key, directory and limit in MiB of each directory that the agent fills."""
    buffer, flows = subject.settings.buffer, subject.settings.flows
    found = [
        ("buffer.dir", buffer.dir, buffer.disk_mb),
        ("buffer.export_dir", buffer.export_dir, buffer.export_mb),
    ]
    if flows.jetstream:
        found.append(("flows.spool_dir", str(spool_directory(flows)), flows.spool_mb))
    return [one for one in found if one[1]]


def _readable(key: str, directory: str) -> Finding:
    if not os.path.isdir(directory):
        return Finding(key, "bad", f"{directory} is not a directory", repair=make(directory))
    if not os.access(directory, os.R_OK | os.X_OK):
        detail = f"{directory}: no r-x permission for uid {os.geteuid()}"
        return Finding(key, "bad", detail, repair=command("chmod", "o+rx", directory))
    return Finding(key, "ok", directory)


def _writable(key: str, directory: str) -> Finding:
    if not os.path.lexists(directory):
        if _may_write(_existing_parent(directory)):
            detail = f"{directory} is missing; the agent creates it"
            return Finding(key, "warning", detail, repair=make(directory))
        detail = f"{directory} is missing and uid {os.geteuid()} may not create it"
        return Finding(key, "bad", detail, repair=make(directory))
    if not os.path.isdir(directory):
        detail = f"{directory} is not a directory"
        repair = f"{command('mv', directory, directory + '.old')} && {make(directory)}"
        return Finding(key, "bad", detail, repair=repair)
    if _read_only(directory):
        detail = f"{directory} is on a file system that is mounted read-only"
        repair = command("mount", "-o", "remount,rw", _mount_point(directory))
        if under_systemd():  # ProtectSystem=strict
            repair = drop_in("paths", f"ReadWritePaths={directory}")
        return Finding(key, "bad", detail, repair=repair)
    if not _may_write(directory):
        detail = f"{directory}: no rwx permission for uid {os.geteuid()}"
        repair = f"{command('chown', owner(), directory)} && {command('chmod', '700', directory)}"
        return Finding(key, "bad", detail, repair=repair)
    return Finding(key, "ok", directory)


def make(directory: str) -> str:
    user, _, group = owner().partition(":")
    return command("install", "-d", "-m", "0700", "-o", user, "-g", group, directory)


def _may_write(directory: str) -> bool:
    return os.access(directory, os.R_OK | os.W_OK | os.X_OK, effective_ids=True)


def _read_only(directory: str) -> bool:
    return bool(os.statvfs(directory).f_flag & os.ST_RDONLY)


def _existing_parent(directory: str) -> str:
    return str(next(one for one in Path(directory).parents if one.exists()))


def _mount_point(directory: str) -> str:
    path = Path(os.path.realpath(directory))
    return str(next(one for one in (path, *path.parents) if os.path.ismount(one)))


def _space(subject: Subject, usable: list[tuple[str, str, int]]) -> Iterator[Finding]:
    """Compares the limits of all directories on one file system with its free space."""
    systems: dict[int, list[tuple[str, str, int]]] = defaultdict(list)
    for one in usable:
        at = one[1] if os.path.isdir(one[1]) else _existing_parent(one[1])
        systems[os.stat(at).st_dev].append((one[0], at, one[2]))
    for members in systems.values():
        used = {at: _used_bytes(at) for key, at, _ in members if _is_own(subject, key, at)}
        free = shutil.disk_usage(members[0][1]).free + sum(used.values())
        wanted = sum(limit_mb for _, _, limit_mb in members) * MIB
        keys = " + ".join(f"{_limit_key(key)} {limit_mb}" for key, _, limit_mb in members)
        detail = f"{keys} MiB of {free // MIB} MiB that are free or already used"
        if wanted <= free:
            yield Finding("space", "ok", detail)
            continue
        repairs = []
        for key, _, limit_mb in members:
            least = 4 if key == "buffer.dir" else 1
            fitting = max(int(limit_mb * free * 0.9) // wanted, least)
            repairs.append(subject.set_key(_limit_key(key), fitting))
        yield Finding("space", "warning", f"not enough: {detail}", repair=" && ".join(repairs))


def _limit_key(key: str) -> str:
    return {
        "buffer.dir": "buffer.disk_mb",
        "buffer.export_dir": "buffer.export_mb",
        "flows.spool_dir": "flows.spool_mb",
    }[key]


def _is_own(subject: Subject, key: str, at: str) -> bool:
    """Returns whether `at` is the configured directory and not a parent of it."""
    return any(one == key and directory == at for one, directory, _ in storage(subject))


def _used_bytes(directory: str) -> int:
    total = 0
    for folder, _, files in os.walk(directory):
        for name in files:
            try:
                total += os.lstat(os.path.join(folder, name)).st_blocks * 512
            except OSError:
                continue
    return total
