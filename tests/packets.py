"""Handmade frames, and a reader and writer of capture files in plain Python.

A frame is built from the inside out; each function wraps the bytes of the previous one:

    ethernet(ipv4(udp(b"query", 53000, 53), UDP, "10.0.0.1", "10.0.0.2"))

IP header checksums are correct. Transport checksums are zero, because a meter does not check them.
Times are whole nanoseconds since the epoch, so that a test can hit either side of a limit.
"""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

SECOND_NS = 1_000_000_000

ETHERNET, RAW, SLL2 = 1, 101, 276  # link types
IPV4, ARP, VLAN, QINQ, IPV6, MPLS, LLDP = 0x0800, 0x0806, 0x8100, 0x88A8, 0x86DD, 0x8847, 0x88CC
ICMP, TCP, UDP, GRE, ICMPV6, SCTP = 1, 6, 17, 47, 58, 132
FIN, SYN, RST, PSH, ACK = 1, 2, 4, 8, 16

CLIENT_MAC = bytes.fromhex("020000000001")
SERVER_MAC = bytes.fromhex("020000000002")


@dataclass(frozen=True)
class Packet:
    """One packet of a capture file. `wirelen` is its length on the wire."""

    time_ns: int
    data: bytes
    wirelen: int
    linktype: int = ETHERNET


def at(time_ns: int, frame: bytes, linktype: int = ETHERNET) -> Packet:
    return Packet(time_ns, frame, len(frame), linktype)


# ---- layers -------------------------------------------------------------------------------


def ethernet(
    payload: bytes,
    ethertype: int = IPV4,
    *,
    source: bytes = CLIENT_MAC,
    dest: bytes = SERVER_MAC,
    vlans: Sequence[int] = (),
) -> bytes:
    tags = b""
    for depth, vlan in enumerate(vlans):
        tag = QINQ if depth + 1 < len(vlans) else VLAN
        tags += struct.pack("!HH", tag, vlan)
    return dest + source + tags + struct.pack("!H", ethertype) + payload


def checksum(data: bytes) -> int:
    """RFC 1071: the ones' complement of the ones' complement sum."""
    if len(data) % 2:
        data += b"\0"
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF


def ipv4(
    payload: bytes,
    protocol: int,
    source: str,
    dest: str,
    *,
    ttl: int = 64,
    tos: int = 0,
    ident: int = 0,
    fragment_offset: int = 0,
    more_fragments: bool = False,
    total_length: int | None = None,
) -> bytes:
    """Returns an IPv4 packet. `fragment_offset` is in bytes, a multiple of 8. `total_length`
    overrides the length field."""
    length = 20 + len(payload) if total_length is None else total_length
    flags = (0x2000 if more_fragments else 0) | fragment_offset // 8
    addresses = ipaddress.IPv4Address(source).packed + ipaddress.IPv4Address(dest).packed
    head = struct.pack("!BBHHHBBH", 0x45, tos, length, ident, flags, ttl, protocol, 0)
    head = head[:10] + struct.pack("!H", checksum(head + addresses)) + addresses
    return head + payload


def ipv6(payload: bytes, next_header: int, source: str, dest: str, *, hop_limit: int = 64) -> bytes:
    addresses = ipaddress.IPv6Address(source).packed + ipaddress.IPv6Address(dest).packed
    return struct.pack("!IHBB", 6 << 28, len(payload), next_header, hop_limit) + addresses + payload


def tcp(
    payload: bytes,
    source_port: int,
    dest_port: int,
    flags: int = ACK,
    *,
    seq: int = 0,
    ack: int = 0,
) -> bytes:
    head = struct.pack("!HHIIBBHHH", source_port, dest_port, seq, ack, 5 << 4, flags, 65535, 0, 0)
    return head + payload


def udp(payload: bytes, source_port: int, dest_port: int) -> bytes:
    return struct.pack("!HHHH", source_port, dest_port, 8 + len(payload), 0) + payload


def icmp(kind: int, code: int = 0, body: bytes = b"\0\1\0\1") -> bytes:
    message = struct.pack("!BBH", kind, code, 0) + body
    return message[:2] + struct.pack("!H", checksum(message)) + message[4:]


def arp(source: str, target: str) -> bytes:
    """Returns an ARP request for `target`."""
    head = struct.pack("!HHBBH", 1, IPV4, 6, 4, 1)
    sender = CLIENT_MAC + ipaddress.IPv4Address(source).packed
    return head + sender + bytes(6) + ipaddress.IPv4Address(target).packed


# ---- capture files ------------------------------------------------------------------------


def write_pcap(
    path: Path,
    packets: Iterable[Packet],
    *,
    linktype: int | None = None,
    nanoseconds: bool = True,
    big_endian: bool = False,
) -> Path:
    """linktype: default is that of the first packet, Ethernet without packets."""
    packets = list(packets)
    if linktype is None:
        linktype = packets[0].linktype if packets else ETHERNET
    order = ">" if big_endian else "<"
    magic, unit_ns = (0xA1B23C4D, 1) if nanoseconds else (0xA1B2C3D4, 1000)
    with path.open("wb") as file:
        file.write(struct.pack(order + "IHHiIII", magic, 2, 4, 0, 0, 262144, linktype))
        for packet in packets:
            seconds, rest_ns = divmod(packet.time_ns, SECOND_NS)
            head = (seconds, rest_ns // unit_ns, len(packet.data), packet.wirelen)
            file.write(struct.pack(order + "IIII", *head) + packet.data)
    return path


def read_capture(path: Path) -> list[Packet]:
    """Reads a whole pcap or pcapng file."""
    data = path.read_bytes()
    if data[:4] == b"\x0a\x0d\x0d\x0a":
        return list(_pcapng(data))
    return list(_pcap(data))


def _pcap(data: bytes) -> Iterator[Packet]:
    order = "<" if data[0] in (0xD4, 0x4D) else ">"
    (magic,) = struct.unpack(order + "I", data[:4])
    unit_ns = 1 if magic == 0xA1B23C4D else 1000
    (linktype,) = struct.unpack(order + "I", data[20:24])
    offset = 24
    while offset + 16 <= len(data):
        seconds, fraction, caplen, wirelen = struct.unpack_from(order + "IIII", data, offset)
        offset += 16
        time_ns = seconds * SECOND_NS + fraction * unit_ns
        yield Packet(time_ns, data[offset : offset + caplen], wirelen, linktype)
        offset += caplen


def _pcapng(data: bytes) -> Iterator[Packet]:
    """Reads interface and enhanced packet blocks of a little-endian file, as the shared traces use.
    Rejects big-endian sections."""
    interfaces: list[tuple[int, int]] = []  # link type, nanoseconds per tick
    offset = 0
    while offset + 12 <= len(data):
        kind, length = struct.unpack_from("<II", data, offset)
        body = data[offset + 8 : offset + length - 4]
        if kind == 0x0A0D0D0A and body[:4] != b"\x4d\x3c\x2b\x1a":
            raise ValueError("a big-endian pcapng section")
        if kind == 1:
            interfaces.append((struct.unpack_from("<H", body)[0], _tick_ns(body[8:])))
        elif kind == 6:
            interface, high, low, caplen, wirelen = struct.unpack_from("<IIIII", body)
            linktype, tick_ns = interfaces[interface]
            time_ns = ((high << 32) | low) * tick_ns
            yield Packet(time_ns, body[20 : 20 + caplen], wirelen, linktype)
        offset += length


def _tick_ns(options: bytes) -> int:
    """Returns if_tsresol (option 9) as a power of ten; without it, microseconds."""
    offset = 0
    while offset + 4 <= len(options):
        code, length = struct.unpack_from("<HH", options, offset)
        if code == 9:
            tick_ns: int = 10 ** (9 - options[offset + 4])
            return tick_ns
        if code == 0:
            break
        offset += 4 + (length + 3) // 4 * 4
    return 1000
