"""The demo's capture file `demo.pcap`, and the flows that a meter must find in it.

The file has nanosecond times that count from zero. `tests/demo_packets.py` writes it.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_name("demo.pcap")
FILE_HEADER_BYTES, PACKET_HEADER = 24, struct.Struct("<IIII")
SPEED = 2
SECOND_NS = 1_000_000_000
NAMES = {"shop.netsonde.example", "peer.demo.netsonde.example"}  # in HTTP and in DNS
SERVER, SERVER6 = "198.18.0.2", "fd6e:736f:6e64::2"


# Protocol, destination, destination port and VLAN → title, packets and IP bytes. Both directions
# count. ICMP has no ports: the Community ID pairing of its types takes their place.
FLOWS: dict[tuple[Any, ...], tuple[str, int, int]] = {
    ("TCP", SERVER, 8080): ("TCP download, IPv4", 207, 148_331),
    ("TCP", SERVER6, 8080): ("TCP download, IPv6", 87, 61_271),
    ("TCP", SERVER, 9): ("TCP connection refused", 2, 80),
    ("UDP", SERVER, 7000): ("UDP requests and answers", 40, 6_240),
    ("UDP", SERVER6, 53): ("DNS lookups, IPv6", 6, 600),
    ("ICMP", SERVER, 0): ("Ping, IPv4", 6, 504),
    ("ICMPv6", SERVER6, 129): ("Ping, IPv6", 6, 624),
    ("UDP", SERVER, 7001): ("Fragmented datagrams", 12, 16_272),
    ("UDP", SERVER, 7002, 42): ("UDP inside VLAN 42", 10, 880),
}


def read_frames() -> Iterator[tuple[int, bytes]]:
    """Yields the time in nanoseconds since the start of the file, and the frame."""
    data, offset = FILE.read_bytes(), FILE_HEADER_BYTES
    while offset < len(data):
        seconds, nanoseconds, length, _ = PACKET_HEADER.unpack_from(data, offset)
        offset += PACKET_HEADER.size
        yield seconds * SECOND_NS + nanoseconds, data[offset : offset + length]
        offset += length


def write_recent(path: Path) -> None:
    """Writes a copy of the file whose times start now."""
    start_ns = time.time_ns()
    with path.open("wb") as file:
        file.write(FILE.read_bytes()[:FILE_HEADER_BYTES])
        for time_ns, frame in read_frames():
            when = divmod(start_ns + time_ns, SECOND_NS)
            file.write(PACKET_HEADER.pack(*when, len(frame), len(frame)) + frame)


async def send_frames(wire: socket.socket) -> None:
    """Sends every frame at its time, SPEED times as fast as recorded."""
    loop = asyncio.get_running_loop()
    start_sec = loop.time()
    for time_ns, frame in read_frames():
        await asyncio.sleep(start_sec + time_ns / SECOND_NS / SPEED - loop.time())
        await loop.sock_sendall(wire, frame)
