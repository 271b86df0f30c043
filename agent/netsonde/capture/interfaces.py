"""The interfaces that a request names: names, patterns and `any`, separated by commas.

A name given in full must exist and is taken as it is. An interface that only a pattern matches
is left out while a device below it is captured, so that each packet counts once. DPDK and PF_RING
capture from one device, which they open by name, so their names must match the grammar here; the
backend parses each name once more.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Mapping
from fnmatch import fnmatchcase

from ..errors import InvalidInterface
from .host_links import Link, read_links

SEVERAL = frozenset({"af_packet", "pcap", "xdp"})  # the backends that capture from several
INTERFACES_MAX = 64

_ANY = "any"  # every interface but loopback
_WILD = re.compile(r"[*?\[]")
_NAME = r"[A-Za-z0-9][A-Za-z0-9_.:-]{0,14}"

_PCI_ADDRESS = re.compile(r"([0-9a-fA-F]{4}:)?[0-9a-fA-F]{2}:[0-9a-fA-F]{2}\.[0-7]")
_DPDK_VIRTUAL = re.compile(
    r"net_ring\d{1,3}"
    r"|net_null\d{1,3}(,(size|copy)=\d{1,5})*"
    rf"|net_af_packet\d{{1,3}},iface={_NAME}"
    rf"|net_af_xdp\d{{1,3}},iface={_NAME}(,(start_queue|queue_count|force_copy)=\d{{1,3}})*"
)
_PF_RING = re.compile(rf"(?:zc:)?(?P<name>{_NAME}?)(?:@[0-9]+(?:[,-][0-9]+)*)?")


def find_interfaces(backend: str, text: str) -> tuple[str, ...]:
    """Returns the interfaces that a request means now. Raises InvalidInterface. Not for the
    backend `file`, whose interface is a path."""
    if backend not in SEVERAL:
        _check_one(backend, text)
        return (text,)
    if text != _ANY and _exists(text):
        return (text,)
    chosen = choose(text, read_links())
    for name in _parts(text):
        if not _is_pattern(name) and not _exists(name):
            raise _unknown(name)
    if not chosen:
        raise _invalid(f"No interface of this host matches {text!r}.")
    if len(chosen) > INTERFACES_MAX:
        raise _invalid(
            f"{text!r} means {len(chosen)} interfaces; a session has at most {INTERFACES_MAX}."
        )
    return chosen


def follows_changes(backend: str, text: str) -> bool:
    """Returns whether the interfaces depend on those that the host has."""
    if backend not in SEVERAL or (text != _ANY and _exists(text)):
        return False
    return any(map(_is_pattern, _parts(text)))


def choose(text: str, links: Mapping[str, Link]) -> tuple[str, ...]:
    """Returns names given in full, in the request's order, then the matching others by name.

    Pure: reads no host."""
    parts = _parts(text)
    full = dict.fromkeys(part for part in parts if not _is_pattern(part) or part in links)
    full.pop(_ANY, None)
    patterns = [part for part in parts if part not in full]
    matching = [
        name
        for name, link in sorted(links.items())
        if name not in full and any(_matches(link, pattern) for pattern in patterns)
    ]
    by_index = {link.ifindex: link for link in links.values()}
    captured = {links[name].ifindex for name in full if name in links}
    candidates = {links[name].ifindex for name in matching}
    for index in _lowest_first(candidates, by_index):
        if not captured & _below(index, by_index):
            captured.add(index)
    return (*full, *(name for name in matching if links[name].ifindex in captured))


def _lowest_first(indexes: set[int], by_index: Mapping[int, Link]) -> list[int]:
    return sorted(indexes, key=lambda index: (len(_below(index, by_index)), index))


def _below(index: int, by_index: Mapping[int, Link]) -> set[int]:
    """Returns every device below one, at any depth."""
    found: set[int] = set()
    waiting = [index]
    while waiting:
        for lower in by_index[waiting.pop()].lower - found:
            if lower in by_index and lower != index:
                found.add(lower)
                waiting.append(lower)
    return found


def _parts(text: str) -> list[str]:
    parts = [part.strip(" ") for part in text.split(",")]
    if not all(parts):
        raise _invalid(f"{text!r} has an empty name.")
    return parts


def _is_pattern(name: str) -> bool:
    return name == _ANY or _WILD.search(name) is not None


def _matches(link: Link, pattern: str) -> bool:
    return not link.loopback if pattern == _ANY else fnmatchcase(link.name, pattern)


def _check_one(backend: str, name: str) -> None:
    if backend == "dpdk":
        good = _exists(name) or _is_dpdk(name)
    else:
        if name.startswith("pcap:"):
            raise _invalid('Capture files are replayed by the backend "file".')
        match = _PF_RING.fullmatch(name)
        good = match is not None and _exists(match["name"])
    if good:
        return
    parts = name.split(",")
    if _is_pattern(name) or (len(parts) > 1 and all(map(_exists, parts))):
        raise _invalid(
            f"The backend {backend} captures from one interface, which must be named in full. "
            f"Use one of {', '.join(sorted(SEVERAL))} for several."
        )
    raise _unknown(name)


def _is_dpdk(name: str) -> bool:
    """Raises InvalidInterface for a virtual device that may not be used."""
    if name.startswith("net_pcap"):
        raise _invalid('Capture files are replayed by the backend "file".')
    if _PCI_ADDRESS.fullmatch(name) or _DPDK_VIRTUAL.fullmatch(name):
        return True
    if name.startswith("net_"):
        raise _invalid(
            f"{name!r} is not one of the virtual devices that may be used: net_null, net_ring, "
            "net_af_packet and net_af_xdp, each with a number and its known arguments."
        )
    return False


def _exists(name: str) -> bool:
    try:
        socket.if_nametoindex(name)
    except (OSError, ValueError, UnicodeEncodeError):
        return False
    return True


def _unknown(name: str) -> InvalidInterface:
    return _invalid(f"There is no interface {name!r} on this host.")


def _invalid(detail: str) -> InvalidInterface:
    return InvalidInterface(detail, field="$.interface")
