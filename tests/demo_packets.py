"""Writes the capture file that `netsonde demo` plays:

    python tests/demo_packets.py agent/netsonde/cli/demo.pcap

The file contains nine conversations and one ARP request. All checksums are correct. Times count
from zero, so every run writes the same bytes. `netsonde/cli/demo_capture.py` lists the flows that
a meter must find in the file: update that list after a change here.
"""

from __future__ import annotations

import ipaddress
import struct
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import packets
from packets import ACK, ARP, FIN, ICMP, ICMPV6, IPV4, IPV6, PSH, RST, SYN, TCP, UDP, Packet

CLIENT, SERVER = "198.18.0.1", "198.18.0.2"  # RFC 2544, for benchmarks
CLIENT6, SERVER6 = "fd6e:736f:6e64::1", "fd6e:736f:6e64::2"
REQUEST = b"GET /demo HTTP/1.0\r\nHost: shop.netsonde.example\r\n\r\n"
QUESTION = b"\4peer\4demo\10netsonde\7example\0" + struct.pack("!HH", 1, 1)
TEXT = b"netsonde"
FRAGMENT_BYTES = 1480  # part of a datagram in a packet of 1,500 bytes
CHECKSUM_AT = {TCP: 16, UDP: 6, ICMPV6: 2}


@dataclass(frozen=True)
class Conversation:
    """Two hosts that talk one protocol. `port` is the client's port."""

    protocol: int
    port: int = 0
    server_port: int = 0
    six: bool = False
    vlan: int | None = None

    def frames(self, segment: bytes, *, back: bool = False, ident: int = 0) -> Iterator[bytes]:
        """A transport segment from the client, or `back` from the server, as Ethernet frames.
        An IPv4 segment that is too long becomes fragments."""
        ends = (CLIENT6, SERVER6) if self.six else (CLIENT, SERVER)
        macs = (packets.CLIENT_MAC, packets.SERVER_MAC)
        source, dest = ends[::-1] if back else ends
        segment = with_checksum(segment, self.protocol, source, dest)
        for offset in range(0, len(segment), FRAGMENT_BYTES):
            part = segment[offset : offset + FRAGMENT_BYTES]
            if self.six:
                packet = packets.ipv6(part, self.protocol, source, dest)
            else:
                more = offset + FRAGMENT_BYTES < len(segment)
                packet = packets.ipv4(
                    part,
                    self.protocol,
                    source,
                    dest,
                    ident=ident,
                    fragment_offset=offset,
                    more_fragments=more,
                )
            yield packets.ethernet(
                packet,
                IPV6 if self.six else IPV4,
                source=macs[back],
                dest=macs[not back],
                vlans=() if self.vlan is None else (self.vlan,),
            )

    def ports(self, back: bool) -> tuple[int, int]:
        return (self.server_port, self.port) if back else (self.port, self.server_port)

    def tcp(
        self, seq: int, ack: int, flags: int, payload: bytes = b"", *, back: bool = False
    ) -> Iterator[bytes]:
        return self.frames(
            packets.tcp(payload, *self.ports(back), flags, seq=seq, ack=ack), back=back
        )

    def udp(self, payload: bytes, *, back: bool = False, ident: int = 0) -> Iterator[bytes]:
        return self.frames(packets.udp(payload, *self.ports(back)), back=back, ident=ident)

    def echo(self, sequence: int, *, back: bool = False) -> Iterator[bytes]:
        kind = (128 if self.six else 8) if not back else 129 if self.six else 0
        body = struct.pack("!HH", 1, sequence) + TEXT * 7
        return self.frames(packets.icmp(kind, 0, body), back=back)


def with_checksum(segment: bytes, protocol: int, source: str, dest: str) -> bytes:
    """The segment with its checksum over the pseudo header (RFC 9293 §3.1, RFC 8200 §8.1).
    ICMP has its checksum already."""
    if protocol == ICMP:
        return segment
    at = CHECKSUM_AT[protocol]
    segment = segment[:at] + bytes(2) + segment[at + 2 :]
    ends = ipaddress.ip_address(source).packed + ipaddress.ip_address(dest).packed
    pseudo = ends + struct.pack("!II", len(segment), protocol)
    value = packets.checksum(pseudo + segment) or 0xFFFF
    return segment[:at] + struct.pack("!H", value) + segment[at + 2 :]


def make_download(talk: Conversation, segments: int) -> Iterator[Iterator[bytes]]:
    """Handshake, request, full segments with an ACK each, FIN both ways."""
    yield talk.tcp(1000, 0, SYN)
    yield talk.tcp(5000, 1001, SYN | ACK, back=True)
    yield talk.tcp(1001, 5001, ACK)
    yield talk.tcp(1001, 5001, PSH | ACK, REQUEST)
    asked, sent = 1001 + len(REQUEST), 5001
    for _ in range(segments):
        yield talk.tcp(sent, asked, ACK, TEXT * 175, back=True)
        sent += len(TEXT) * 175
        yield talk.tcp(asked, sent, ACK)
    yield talk.tcp(sent, asked, FIN | ACK, back=True)
    yield talk.tcp(asked, sent + 1, FIN | ACK)
    yield talk.tcp(sent + 1, asked + 1, ACK, back=True)


def make_refusal(talk: Conversation) -> Iterator[Iterator[bytes]]:
    yield talk.tcp(1, 0, SYN)
    yield talk.tcp(0, 2, RST | ACK, back=True)


def make_lookups(talk: Conversation, count: int) -> Iterator[Iterator[bytes]]:
    """DNS queries, each with an answer of one A record (RFC 1035 §4.1)."""
    answer = struct.pack("!HHHIH", 0xC00C, 1, 1, 60, 4) + ipaddress.IPv4Address(SERVER).packed
    for ident in range(1, count + 1):
        yield talk.udp(struct.pack("!6H", ident, 0x0100, 1, 0, 0, 0) + QUESTION)
        head = struct.pack("!6H", ident, 0x8580, 1, 1, 0, 0)
        yield talk.udp(head + QUESTION + answer, back=True)


def make_exchange(talk: Conversation, payload: bytes, count: int) -> Iterator[Iterator[bytes]]:
    for ident in range(1, count + 1):
        yield talk.udp(payload, ident=ident)
        yield talk.udp(payload, back=True, ident=ident)


def make_pings(talk: Conversation, count: int) -> Iterator[Iterator[bytes]]:
    for sequence in range(1, count + 1):
        yield talk.echo(sequence)
        yield talk.echo(sequence, back=True)


def make_capture() -> list[Packet]:
    """All packets by time. The last conversations are still active flows when the file ends."""
    web = Conversation(TCP, 40_001, 8080)
    web6 = Conversation(TCP, 40_002, 8080, six=True)
    plan = [  # start and step in seconds
        (0.0, 0.005, make_download(web, 100)),
        (0.5, 0.005, make_download(web6, 40)),
        (0.7, 0.01, make_refusal(Conversation(TCP, 40_003, 9))),
        (0.2, 0.14, make_exchange(Conversation(UDP, 40_004, 7000), TEXT * 16, 20)),
        (1.0, 0.01, make_lookups(Conversation(UDP, 40_005, 53, six=True), 3)),
        (1.2, 0.30, make_pings(Conversation(ICMP), 3)),
        (1.4, 0.30, make_pings(Conversation(ICMPV6, six=True), 3)),
        (5.0, 0.10, make_exchange(Conversation(UDP, 40_006, 7001), bytes(4000), 2)),
        (5.0, 0.10, make_exchange(Conversation(UDP, 40_007, 7002, vlan=42), b"tagged" * 10, 5)),
        (6.0, 0.01, iter([iter([packets.ethernet(packets.arp(CLIENT, SERVER), ARP)])])),
    ]
    capture = [
        packets.at(round((start_sec + number * step_sec) * packets.SECOND_NS), frame)
        for start_sec, step_sec, turns in plan
        for number, frames in enumerate(turns)
        for frame in frames
    ]
    return sorted(capture, key=lambda packet: packet.time_ns)


if __name__ == "__main__":
    packets.write_pcap(Path(sys.argv[1]), make_capture())
