"""The network interfaces of this process's network namespace, by rtnetlink.

links.py reports changes.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass

_GET_LINK, _NEW_LINK, _DONE, _ERROR = 18, 16, 3, 2
_REQUEST_DUMP = 0x301
_MESSAGE = struct.Struct("=IHHII")
_LINK_HEAD = struct.Struct("=BxHiII")
_ATTRIBUTE = struct.Struct("=HH")
_NAME, _LINK, _MASTER, _LINK_INFO, _LINK_NAMESPACE, _KIND = 3, 5, 10, 18, 37, 1
_TYPE_MASK = 0x3FFF
_IFF_LOOPBACK = 8
_PAIRS = frozenset({"veth", "netkit"})  # their IFLA_LINK is the peer, not a device below
_READ_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class Link:
    """lower: the ifindex of each device directly below: a VLAN's parent, a bond's members, …"""

    name: str
    ifindex: int
    loopback: bool = False
    lower: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class _Read:
    name: str
    ifindex: int
    loopback: bool
    parent: int  # 0 without one
    master: int


def read_links() -> dict[str, Link]:
    """Returns the interfaces by name. Takes about 1 ms for 100 interfaces. Raises OSError."""
    with _socket() as netlink:
        netlink.settimeout(5.0)
        netlink.send(
            _MESSAGE.pack(_MESSAGE.size + _LINK_HEAD.size, _GET_LINK, _REQUEST_DUMP, 1, 0)
            + _LINK_HEAD.pack(socket.AF_UNSPEC, 0, 0, 0, 0)
        )
        found: list[_Read] = []
        while True:
            for kind, body in _messages(netlink.recv(_READ_BYTES)):
                if kind == _DONE:
                    return _connect(found)
                if kind == _ERROR:
                    code = -int.from_bytes(body[:4], "little", signed=True)
                    raise OSError(code, os.strerror(code))
                if kind == _NEW_LINK:
                    found.append(_read(body))


def _socket() -> socket.socket:
    made = socket.socket(
        socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE
    )
    try:
        made.bind((0, 0))
    except OSError:
        made.close()
        raise
    return made


def _messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + _MESSAGE.size <= len(data):
        length, kind, _, _, _ = _MESSAGE.unpack_from(data, at)
        yield kind, data[at + _MESSAGE.size : at + length]
        at += max(length + 3 & ~3, _MESSAGE.size)


def _attributes(data: bytes) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    at = 0
    while at + _ATTRIBUTE.size <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, at)
        found[kind & _TYPE_MASK] = data[at + _ATTRIBUTE.size : at + length]
        at += max(length + 3 & ~3, _ATTRIBUTE.size)
    return found


def _read(body: bytes) -> _Read:
    _, _, ifindex, flags, _ = _LINK_HEAD.unpack_from(body)
    found = _attributes(body[_LINK_HEAD.size :])
    kind = _attributes(found.get(_LINK_INFO, b"")).get(_KIND, b"").rstrip(b"\0").decode()
    parent = _number(found.get(_LINK))
    if kind in _PAIRS or _LINK_NAMESPACE in found:
        parent = 0
    return _Read(
        name=os.fsdecode(found.get(_NAME, b"").rstrip(b"\0")),
        ifindex=ifindex,
        loopback=bool(flags & _IFF_LOOPBACK),
        parent=parent,
        master=_number(found.get(_MASTER)),
    )


def _number(value: bytes | None) -> int:
    return struct.unpack("=I", value[:4])[0] if value else 0


def _connect(found: list[_Read]) -> dict[str, Link]:
    lower: dict[int, set[int]] = {one.ifindex: set() for one in found}
    for one in found:
        if one.parent in lower:
            lower[one.ifindex].add(one.parent)
        if one.master in lower:
            lower[one.master].add(one.ifindex)
    return {
        one.name: Link(one.name, one.ifindex, one.loopback, frozenset(lower[one.ifindex]))
        for one in found
    }
