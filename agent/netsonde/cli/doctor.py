"""`netsonde doctor`: checks what this host can capture with and how to grant what is missing."""

from __future__ import annotations

import asyncio
import os
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from ..config import file as config
from ..config.sections import Config
from ..daemon import privileges
from ..daemon.privileges import Standing
from ..errors import (
    EXIT_CONFIG,
    EXIT_OK,
    EXIT_PRIVILEGE,
    EXIT_REFUSED,
    ConfigError,
    PrivilegeError,
    UnreachableError,
)
from .output import put_json
from .tables import print_table

State: TypeAlias = Literal["ok", "note", "missing", "bad"]


@dataclass(frozen=True, slots=True)
class Finding:
    """Result of one check. `exit_code` is used only if the state is bad."""

    check: str
    state: State
    detail: str
    exit_code: int = EXIT_REFUSED


class DoctorCommand:
    """Check this host: privileges, backends, configuration, keys, NATS.

    Run it with the agent's user and capabilities:
      systemd-run --pipe --uid=netsonde -p AmbientCapabilities=CAP_NET_RAW netsonde doctor
    Missing backends are not an error if another one can capture. Exit codes: 0 no error;
    1 other errors; 69 NATS; 77 no backend can capture; 78 the configuration.
    """

    name = "doctor"

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--config", metavar="FILE", help=f"default: {config.DEFAULT_PATH}")
        parser.add_argument("--json", action="store_true", help="print one JSON object per line")

    def run(self, args: Namespace) -> int:
        path = Path(args.config) if args.config else None
        try:
            settings = config.load(path)
        except ConfigError as error:
            findings = [Finding("configuration", "bad", error.detail, EXIT_CONFIG)]
            settings = Config()
        else:
            source = path or config.DEFAULT_PATH
            shown = str(source) if source.exists() else f"{source} is missing, defaults apply"
            findings = [Finding("configuration", "ok", shown)]
        has = privileges.standing()
        checks: tuple[Callable[[], Iterator[Finding]], ...] = (
            lambda: examine_process(has, settings),
            lambda: examine_backends(has),
            lambda: examine_directories(settings),
            lambda: examine_keys(settings),
            lambda: examine_nats(settings),
        )
        findings += [finding for check in checks for finding in check()]
        if args.json:
            for finding in findings:
                put_json(finding)
        else:
            rows = [(f.check, f.state, f.detail) for f in findings]
            print_table(("CHECK", "STATE", "DETAIL"), rows)
        return max((f.exit_code for f in findings if f.state == "bad"), default=EXIT_OK)


def examine_process(has: Standing, settings: Config) -> Iterator[Finding]:
    held = ", ".join(sorted(has.capabilities)) or "no capability for capture"
    yield Finding("user", "note" if has.uid == 0 else "ok", f"uid {has.uid}, {held}")
    for name, on in (("no_new_privs", has.no_new_privileges), ("seccomp", has.seccomp)):
        detail = "on" if on else "off; the systemd unit turns it on"
        yield Finding(name, "ok" if on else "note", detail)
    try:
        privileges.require_capture(settings.capture)
    except PrivilegeError as error:
        yield Finding("capture", "bad", error.detail, EXIT_PRIVILEGE)
    else:
        live = "allowed" if settings.capture.live else "disabled ([capture] live = false)"
        yield Finding("capture", "ok", live)


def examine_backends(has: Standing) -> Iterator[Finding]:
    from ..core.backends import backends  # loads the C core

    for report in asyncio.run(backends()):
        needed = privileges.NEEDED.get(report.name, ())
        missing = has.missing(report.name)
        if missing:
            detail = f"missing {', '.join(missing)}: {grant(report.name, missing)}"
            if not report.usable:
                detail += f" ({report.reason})"
            yield Finding(report.name, "missing", detail)
        elif report.usable:
            yield Finding(report.name, "ok", f"usable with {', '.join(needed) or 'no privileges'}")
        else:
            yield Finding(report.name, "missing", report.reason)


def grant(backend: str, missing: list[str]) -> str:
    """Returns how to grant the capabilities with systemd."""
    names = " ".join(missing)
    return (
        f"add AmbientCapabilities={names} and CapabilityBoundingSet={names} to "
        f"/etc/systemd/system/netsonde.service.d/{backend}.conf"
    )


def examine_directories(settings: Config) -> Iterator[Finding]:
    wanted = {
        "capture.replay_dirs": settings.capture.replay_dirs,
        "encryption.key_dirs": settings.encryption.key_dirs,
        "firmware.dirs": settings.firmware.dirs,
    }
    for key, directories in wanted.items():
        for directory in directories:
            if not os.path.isdir(directory):
                yield Finding(key, "bad", f"{directory} is not a directory")
            elif not os.access(directory, os.X_OK):
                yield Finding(key, "bad", f"{directory}: no x permission for uid {os.geteuid()}")
            else:
                yield Finding(key, "ok", directory)


def examine_keys(settings: Config) -> Iterator[Finding]:
    from ..firmware.keys import load

    if not settings.firmware.dirs:
        return
    trusted = load(settings.firmware.trusted_keys)
    for name, reason in trusted.refused.items():
        yield Finding("firmware.trusted_keys", "bad", f"{name}: {reason}")
    if trusted.keys:
        names = ", ".join(f"{key.name} ({key.kind}, {key.id})" for key in trusted.keys)
        yield Finding("firmware.trusted_keys", "ok", names)
    else:
        yield Finding("firmware.trusted_keys", "bad", "no trusted key: firmware cannot be verified")


def examine_nats(settings: Config) -> Iterator[Finding]:
    from ..bus.connection import login_options
    from ..fleet.client import connect

    async def try_connect() -> None:
        async with connect(settings.nats):
            pass

    try:
        encrypted = "tls" in login_options(settings.nats)
        asyncio.run(try_connect())
    except (UnreachableError, ConfigError) as error:
        yield Finding("nats", "bad", error.detail, error.exit_code)
    else:
        detail = "connected with TLS" if encrypted else "connected without encryption"
        yield Finding("nats", "ok" if encrypted else "note", detail)
