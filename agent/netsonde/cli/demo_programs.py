"""Two programs of the demo that talk through the link, and the servers that answer them.

The servers' sockets are in the far network namespace, the programs in that of the agent. The agent
finds the process of each program's flow (docs/owners.md).
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..bus.embedded import die_with_parent
from ..errors import NetsondeError

NEAR_ADDRESS, FAR_ADDRESS, PREFIX_BITS = "198.19.0.1", "198.19.0.2", 30  # RFC 2544
WEB_PORT, DNS_PORT = 80, 53
PAGE = b"HTTP/1.0 200 OK\r\nContent-Length: 9\r\n\r\nnetsonde\n"
# The name of the process → what it does, its port, and the name that it asks for.
PROGRAMS = {
    "demo-browser": ("web", WEB_PORT, "docs.netsonde.example"),
    "demo-resolver": ("dns", DNS_PORT, "mail.netsonde.example"),
}
PROGRAM = Path(__file__).with_name("demo_program.py")


@dataclass(frozen=True, slots=True)
class FarEnd:
    """Sockets in the far namespace. wire: raw frames."""

    wire: socket.socket
    web: socket.socket
    dns: socket.socket


def open_far_end(interface: str) -> FarEnd:
    """Call it in the far namespace, whose interface has FAR_ADDRESS."""
    wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)  # keeps the namespace alive
    wire.bind((interface, 0))
    web = socket.create_server((FAR_ADDRESS, WEB_PORT))
    dns = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    dns.bind((FAR_ADDRESS, DNS_PORT))
    for one in (wire, web, dns):
        one.setblocking(False)
    return FarEnd(wire, web, dns)


async def run_programs(far: FarEnd) -> None:
    """Runs each program once, and returns when all have got their answer."""
    async with asyncio.TaskGroup() as tasks:
        servers = [tasks.create_task(serve(far)) for serve in (serve_web, serve_dns)]
        for name, (kind, port, host) in PROGRAMS.items():
            program = await asyncio.create_subprocess_exec(
                *(sys.executable, "-I", str(PROGRAM), name, kind, FAR_ADDRESS, str(port), host),
                stdin=asyncio.subprocess.DEVNULL,
                preexec_fn=die_with_parent,
            )
            if await program.wait() != 0:
                raise NetsondeError(f"The program {name} failed.")
        for server in servers:
            server.cancel()


async def serve_web(far: FarEnd) -> None:
    loop = asyncio.get_running_loop()
    while True:
        connection, _ = await loop.sock_accept(far.web)
        with contextlib.closing(connection):
            await loop.sock_recv(connection, 4096)
            await loop.sock_sendall(connection, PAGE)


async def serve_dns(far: FarEnd) -> None:
    loop = asyncio.get_running_loop()
    while True:
        question, client = await loop.sock_recvfrom(far.dns, 4096)
        answer = question[:2] + b"\x81\x80" + question[4:6] + b"\0\1\0\0\0\0" + question[12:]
        record = b"\xc0\x0c\0\1\0\1\0\0\0\x3c\0\4" + socket.inet_aton(FAR_ADDRESS)
        await loop.sock_sendto(far.dns, answer + record, client)


def check_programs(records: Sequence[dict[str, Any]], owners: dict[str, Any]) -> list[str]:
    """Prints the process and the name of each program's flow. Returns what is missing, in words."""
    from .output import put_lines

    if not owners["found"]:
        put_lines(f"The agent found no processes: {owners['detail']}")
        return []
    found = {}
    for record in records:
        process = record["process"] or {}
        if process.get("name") in PROGRAMS and record["name"]:
            found[process["name"]] = (
                f"{process['name']} [{process['pid']}] asked for {record['name']}"
            )
    put_lines(f"Processes in the records: {'; '.join(found[name] for name in sorted(found))}.")
    return [
        f"no record has the process {name} with {host}"
        for name, (_, _, host) in PROGRAMS.items()
        if not found.get(name, "").endswith(host)
    ]
