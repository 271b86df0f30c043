"""A program of the demo. It connects to the far end, so that the agent sees whose flow it is.

    demo_program.py NAME web ADDRESS PORT HOST
    demo_program.py NAME dns ADDRESS PORT HOST

It runs as a file, without the package, so that it starts at once. NAME becomes the name of the
process. HOST is what it asks for.
"""

from __future__ import annotations

import socket
import struct
import sys
from pathlib import Path

TIMEOUT_SEC = 5.0
ANSWER_BYTES_MAX = 65536


def fetch(address: str, port: int, host: str) -> None:
    with socket.create_connection((address, port), timeout=TIMEOUT_SEC) as connection:
        connection.sendall(f"GET /demo HTTP/1.0\r\nHost: {host}\r\n\r\n".encode())
        while connection.recv(ANSWER_BYTES_MAX):
            pass


def look_up(address: str, port: int, host: str) -> None:
    labels = b"".join(bytes([len(part)]) + part.encode() for part in host.split("."))
    question = struct.pack("!6H", 1, 0x0100, 1, 0, 0, 0) + labels + struct.pack("!BHH", 0, 1, 1)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(TIMEOUT_SEC)
        client.connect((address, port))
        client.send(question)
        client.recv(ANSWER_BYTES_MAX)


def main() -> None:
    name, kind, address, port, host = sys.argv[1:]
    Path("/proc/self/comm").write_text(name)
    (fetch if kind == "web" else look_up)(address, int(port), host)


main()
