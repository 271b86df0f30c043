"""The demo's actors: a peer that serves, and scenes that talk to it.

As a program (`python -m netsonde.cli.demo_traffic`) this is the peer: it moves to a network
namespace of its own, waits for its end of the link, then answers TCP, UDP and DNS until
standard input closes. As a module it holds the scenes, each one a kind of traffic with the
flow that it must leave behind.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
import sys
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from .demo_network import INTERFACE, configure_link, unshare_network
from .demo_packets import (
    CLIENT_IP,
    SERVER_IP,
    SERVER_IP6,
    Side,
    answer_dns,
    checksum,
    ethernet,
    ip_packets,
    make_dns_query,
    udp,
)

WEB_PORT, CLOSED_PORT, DNS_PORT, ECHO_PORT, BIG_PORT, VLAN_PORT = 8080, 9, 53, 7000, 7001, 7002
DOWNLOAD_BYTES = 2_000_000
BIG_DATAGRAM_BYTES = 4_000
PAUSE_SEC = 0.3
SCENE_SEC_MAX = 5.0
VLAN_ID = 42


# ---- the peer ------------------------------------------------------------------------------


class Echo(asyncio.DatagramProtocol):
    """Sends each datagram back, as `answer` makes it."""

    def __init__(self, answer: Callable[[bytes], bytes] = bytes) -> None:
        self.answer = answer

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: Any = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.transport.sendto(self.answer(data), addr)


async def send_download(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """One HTTP-like exchange: reads the request's head, sends a fixed number of bytes."""
    with suppress(ConnectionError, asyncio.IncompleteReadError):
        await reader.readuntil(b"\r\n\r\n")
        head = f"HTTP/1.0 200 OK\r\nContent-Length: {DOWNLOAD_BYTES}\r\n\r\n"
        writer.write(head.encode() + b"netsonde" * (DOWNLOAD_BYTES // 8))
        await writer.drain()
    writer.close()


async def serve() -> None:
    """The peer's servers, until standard input closes."""
    loop = asyncio.get_running_loop()
    for ip in (SERVER_IP, SERVER_IP6):
        await asyncio.start_server(send_download, ip, WEB_PORT)
        for port, answer in ((ECHO_PORT, bytes), (BIG_PORT, bytes), (DNS_PORT, answer_dns)):
            await loop.create_datagram_endpoint(
                # mypy infers no type for a lambda bound by its default.
                lambda answer=answer: Echo(answer),  # type: ignore[misc]
                local_addr=(ip, port),
            )
    print("serving", flush=True)
    await loop.run_in_executor(None, sys.stdin.read)


def main() -> None:
    unshare_network()
    print("unshared", flush=True)
    sys.stdin.readline()
    configure_link(SERVER_IP, SERVER_IP6)
    asyncio.run(serve())


# ---- the scenes ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Scene:
    """One kind of traffic, and how to know its flow among the records: the fields that must
    be equal, and how much must have been counted over all records: at least, or exactly."""

    title: str
    match: dict[str, Any]
    packets: int
    ip_bytes: int
    play: Callable[[], Awaitable[None]] | None = None
    exact: bool = False

    def find(self, records: list[dict[str, Any]]) -> tuple[int, int]:
        """Packets and IP bytes in the records of this flow."""
        mine = [
            record
            for record in records
            if all(record.get(name) == value for name, value in self.match.items())
        ]
        return sum(r["packets"] for r in mine), sum(r["bytes"] for r in mine)

    def is_complete(self, packets: int, ip_bytes: int) -> bool:
        if self.exact:
            return (packets, ip_bytes) == (self.packets, self.ip_bytes)
        return packets >= self.packets and ip_bytes >= self.ip_bytes


async def download(ip: str) -> None:
    reader, writer = await asyncio.open_connection(ip, WEB_PORT)
    writer.write(b"GET /demo HTTP/1.0\r\n\r\n")
    body = await reader.read(-1)
    writer.close()
    await writer.wait_closed()
    if len(body) < DOWNLOAD_BYTES:
        raise ConnectionError(f"the download ended after {len(body)} bytes")


async def knock() -> None:
    """A connection that is refused: SYN, RST."""
    with suppress(ConnectionRefusedError):
        await asyncio.open_connection(SERVER_IP, CLOSED_PORT)


async def exchange(ip: str, port: int, payload: bytes, count: int) -> None:
    """UDP: `count` datagrams, each one answered before the next."""
    loop = asyncio.get_running_loop()
    family = socket.AF_INET6 if ":" in ip else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as client:
        client.setblocking(False)
        client.connect((ip, port))
        for _ in range(count):
            await loop.sock_sendall(client, payload)
            await asyncio.wait_for(loop.sock_recv(client, 65_536), 2)


async def ping(ip: str, count: int = 3) -> None:
    """Echo requests and their replies, through a raw socket: no ping command needed."""
    loop = asyncio.get_running_loop()
    six = ":" in ip
    family, protocol, kind, reply = (
        (socket.AF_INET6, socket.IPPROTO_ICMPV6, 128, 129)
        if six
        else (socket.AF_INET, socket.IPPROTO_ICMP, 8, 0)
    )
    identifier = os.getpid() & 0xFFFF
    with socket.socket(family, socket.SOCK_RAW, protocol) as client:
        client.setblocking(False)
        client.connect((ip, 0))
        for sequence in range(1, count + 1):
            packet = struct.pack("!BBHHH", kind, 0, 0, identifier, sequence) + b"netsonde" * 7
            if not six:  # for ICMPv6 the kernel fills in the checksum
                packet = packet[:2] + struct.pack("!H", checksum(packet)) + packet[4:]
            await loop.sock_sendall(client, packet)
            async with asyncio.timeout(2):
                while True:
                    answer = await loop.sock_recv(client, 65_536)
                    if answer[0 if six else 20] == reply:
                        break


async def send_tagged(count: int) -> None:
    """Frames with a VLAN tag, put on the wire as they are: needs no VLAN in the kernel."""
    side = Side(CLIENT_IP, VLAN_PORT, SERVER_IP, VLAN_PORT)
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as wire:
        wire.bind((INTERFACE, 0))
        for number in range(count):
            for packet in ip_packets(side, 17, udp(side, b"tagged" * 10), number):
                wire.send(ethernet(side, packet, VLAN_ID, forward=True))


def live_scenes() -> list[Scene]:
    """Everything that is played over the link. Source is always this end."""
    return [
        Scene(
            "TCP download, IPv4",
            {"protocol": "TCP", "dest_ip": SERVER_IP, "dest_port": WEB_PORT},
            DOWNLOAD_BYTES // 1500,
            DOWNLOAD_BYTES,
            lambda: download(SERVER_IP),
        ),
        Scene(
            "TCP download, IPv6",
            {"protocol": "TCP", "dest_ip": SERVER_IP6, "dest_port": WEB_PORT},
            DOWNLOAD_BYTES // 1500,
            DOWNLOAD_BYTES,
            lambda: download(SERVER_IP6),
        ),
        Scene(
            "TCP connection refused",
            {"protocol": "TCP", "dest_port": CLOSED_PORT},
            2,
            80,
            knock,
        ),
        Scene(
            "UDP requests and answers",
            {"protocol": "UDP", "dest_ip": SERVER_IP, "dest_port": ECHO_PORT},
            40,
            40 * 28,
            lambda: exchange(SERVER_IP, ECHO_PORT, b"netsonde" * 16, 20),
        ),
        Scene(
            "DNS lookups, IPv6",
            {"protocol": "UDP", "dest_ip": SERVER_IP6, "dest_port": DNS_PORT},
            6,
            6 * 48,
            lambda: exchange(SERVER_IP6, DNS_PORT, make_dns_query(), 3),
        ),
        Scene("Ping, IPv4", {"protocol": "ICMP"}, 6, 6 * 84, lambda: ping(SERVER_IP)),
        Scene(
            "Ping, IPv6",
            {"protocol": "ICMPv6", "dest_ip": SERVER_IP6, "icmp_type": 128},
            6,
            6 * 104,
            lambda: ping(SERVER_IP6),
        ),
        Scene(
            "Fragmented datagrams",
            {"protocol": "UDP", "dest_ip": SERVER_IP, "dest_port": BIG_PORT},
            12,
            4 * BIG_DATAGRAM_BYTES,
            lambda: exchange(SERVER_IP, BIG_PORT, bytes(BIG_DATAGRAM_BYTES), 2),
        ),
        Scene(
            f"UDP inside VLAN {VLAN_ID}",
            {"protocol": "UDP", "vlan": [VLAN_ID], "dest_port": VLAN_PORT},
            5,
            5 * (28 + 60),
            lambda: send_tagged(5),
        ),
    ]


async def play(scenes: Sequence[Scene]) -> None:
    """One scene after the other, slowly enough to watch."""
    for scene in scenes:
        if scene.play is not None:
            await asyncio.wait_for(scene.play(), SCENE_SEC_MAX)
        await asyncio.sleep(PAUSE_SEC)


if __name__ == "__main__":
    main()
