"""UDP sockets without bind and connect: the kernel chooses the port in the first send."""

from __future__ import annotations

import asyncio
import ctypes
import os
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import capturing
import netns
from agents import Fleet
from bus import Bus, Collector
from deadlines import eventually
from replay import check_conservation, records_of

LOOPBACK = "127.0.0.9"  # NATS has 127.0.0.1
FILTER = f"udp and host {LOOPBACK}"
SOCKETS = 500  # about ten of them meet in the kernel
LIST_SEC = 0.7  # longer than the time between two lists of the kernel's sockets
RAW_PORT = socket.IPPROTO_UDP  # the kernel keeps a raw socket's protocol where others have a port


METERING = {"enable": True}
IDLE = """
import os, socket, sys
with socket.socket(type=socket.SOCK_DGRAM) as one:
    one.connect((sys.argv[1], int(sys.argv[2])))
    print(os.getpid(), one.getsockname()[1], sep="\\n", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def receiver() -> Iterator[socket.socket]:
    with socket.socket(type=socket.SOCK_DGRAM) as one:
        one.bind((LOOPBACK, 0))
        yield one


@contextmanager
def first_sends(directory: Path, to: socket.socket) -> Iterator[list[int]]:
    """Two processes send at once on each socket, and keep it. Gives the ports."""
    program, source = directory / "first_sends", Path(__file__).with_name("first_sends.c")
    subprocess.run(["cc", "-O1", "-Wall", "-Wextra", "-o", program, source], check=True)
    words = [str(program), str(SOCKETS), LOOPBACK, str(to.getsockname()[1])]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as made:
        assert made.stdout is not None
        yield [int(made.stdout.readline()) for _ in range(SOCKETS)]
        made.communicate()
    assert made.returncode == 0


def senders_of(rows: list[dict[str, Any]]) -> dict[int, dict[str, Any]]:
    """The owner of each flow's source, by port."""
    found: dict[int, dict[str, Any]] = {}
    for row in rows:
        owners = [one for one in (row["process"], row["peer_process"]) if one]
        found[row["source_port"]] = next((x for x in owners if x["side"] == "source"), {})
    return found


async def begin(fleet: Fleet, bus: Bus) -> tuple[Collector, str]:
    fleet.start()
    collector = await Collector.listen(bus, "alpha")
    started = await capturing.start(bus, interface="lo", filter=FILTER, metering={"enable": True})
    return collector, started["session_id"]


async def end(bus: Bus, collector: Collector, session: str) -> list[dict[str, Any]]:
    """Returns all records."""
    check_conservation(await capturing.at_rest(bus))
    return await records_of(collector, session, await bus.ok("stop"))


async def listed(bus: Bus) -> dict[int, dict[str, Any]]:
    return senders_of((await bus.ok("flows", {"limit": 10_000}))["flows"])


async def test_two_processes_send_first_at_once(
    fleet: Fleet, bus: Bus, receiver: socket.socket, tmp_path: Path
) -> None:
    collector, session = await begin(fleet, bus)
    with first_sends(tmp_path, receiver) as ports:

        async def all_shared() -> bool:
            found = await listed(bus)
            return all(found.get(port, {}).get("shared") for port in ports)

        await eventually(all_shared, "both processes to be noticed")
    found = senders_of(await end(bus, collector, session))
    assert {found[port]["how"] for port in ports} == {"connect"}
    assert all(found[port]["shared"] for port in ports)


async def test_socket_that_was_connected_before(
    fleet: Fleet, bus: Bus, receiver: socket.socket
) -> None:
    """The end of the connection takes the port away."""
    collector, session = await begin(fleet, bus)
    with socket.socket(type=socket.SOCK_DGRAM) as one:
        one.connect(receiver.getsockname())
        unspecified = struct.pack("H14x", socket.AF_UNSPEC)
        assert ctypes.CDLL(None).connect(one.fileno(), unspecified, len(unspecified)) == 0
        assert one.getsockname()[1] == 0
        await asyncio.sleep(LIST_SEC)
        one.sendto(b"x", receiver.getsockname())
        port = one.getsockname()[1]

        async def known() -> bool:
            return (await listed(bus)).get(port, {}).get("pid") == os.getpid()

        await eventually(known, "the owner")
    await end(bus, collector, session)


@contextmanager
def idle_socket(wire: netns.Wire, port: int) -> Iterator[tuple[int, int]]:
    """Gives the process id and the port of a socket that the peer has connected to a port here."""
    words = [*wire.peer_prefix, sys.executable, "-c", IDLE, netns.HOST_ADDRESS, str(port)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as made:
        assert made.stdout is not None
        yield int(made.stdout.readline()), int(made.stdout.readline())
        made.communicate()
    assert made.returncode == 0


async def test_connected_socket_that_nobody_uses(fleet: Fleet, bus: Bus, wire: netns.Wire) -> None:
    """Datagrams wait in it. The kernel chose its port after the program at connect had run."""
    wire.address()
    fleet.start()
    await capturing.start(bus, interface=netns.HOST_DEVICE, filter="udp", metering=METERING)
    with socket.socket(type=socket.SOCK_DGRAM) as one:
        one.bind((netns.HOST_ADDRESS, 0))
        with idle_socket(wire, one.getsockname()[1]) as (pid, to):
            one.sendto(b"x", (netns.PEER_ADDRESS, to))

            async def known() -> bool:
                rows = (await bus.ok("flows"))["flows"]
                owners = [row["peer_process"] for row in rows if row["dest_port"] == to]
                return [owner and owner["pid"] for owner in owners] == [pid]

            await eventually(known, "the owner")
    check_conservation(await capturing.at_rest(bus))


async def test_raw_socket_has_no_port(fleet: Fleet, bus: Bus, receiver: socket.socket) -> None:
    collector, session = await begin(fleet, bus)
    to = receiver.getsockname()
    with (
        socket.socket(type=socket.SOCK_RAW, proto=socket.IPPROTO_UDP) as raw,
        socket.socket(type=socket.SOCK_DGRAM) as plain,
    ):
        raw.bind((LOOPBACK, 0))
        for _ in range(2):
            raw.sendto(struct.pack("!4H", RAW_PORT, to[1], 8, 0), (LOOPBACK, 0))
        plain.sendto(b"x", to)
        port = plain.getsockname()[1]

        async def known() -> bool:
            found = await listed(bus)
            return bool(found.get(port)) and RAW_PORT in found

        await eventually(known, "the owner of the other socket")
    found = senders_of(await end(bus, collector, session))
    assert found[port]["pid"] == os.getpid()
    assert found[RAW_PORT].get("how") in (None, "unknown")
