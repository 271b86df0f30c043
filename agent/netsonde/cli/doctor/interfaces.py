"""Checks of the interfaces to capture on: present, up, with packets as they were on the wire."""

from __future__ import annotations

import socket
from collections.abc import Iterator

from ...capture.interfaces import find_interfaces, follows_changes
from ...errors import InvalidInterface
from . import links
from .finding import Finding, State, Subject, command

BACKEND = "af_packet"  # without a [session]


def examine_interfaces(subject: Subject) -> Iterator[Finding]:
    present = [name for _, name in socket.if_nameindex()]
    if not subject.interfaces or subject.backend == "file":
        others = ", ".join(name for name in present if not links.is_loopback(name)) or "only lo"
        yield Finding("interface", "note", f"no interface is named (-i); this host has {others}")
        return
    for wanted in subject.interfaces:
        try:
            find_interfaces(subject.backend or BACKEND, wanted)
        except InvalidInterface as error:
            yield _absent(subject, wanted, error.detail, present)
    for name in captured(subject):
        if name in present:  # DPDK has other devices, too
            yield from _examine(name)


def captured(subject: Subject) -> tuple[str, ...]:
    """Returns the interfaces that a capture would have now, without the absent ones."""
    found = []
    for wanted in subject.interfaces:
        try:
            find_interfaces(subject.backend or BACKEND, wanted)
        except InvalidInterface:
            continue
        found.append(wanted)
    return find_interfaces(subject.backend or BACKEND, ",".join(found)) if found else ()


def _absent(subject: Subject, wanted: str, detail: str, present: list[str]) -> Finding:
    """A pattern may match an interface that appears later."""
    state: State = "warning" if follows_changes(subject.backend or BACKEND, wanted) else "bad"
    others = sorted(present, key=lambda name: (links.is_loopback(name), not links.is_up(name)))
    repair = subject.set_key("session.interface", others[0]) if others else "ip link"
    return Finding("interface", state, detail, repair=repair)


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
