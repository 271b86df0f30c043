"""Checks of this process: user, capabilities, backends, owners of flows."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator

from ...daemon import privileges
from ...daemon.privileges import Standing
from ...errors import EXIT_PRIVILEGE, PrivilegeError
from .finding import Finding, State, Subject

UNIT_DIRECTORY = "/etc/systemd/system/netsonde.service.d"


def examine_process(subject: Subject) -> Iterator[Finding]:
    has = privileges.standing()
    held = ", ".join(sorted(has.capabilities)) or "no capability for capture"
    detail = f"uid {has.uid}, {held}"
    if has.uid == 0:
        detail += "; the agent's user may have fewer permissions"
    yield Finding("user", "note" if has.uid == 0 else "ok", detail)
    for name, on in (("no_new_privs", has.no_new_privileges), ("seccomp", has.seccomp)):
        detail = "on" if on else "off; the systemd unit turns it on"
        yield Finding(name, "ok" if on else "note", detail)
    capture = subject.settings.capture
    try:
        privileges.require_capture(capture)
    except PrivilegeError as error:
        repair = drop_in(
            "capture", "AmbientCapabilities=CAP_NET_RAW", "CapabilityBoundingSet=CAP_NET_RAW"
        )
        yield Finding("capture", "bad", error.detail, EXIT_PRIVILEGE, repair)
    else:
        live = "allowed" if capture.live else "disabled ([capture] live = false)"
        yield Finding("capture", "ok", live)


def examine_backends(subject: Subject) -> Iterator[Finding]:
    from ...core.backends import backends  # loads the C core

    has = privileges.standing()
    for report in asyncio.run(backends()):
        needed = privileges.NEEDED.get(report.name, ())
        missing = has.missing(report.name)
        wanted = report.name == subject.backend
        if missing:
            yield _ungranted(report.name, has, "" if report.usable else report.reason, wanted)
        elif report.usable:
            yield Finding(report.name, "ok", f"usable with {', '.join(needed) or 'no privileges'}")
        else:
            state: State = "bad" if wanted else "missing"
            repair = subject.set_key("session.backend", "af_packet") if wanted else ""
            yield Finding(report.name, state, report.reason, EXIT_PRIVILEGE, repair)


def examine_owners(subject: Subject) -> Iterator[Finding]:
    from ...core.owners import probe_owners  # loads the C core

    needed = ", ".join(privileges.OWNERS)
    has = privileges.standing()
    missing = [name for name in privileges.OWNERS if name not in has.capabilities]
    if subject.settings.flows.owners == "off":
        yield Finding("owners", "note", "disabled ([flows] owners)")
    elif missing:
        names = " ".join(missing)
        detail = f"flows have no process, because {', '.join(missing)} is missing"
        repair = drop_in(
            "owners",
            f"AmbientCapabilities={names}",
            f"CapabilityBoundingSet={names}",
            "SystemCallFilter=bpf",
            "ProtectProc=default",
        )
        yield Finding("owners", "missing", detail, repair=repair)
    else:
        found, detail = asyncio.run(probe_owners())
        if not found:
            yield Finding("owners", "missing", f"flows have no process: {detail}")
        elif detail:
            yield Finding("owners", "note", f"usable with {needed}; {detail}")
        else:
            yield Finding("owners", "ok", f"usable with {needed}")


def _ungranted(backend: str, has: Standing, reason: str, wanted: bool) -> Finding:
    missing = has.missing(backend)
    names = " ".join(missing)
    detail = (
        f"missing {', '.join(missing)}: add AmbientCapabilities={names} and "
        f"CapabilityBoundingSet={names} to {UNIT_DIRECTORY}/{backend}.conf"
    )
    if reason:
        detail += f" ({reason})"
    repair = drop_in(backend, f"AmbientCapabilities={names}", f"CapabilityBoundingSet={names}")
    return Finding(backend, "bad" if wanted else "missing", detail, EXIT_PRIVILEGE, repair)


def under_systemd() -> bool:
    return bool(os.environ.get("INVOCATION_ID"))


def drop_in(name: str, *lines: str) -> str:
    """Returns the command that adds lines to the agent's systemd unit."""
    text = "\\n".join(("[Service]", *lines)) + "\\n"
    return (
        f"mkdir -p {UNIT_DIRECTORY} && printf '{text}' > {UNIT_DIRECTORY}/{name}.conf && "
        "systemctl daemon-reload && systemctl restart netsonde"
    )
