"""The link types of a source, for which its filter is compiled.

A live interface has one, which its hardware type decides. A capture file names them in its header
(pcap) or in its interface blocks (pcapng). Values are those of
https://www.tcpdump.org/linktypes.html.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

ETHERNET, RAW, SLL, SLL2 = 1, 101, 113, 276
_IEEE_802_11 = (105, 119, 127, 163, 192)
ALL = (ETHERNET, RAW, SLL2, SLL, *_IEEE_802_11, 0, 9)
HEAD_BYTES = 64 << 10
LINK_TYPES_MAX = 16

_ARPHRD_ETHERNET, _ARPHRD_LOOPBACK = 1, 772
_ARPHRD_802_11 = range(801, 804)
_ARPHRD_BARE = {65534, 519, 768, 769, 776, 65535, 512, 778, 823}
_PCAP_LITTLE = {bytes.fromhex(magic) for magic in ("d4c3b2a1", "4d3cb2a1", "34cdb2a1")}
_PCAP_BIG = {magic[::-1] for magic in _PCAP_LITTLE}
_SECTION, _BIG_ENDIAN = b"\n\r\r\n", b"\x1a\x2b\x3c\x4d"
_INTERFACE_BLOCK = 1


def of_interfaces(names: Iterable[str]) -> tuple[int, ...]:
    """Returns the link types of all of them, each once."""
    return tuple(dict.fromkeys(link for name in names for link in _of_interface(name)))


def _of_interface(name: str) -> tuple[int, ...]:
    """Returns ALL if the interface is unknown or its hardware type is."""
    try:
        hardware = int(Path("/sys/class/net", name, "type").read_text())
    except (OSError, ValueError):
        return ALL
    if hardware in (_ARPHRD_ETHERNET, _ARPHRD_LOOPBACK):
        return (ETHERNET,)
    if hardware in _ARPHRD_802_11:
        return _IEEE_802_11
    return (RAW,) if hardware in _ARPHRD_BARE else ALL


def of_file(fd: int) -> tuple[int, ...]:
    """Returns the link types that the first HEAD_BYTES name; ALL if they name none. Does not move
    the file's position."""
    head = os.pread(fd, HEAD_BYTES, 0)
    if head[:4] in _PCAP_LITTLE or head[:4] in _PCAP_BIG:
        link = int.from_bytes(head[20:24], "little" if head[:4] in _PCAP_LITTLE else "big")
        return (_normal(link & 0xFFFF),) if len(head) >= 24 else ALL
    found: dict[int, None] = {}
    if head[:4] == _SECTION:
        order: Literal["big", "little"] = "big" if head[8:12] == _BIG_ENDIAN else "little"
        at = 0
        while at + 12 <= len(head) and len(found) < LINK_TYPES_MAX:
            kind = int.from_bytes(head[at : at + 4], order)
            size = int.from_bytes(head[at + 4 : at + 8], order)
            if kind == _INTERFACE_BLOCK:
                link = int.from_bytes(head[at + 8 : at + 10], order)
                found[_normal(link)] = None
            at += max(size, 12)
    return tuple(found) or ALL


def _normal(link: int) -> int:
    """The DLT numbers of raw IP stand for its link type."""
    return RAW if link in (12, 14) else link
