"""The interface names that a request may pass to a backend.

A kernel interface must exist. DPDK and PF_RING also open files and load drivers by name, so
their names must match the grammar here; the backend parses each name once more.
"""

from __future__ import annotations

import re
import socket

from ..errors import InvalidInterface

_PCAP_ANY = "any"  # libpcap's name for all interfaces at once
_NAME = r"[A-Za-z0-9][A-Za-z0-9_.:-]{0,14}"

_PCI_ADDRESS = re.compile(r"([0-9a-fA-F]{4}:)?[0-9a-fA-F]{2}:[0-9a-fA-F]{2}\.[0-7]")
_DPDK_VIRTUAL = re.compile(
    r"net_ring\d{1,3}"
    r"|net_null\d{1,3}(,(size|copy)=\d{1,5})*"
    rf"|net_af_packet\d{{1,3}},iface={_NAME}"
    rf"|net_af_xdp\d{{1,3}},iface={_NAME}(,(start_queue|queue_count|force_copy)=\d{{1,3}})*"
)
_PF_RING = re.compile(rf"(?:zc:)?(?P<name>{_NAME}?)(?:@[0-9]+(?:[,-][0-9]+)*)?")


def check_interface(backend: str, name: str) -> None:
    """Raises InvalidInterface. Not for the backend `file`, whose interface is a path."""
    if backend == "pcap" and name == _PCAP_ANY:
        return
    if backend == "dpdk" and not _exists(name):
        _check_dpdk(name)
        return
    if backend == "pf_ring":
        if name.startswith("pcap:"):
            raise _invalid('Capture files are replayed by the backend "file".')
        match = _PF_RING.fullmatch(name)
        if match is None or not _exists(match["name"]):
            raise _unknown(name)
        return
    if not _exists(name):
        raise _unknown(name)


def _check_dpdk(name: str) -> None:
    if name.startswith("net_pcap"):
        raise _invalid('Capture files are replayed by the backend "file".')
    if _PCI_ADDRESS.fullmatch(name) or _DPDK_VIRTUAL.fullmatch(name):
        return
    if name.startswith("net_"):
        raise _invalid(
            f"{name!r} is not one of the virtual devices that may be used: net_null, net_ring, "
            "net_af_packet and net_af_xdp, each with a number and its known arguments."
        )
    raise _unknown(name)


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
