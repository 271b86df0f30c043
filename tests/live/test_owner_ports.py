"""A UDP port that several sockets have, one after the other or at once.

A flow is its addresses and ports, so a record may have the packets of several sockets. It has the
process of one of them, and must say `shared` if the others are of another process.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

import capturing
import netns
from agents import Fleet
from bus import Bus, Collector
from replay import check_conservation, records_of

PROGRAM = Path(__file__).with_name("one_port.py")
PORT = 41000
METERING = {"enable": True}
WAYS = ("connect", "send", "bind")
TWO = [[[one], [other]] for one, other in itertools.product(WAYS, WAYS)]
SAME = [[[way, way]] for way in WAYS]  # one process
MANY = [[way] for way in WAYS] * 4  # more than the index keeps of one port


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


async def begin(fleet: Fleet, bus: Bus, wire: netns.Wire) -> tuple[Collector, str]:
    wire.address()
    fleet.start()
    collector = await Collector.listen(bus, "alpha")
    started = await capturing.start(
        bus, interface=netns.HOST_DEVICE, filter="udp and net 10.77.0.0/24", metering=METERING
    )
    return collector, started["session_id"]


async def end(bus: Bus, collector: Collector, session: str) -> list[dict[str, Any]]:
    check_conservation(await capturing.at_rest(bus))
    return await records_of(collector, session, await bus.ok("stop"))


def receiver(stack: ExitStack) -> int:
    """Returns the port of a socket that receives on the agent's side."""
    one = stack.enter_context(socket.socket(type=socket.SOCK_DGRAM))
    one.bind((netns.HOST_ADDRESS, 0))
    return int(one.getsockname()[1])


async def test_processes_that_get_a_port_one_after_the_other(
    fleet: Fleet, bus: Bus, wire: netns.Wire, stack: ExitStack
) -> None:
    collector, session = await begin(fleet, bus, wire)
    cases = {receiver(stack): case for case in [*TWO, *SAME, MANY]}
    given = {to: (PORT + number, case) for number, (to, case) in enumerate(cases.items())}
    words = [sys.executable, str(PROGRAM), netns.PEER_ADDRESS, netns.HOST_ADDRESS]
    command = [*wire.peer_prefix, *words, json.dumps(given)]
    sent = await asyncio.to_thread(subprocess.check_output, command, text=True)
    pids = dict(zip(cases, map(json.loads, sent.splitlines()), strict=True))
    found = {row["dest_port"]: row for row in await end(bus, collector, session)}
    assert found.keys() == cases.keys()
    for port, case in cases.items():
        assert found[port]["packets"] == sum(map(len, case))
        owner, peer = found[port]["process"], found[port]["peer_process"]
        assert owner["side"] == "source"
        assert owner["pid"] in (pids[port] if case is MANY else pids[port][:1]), case
        assert owner["shared"] == (len(case) > 1), case
        assert (peer["pid"], peer["shared"]) == (os.getpid(), False)


def connect_in_child(stack: ExitStack, port: int, to: int) -> int:
    """Returns the id of a child that has a socket with this port, connected to a port of the peer,
    until the test ends."""
    ready, ending = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.close(ending[1])
            with socket.socket(type=socket.SOCK_DGRAM) as one:
                one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                one.bind((netns.HOST_ADDRESS, port))
                one.connect((netns.PEER_ADDRESS, to))
                os.write(ready[1], b"x")
                os.read(ending[0], 1)
            code = 0
        finally:
            os._exit(code)
    for descriptor in (*ready, ending[0]):
        stack.callback(os.close, descriptor)
    stack.callback(os.waitpid, child, 0)
    stack.callback(os.close, ending[1])
    assert os.read(ready[0], 1)
    return child


def send_from(wire: netns.Wire, port: int, to: int) -> None:
    script = "import socket; one = socket.socket(type=socket.SOCK_DGRAM); "
    script += f"one.bind(('', {port})); one.sendto(b'x', ('{netns.HOST_ADDRESS}', {to}))"
    subprocess.run([*wire.peer_prefix, sys.executable, "-c", script], check=True)


async def test_server_and_a_worker_with_its_own_socket(
    fleet: Fleet, bus: Bus, wire: netns.Wire, stack: ExitStack
) -> None:
    """The worker receives from one client, and the server from all others. Both have the port."""
    collector, session = await begin(fleet, bus, wire)
    server = stack.enter_context(socket.socket(type=socket.SOCK_DGRAM))
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    server.bind(("", 0))
    port = int(server.getsockname()[1])
    await asyncio.to_thread(send_from, wire, PORT, port)
    assert server.recvfrom(1)[1] == (netns.PEER_ADDRESS, PORT)
    worker = connect_in_child(stack, port, PORT + 1)
    for client in (PORT + 1, PORT + 2):
        await asyncio.to_thread(send_from, wire, client, port)
    assert server.recvfrom(1)[1] == (netns.PEER_ADDRESS, PORT + 2)
    rows = {row["source_port"]: row["peer_process"] for row in await end(bus, collector, session)}
    assert {client: owner["pid"] for client, owner in rows.items()} == {
        PORT: os.getpid(),
        PORT + 1: worker,
        PORT + 2: worker,
    }
    assert [rows[PORT + number]["shared"] for number in range(3)] == [False, True, True]
