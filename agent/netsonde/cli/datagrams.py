"""UDP datagrams of a pcap or pcapng file: Ethernet, cooked, loopback or raw IP.

Used by `netsonde decode`. Reassembles fragments. Counts and skips malformed packets by cause;
no content of a file raises. Plain Python, because dpkt has no link type per pcapng interface
and scapy is GPL-licensed and slow.
"""

from __future__ import annotations

import hashlib
import struct
from collections import Counter, OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field

PCAP_MAGICS = {
    b"\xd4\xc3\xb2\xa1": "<",
    b"\xa1\xb2\xc3\xd4": ">",
    b"\x4d\x3c\xb2\xa1": "<",
    b"\xa1\xb2\x3c\x4d": ">",
}
PCAPNG_MAGIC = b"\x0a\x0d\x0d\x0a"
SECTION, INTERFACE, SIMPLE, ENHANCED = 0x0A0D0D0A, 1, 3, 6
NULL, ETHERNET, RAW_OLD, RAW, LOOP, SLL, IPV4_ONLY, IPV6_ONLY, SLL2 = (
    0, 1, 12, 101, 108, 113, 228, 229, 276,
)  # fmt: skip
VLAN_TAGS = (0x8100, 0x88A8, 0x9100, 0x9200)
UDP, FRAGMENT = 17, 44
EXTENSIONS = (0, 43, 60)  # hop-by-hop, routing, destination options
FRAGMENTED_MAX = 256  # incomplete datagrams in memory
DATAGRAM_BYTES_MAX = 65535


@dataclass(frozen=True, slots=True)
class Datagram:
    """A UDP payload. source: hash of both addresses and the source port."""

    source: int
    payload: bytes


def is_capture(data: memoryview) -> bool:
    start = bytes(data[:4])
    return start in PCAP_MAGICS or start == PCAPNG_MAGIC


def read_datagrams(data: memoryview, counts: Counter[str]) -> Iterator[Datagram]:
    """Yields the datagrams. Adds to `packets_cut`, `fragments_lost`, `file_cut` of counts."""
    packets = (_pcapng if bytes(data[:4]) == PCAPNG_MAGIC else _pcap)(data, counts)
    fragments = _Fragments()
    for linktype, frame in packets:
        network = _network(linktype, frame)
        whole = fragments.add(network) if network is not None else None
        if whole is None:
            continue
        addresses, udp = whole
        if len(udp) < 8:
            continue
        size = int.from_bytes(udp[4:6], "big")
        if size < 8 or size > len(udp):
            counts["packets_cut"] += 1
            continue
        sender = hashlib.blake2b(addresses + udp[:2], digest_size=8).digest()
        yield Datagram(int.from_bytes(sender, "big"), udp[8:size])
    counts["fragments_lost"] += fragments.lost + len(fragments.waiting)


# ---- files ------------------------------------------------------------------------------------

_Frame = tuple[int, bytes]  # link type, bytes


def _pcap(data: memoryview, counts: Counter[str]) -> Iterator[_Frame]:
    order = PCAP_MAGICS[bytes(data[:4])]
    if len(data) < 24:
        counts["file_cut"] += 1
        return
    linktype = struct.unpack_from(f"{order}I", data, 20)[0] & 0x0FFFFFFF
    place = 24
    while place + 16 <= len(data):
        size = struct.unpack_from(f"{order}I", data, place + 8)[0]
        place += 16
        if size > len(data) - place:
            break
        yield linktype, bytes(data[place : place + size])
        place += size
    counts["file_cut"] += place != len(data)


def _pcapng(data: memoryview, counts: Counter[str]) -> Iterator[_Frame]:
    place, order = 0, "<"
    linktypes: list[int] = []
    while place + 12 <= len(data):
        if bytes(data[place : place + 4]) == PCAPNG_MAGIC:
            order = ">" if bytes(data[place + 8 : place + 12]) == b"\x1a\x2b\x3c\x4d" else "<"
            linktypes = []
        kind, size = struct.unpack_from(f"{order}II", data, place)
        if size < 12 or size % 4 or size > len(data) - place:
            break
        body = data[place + 8 : place + size - 4]
        if kind == INTERFACE and len(body) >= 8:
            linktypes.append(struct.unpack_from(f"{order}H", body)[0])
        elif kind in (ENHANCED, SIMPLE):
            yield from _pcapng_packet(kind, body, order, linktypes)
        place += size
    counts["file_cut"] += place != len(data)


def _pcapng_packet(
    kind: int, body: memoryview, order: str, linktypes: list[int]
) -> Iterator[_Frame]:
    head = 20 if kind == ENHANCED else 4
    if len(body) < head:
        return
    interface = struct.unpack_from(f"{order}I", body)[0] if kind == ENHANCED else 0
    size = struct.unpack_from(f"{order}I", body, 12 if kind == ENHANCED else 0)[0]
    if interface < len(linktypes):
        yield linktypes[interface], bytes(body[head : head + size])


# ---- frames -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Network:
    """An IP packet's part of a UDP datagram. more: a fragment, but not the last one."""

    addresses: bytes
    ident: int
    offset: int
    more: bool
    payload: bytes


def _network(linktype: int, frame: bytes) -> _Network | None:
    packet = _packet(linktype, frame)
    version = packet[0] >> 4 if packet else 0
    if version == 4 and len(packet) >= 20:
        return _ipv4(packet)
    if version == 6 and len(packet) >= 40:
        return _ipv6(packet)
    return None


def _packet(linktype: int, frame: bytes) -> bytes:
    """Strips the link layer and VLAN tags. Returns b"" if the packet is not IP."""
    if linktype in (RAW, RAW_OLD, IPV4_ONLY, IPV6_ONLY):
        return frame
    if linktype in (NULL, LOOP):
        return frame[4:]
    start = {ETHERNET: 12, SLL: 14, SLL2: 0}.get(linktype)
    if start is None:
        return b""
    place = 20 if linktype == SLL2 else start + 2
    kind = int.from_bytes(frame[start : start + 2], "big")
    while kind in VLAN_TAGS:
        kind = int.from_bytes(frame[place + 2 : place + 4], "big")
        place += 4
    return frame[place:] if kind in (0x0800, 0x86DD) else b""


def _ipv4(packet: bytes) -> _Network | None:
    head = (packet[0] & 15) * 4
    size, ident, place = struct.unpack_from("!HHH", packet, 2)
    if packet[9] != UDP or head < 20 or size < head:
        return None
    return _Network(
        packet[12:20], ident, (place & 0x1FFF) * 8, bool(place & 0x2000), packet[head:size]
    )


def _ipv6(packet: bytes) -> _Network | None:
    kind, place = packet[6], 40
    end = 40 + int.from_bytes(packet[4:6], "big")
    ident, offset, more = 0, 0, False
    while kind in EXTENSIONS or kind == FRAGMENT:
        if len(packet) < place + 8:
            return None
        if kind == FRAGMENT:
            offset, ident = struct.unpack_from("!HI", packet, place + 2)
            offset, more = offset & 0xFFF8, bool(offset & 1)
            size = 8
        else:
            size = packet[place + 1] * 8 + 8
        kind, place = packet[place], place + size
    if kind != UDP:
        return None
    return _Network(packet[8:40], ident, offset, more, packet[place:end])


# ---- fragments --------------------------------------------------------------------------------


@dataclass(slots=True)
class _Parts:
    pieces: dict[int, bytes] = field(default_factory=dict)  # by offset
    size: int | None = None  # known from the last fragment


class _Fragments:
    def __init__(self) -> None:
        self.waiting: OrderedDict[tuple[bytes, int], _Parts] = OrderedDict()
        self.lost = 0

    def add(self, network: _Network) -> tuple[bytes, bytes] | None:
        """Returns addresses and UDP datagram when the datagram is complete."""
        if network.offset == 0 and not network.more:
            return network.addresses, network.payload
        key = network.addresses, network.ident
        parts = self.waiting.setdefault(key, _Parts())
        parts.pieces[network.offset] = network.payload
        if not network.more:
            parts.size = network.offset + len(network.payload)
        whole = _join(parts)
        if whole is not None:
            del self.waiting[key]
            return network.addresses, whole
        if len(self.waiting) > FRAGMENTED_MAX:
            self.waiting.popitem(last=False)
            self.lost += 1
        return None


def _join(parts: _Parts) -> bytes | None:
    if parts.size is None or sum(map(len, parts.pieces.values())) < parts.size:
        return None
    joined = b""
    for offset, piece in sorted(parts.pieces.items()):
        if offset != len(joined):
            return None
        joined += piece
    return joined if len(joined) <= DATAGRAM_BYTES_MAX else None
