"""Checks of the interfaces to capture on: present, up, with packets as they were on the wire."""

from __future__ import annotations

import fnmatch
import socket
from collections.abc import Iterator

from . import links
from .finding import Finding, Subject, command

GLOB = "*?["
ANY = "any"


def examine_interfaces(subject: Subject) -> Iterator[Finding]:
    present = [name for _, name in socket.if_nameindex()]
    if not subject.interfaces or subject.backend == "file":
        others = ", ".join(name for name in present if not links.is_loopback(name)) or "only lo"
        yield Finding("interface", "note", f"no interface is named (-i); this host has {others}")
        return
    for wanted in subject.interfaces:
        names = matching(wanted, present)
        if not names:
            yield _absent(subject, wanted, present)
        for name in names:
            yield from _examine(name)


def matching(wanted: str, present: list[str]) -> list[str]:
    if wanted == ANY:
        return [name for name in present if not links.is_loopback(name)]
    if any(letter in wanted for letter in GLOB):
        return fnmatch.filter(present, wanted)
    return [wanted] if wanted in present else []


def _absent(subject: Subject, wanted: str, present: list[str]) -> Finding:
    pattern = wanted == ANY or any(letter in wanted for letter in GLOB)
    detail = f"no interface matches {wanted}" if pattern else f"there is no interface {wanted}"
    others = sorted(present, key=lambda name: (links.is_loopback(name), not links.is_up(name)))
    repair = subject.set_key("session.interface", others[0]) if others else "ip link"
    return Finding("interface", "warning" if pattern else "bad", detail, repair=repair)


def _examine(name: str) -> Iterator[Finding]:
    if not links.is_up(name):
        repair = command("ip", "link", "set", "dev", name, "up")
        yield Finding("interface", "bad", f"{name} is down: no packet arrives", repair=repair)
    else:
        speed = links.speed_mbps(name)
        yield Finding("interface", "ok", f"{name} is up" + (f", {speed} Mbit/s" if speed else ""))
    if links.is_loopback(name):
        return
    merging = links.merging_offloads(name)
    if merging:
        detail = (
            f"{name}: {' and '.join(merging)} on; received packets are merged before they are"
            " captured, so recorded packets are larger than on the wire"
        )
        switches = [word for one in merging for word in (one, "off")]
        repair = command("ethtool", "-K", name, *switches)
        yield Finding("offloads", "warning", detail, repair=repair)
    else:
        yield Finding("offloads", "ok", f"{name}: gro and lro are off")
