"""Packets made by hand, for the demo: from a payload out to an Ethernet frame, with right
checksums, so that tcpdump and Wireshark read them as any others.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass

CLIENT_IP, SERVER_IP = "198.18.0.1", "198.18.0.2"
CLIENT_IP6, SERVER_IP6 = "fd6e:736f:6e64::1", "fd6e:736f:6e64::2"
SERVER_NAME = "peer.demo.netsonde.example"
MTU = 1500
FIN, SYN, RST, PUSH, ACK = 1, 2, 4, 8, 16


@dataclass(frozen=True, slots=True)
class Side:
    """One end of a conversation; `peer` is the other, as seen from here."""

    ip: str
    port: int
    peer_ip: str
    peer_port: int

    def turned(self) -> Side:
        return Side(self.peer_ip, self.peer_port, self.ip, self.port)

    @property
    def six(self) -> bool:
        return ":" in self.ip

    def addresses(self) -> tuple[bytes, bytes]:
        family = socket.AF_INET6 if self.six else socket.AF_INET
        return socket.inet_pton(family, self.ip), socket.inet_pton(family, self.peer_ip)


def checksum(data: bytes) -> int:
    """RFC 1071."""
    data += b"\0" * (len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def sealed(side: Side, protocol: int, segment: bytes, checksum_at: int) -> bytes:
    """The segment with its checksum over the pseudo header (RFC 9293 §3.1, RFC 8200 §8.1)."""
    source, dest = side.addresses()
    pseudo = source + dest + struct.pack("!II", len(segment), protocol)
    value = checksum(pseudo + segment) or 0xFFFF
    return segment[:checksum_at] + struct.pack("!H", value) + segment[checksum_at + 2 :]


def udp(side: Side, payload: bytes) -> bytes:
    header = struct.pack("!HHHH", side.port, side.peer_port, 8 + len(payload), 0)
    return sealed(side, 17, header + payload, 6)


def tcp(side: Side, seq: int, ack: int, flags: int, payload: bytes = b"") -> bytes:
    header = struct.pack(
        "!HHIIBBHHH", side.port, side.peer_port, seq, ack, 5 << 4, flags, 65_535, 0, 0
    )
    return sealed(side, 6, header + payload, 16)


def echo(side: Side, sequence: int, *, reply: bool) -> bytes:
    payload = b"netsonde" * 7
    if side.six:
        head = struct.pack("!BBHHH", 129 if reply else 128, 0, 0, 1, sequence)
        return sealed(side, 58, head + payload, 2)
    head = struct.pack("!BBHHH", 0 if reply else 8, 0, 0, 1, sequence)
    return head[:2] + struct.pack("!H", checksum(head + payload)) + head[4:] + payload


def ip_packets(side: Side, protocol: int, segment: bytes, number: int) -> Iterator[bytes]:
    """The segment as one IP packet, or as fragments where it is too long (IPv4 only)."""
    source, dest = side.addresses()
    if side.six:
        yield struct.pack("!IHBB", 6 << 28, len(segment), protocol, 64) + source + dest + segment
        return
    step = (MTU - 20) // 8 * 8
    for offset in range(0, len(segment), step):
        part = segment[offset : offset + step]
        more = 0x2000 if offset + step < len(segment) else 0
        head = struct.pack(
            "!BBHHHBBH", 0x45, 0, 20 + len(part), number, more | offset // 8, 64, protocol, 0
        )
        value = checksum(head + source + dest)
        yield head[:10] + struct.pack("!H", value) + source + dest + part


def ethernet(side: Side, packet: bytes, vlan: int | None, *, forward: bool) -> bytes:
    macs = [bytes((2, 0, 0, 0, 0, 2)), bytes((2, 0, 0, 0, 0, 1))]
    kind = struct.pack("!H", 0x86DD if side.six else 0x0800)
    tag = struct.pack("!HH", 0x8100, vlan) if vlan is not None else b""
    return b"".join(macs if forward else macs[::-1]) + tag + kind + packet


# ---- payloads ------------------------------------------------------------------------------


def make_dns_query() -> bytes:
    labels = b"".join(bytes([len(label)]) + label.encode() for label in SERVER_NAME.split("."))
    question = labels + struct.pack("!BHH", 0, 1, 1)
    return os.urandom(2) + struct.pack("!HHHHH", 0x0100, 1, 0, 0, 0) + question


def answer_dns(query: bytes) -> bytes:
    """The query with one A record appended (RFC 1035 §4.1)."""
    answer = struct.pack("!HHHIH4s", 0xC00C, 1, 1, 60, 4, socket.inet_aton(SERVER_IP))
    return query[:2] + struct.pack("!HHHHH", 0x8580, 1, 1, 0, 0) + query[12:] + answer
