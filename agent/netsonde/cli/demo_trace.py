"""The demo without privileges: a capture file of made-up conversations.

Written packet by packet, so that what must come out is known exactly: each scene says which
flow it is and how many packets and IP bytes it has."""

from __future__ import annotations

import socket
import struct
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .demo_packets import (
    ACK,
    CLIENT_IP,
    CLIENT_IP6,
    FIN,
    PUSH,
    RST,
    SERVER_IP,
    SERVER_IP6,
    SYN,
    Side,
    answer_dns,
    echo,
    ethernet,
    ip_packets,
    make_dns_query,
    tcp,
    udp,
)
from .demo_traffic import (
    BIG_PORT,
    CLOSED_PORT,
    DNS_PORT,
    ECHO_PORT,
    VLAN_ID,
    VLAN_PORT,
    WEB_PORT,
    Scene,
)

DURATION_SEC = 6.0


# ---- conversations ---------------------------------------------------------------------------


@dataclass(slots=True)
class Trace:
    """Frames with their times, and the scenes that they make up."""

    frames: list[tuple[float, bytes]] = field(default_factory=list)
    scenes: list[Scene] = field(default_factory=list)

    def converse(
        self,
        title: str,
        start_sec: float,
        side: Side,
        protocol: tuple[str, int],
        turns: list[tuple[bool, bytes]],
        *,
        vlan: int | None = None,
        step_sec: float = 0.01,
    ) -> None:
        """Adds a conversation: `turns` are (forward?, segment), in order."""
        packets = ip_bytes = 0
        for number, (forward, segment) in enumerate(turns):
            speaker = side if forward else side.turned()
            for packet in ip_packets(speaker, protocol[1], segment, number + 1):
                frame = ethernet(speaker, packet, vlan, forward=forward)
                self.frames.append((start_sec + number * step_sec, frame))
                packets += 1
                ip_bytes += len(packet)
        match: dict[str, Any] = {
            "protocol": protocol[0],
            "source_ip": side.ip,
            "dest_ip": side.peer_ip,
            "vlan": [] if vlan is None else [vlan],
        }
        if side.port:
            match |= {"source_port": side.port, "dest_port": side.peer_port}
        self.scenes.append(Scene(title, match, packets, ip_bytes, exact=True))

    def write(self, path: Path) -> None:
        """As a pcap file with nanoseconds, ending now."""
        base_ns = time.time_ns() - int(DURATION_SEC * 1e9)
        with path.open("wb") as file:
            file.write(struct.pack("<IHHiIII", 0xA1B23C4D, 2, 4, 0, 0, 262_144, 1))
            for at_sec, frame in sorted(self.frames, key=lambda item: item[0]):
                seconds, nanoseconds = divmod(base_ns + int(at_sec * 1e9), 1_000_000_000)
                head = struct.pack("<IIII", seconds, nanoseconds, len(frame), len(frame))
                file.write(head + frame)


def download_turns(side: Side, segments: int) -> list[tuple[bool, bytes]]:
    """Handshake, a request, so many full segments, FIN both ways."""
    other, request, part = side.turned(), b"GET /demo HTTP/1.0\r\n\r\n", b"netsonde" * 175
    turns = [
        (True, tcp(side, 1000, 0, SYN)),
        (False, tcp(other, 5000, 1001, SYN | ACK)),
        (True, tcp(side, 1001, 5001, ACK)),
        (True, tcp(side, 1001, 5001, PUSH | ACK, request)),
    ]
    asked, sent = 1001 + len(request), 5001
    for _ in range(segments):
        turns.append((False, tcp(other, sent, asked, ACK, part)))
        sent += len(part)
        turns.append((True, tcp(side, asked, sent, ACK)))
    turns.append((False, tcp(other, sent, asked, FIN | ACK)))
    turns.append((True, tcp(side, asked, sent + 1, FIN | ACK)))
    turns.append((False, tcp(other, sent + 1, asked + 1, ACK)))
    return turns


def make_trace() -> Trace:
    trace = Trace()
    web = Side(CLIENT_IP, 40_001, SERVER_IP, WEB_PORT)
    web6 = Side(CLIENT_IP6, 40_002, SERVER_IP6, WEB_PORT)
    closed = Side(CLIENT_IP, 40_003, SERVER_IP, CLOSED_PORT)
    udp_side = Side(CLIENT_IP, 40_004, SERVER_IP, ECHO_PORT)
    dns = Side(CLIENT_IP6, 40_005, SERVER_IP6, DNS_PORT)
    big = Side(CLIENT_IP, 40_006, SERVER_IP, BIG_PORT)
    tagged = Side(CLIENT_IP, 40_007, SERVER_IP, VLAN_PORT)
    ping, ping6 = Side(CLIENT_IP, 0, SERVER_IP, 0), Side(CLIENT_IP6, 0, SERVER_IP6, 0)

    def both_ways(side: Side, payload: bytes, count: int) -> list[tuple[bool, bytes]]:
        return [(True, udp(side, payload)), (False, udp(side.turned(), payload))] * count

    query = make_dns_query()
    lookup = [(True, udp(dns, query)), (False, udp(dns.turned(), answer_dns(query)))]
    refused = [(True, tcp(closed, 1, 0, SYN)), (False, tcp(closed.turned(), 0, 2, RST | ACK))]
    pings, pings6 = (
        [
            (forward, echo(side if forward else side.turned(), n, reply=not forward))
            for n in range(1, 4)
            for forward in (True, False)
        ]
        for side in (ping, ping6)
    )
    trace.converse("TCP download, IPv4", 0.0, web, ("TCP", 6), download_turns(web, 200))
    trace.converse("TCP download, IPv6", 0.5, web6, ("TCP", 6), download_turns(web6, 50))
    trace.converse("TCP connection refused", 0.7, closed, ("TCP", 6), refused)
    trace.converse(
        "UDP requests and answers",
        0.8,
        udp_side,
        ("UDP", 17),
        both_ways(udp_side, b"netsonde" * 16, 20),
        step_sec=0.1,
    )
    trace.converse("DNS lookups, IPv6", 1.0, dns, ("UDP", 17), lookup * 3)
    trace.converse("Ping, IPv4", 1.2, ping, ("ICMP", 1), pings, step_sec=0.5)
    trace.converse("Ping, IPv6", 1.4, ping6, ("ICMPv6", 58), pings6, step_sec=0.5)
    trace.converse("Fragmented datagrams", 1.6, big, ("UDP", 17), both_ways(big, bytes(4000), 2))
    trace.converse(
        f"UDP inside VLAN {VLAN_ID}",
        1.8,
        tagged,
        ("UDP", 17),
        both_ways(tagged, b"tagged" * 10, 5),
        vlan=VLAN_ID,
    )
    trace.frames.append((DURATION_SEC, make_arp_request()))
    return trace


def make_arp_request() -> bytes:
    """One frame that is no flow: packets without an IP header are counted apart."""
    mac, own, asked = (
        bytes((2, 0, 0, 0, 0, 1)),
        socket.inet_aton(CLIENT_IP),
        socket.inet_aton(SERVER_IP),
    )
    body = struct.pack("!HHBBH", 1, 0x0800, 6, 4, 1) + mac + own + bytes(6) + asked
    return b"\xff" * 6 + mac + struct.pack("!H", 0x0806) + body
