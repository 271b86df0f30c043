"""A tap of one process: only its packets, also those of sockets that live for one packet."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import bpf_objects
import pytest

from agents import Fleet
from bus import Bus
from deadlines import eventually
from replay import check_conservation
from servers import NatsServer
from tapping import Follow, open_tap, refused

ADDRESS, PORT = "127.0.0.9", 5001
PACKETS = 50
TURNS = 3  # the index keeps eight sockets of one port
BASH = f"for i in $(seq {PACKETS}); do echo bash $i > /dev/udp/{ADDRESS}/{PORT}; done"
PYTHON = f"""
import socket
input()
for number in range(1, {PACKETS} + 1):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sending:
        sending.connect(("{ADDRESS}", {PORT}))
        sending.send(b"python %d" % number)
"""
# The kernel chooses each port in the only send.
UNBOUND = f"""
import os, socket
input()
child = os.fork()
for number in range(1, {PACKETS} + 1):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sending:
        text = b"parent %d" if child else b"child %d"
        sending.sendto(text % number, ("{ADDRESS}", {PORT}))
if child:
    os.waitpid(child, 0)
"""
# Two processes send from one port, one directly after the other. A socket stays open at the end.
ONE_PORT = f"""
import os, socket
input()
def send(text):
    sending = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sending.bind(("{ADDRESS}", 5002))
    sending.connect(("{ADDRESS}", {PORT}))
    sending.send(text)
    return sending
there, here = os.pipe(), os.pipe()
child = os.fork()
for number in range(1, {TURNS} + 1):
    if child:
        send(b"parent %d" % number).close()
        os.write(there[1], b".")
        os.read(here[0], 1)
    else:
        os.read(there[0], 1)
        send(b"child %d" % number).close()
        os.write(here[1], b".")
if child:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sending:
        sending.connect(("{ADDRESS}", {PORT}))
        sending.send(b"parent 0")
        input()
    os.waitpid(child, 0)
"""


def payloads(frames: list[bytes]) -> set[str]:
    return {frame[42:].decode().strip() for frame in frames}


def links_of(pid: int) -> int:
    return sum(kind == "link" for kind, _ in bpf_objects.held_by(pid))


def numbered(word: str, count: int = PACKETS) -> set[str]:
    return {f"{word} {number}" for number in range(1, count + 1)}


@contextmanager
def running(program: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process that runs a program when it gets a line."""
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE) as process:
        yield process


@pytest.fixture
def python() -> Iterator[subprocess.Popen[bytes]]:
    with running(PYTHON) as process:
        yield process


@pytest.fixture
def parent() -> Iterator[subprocess.Popen[bytes]]:
    with running(ONE_PORT) as process:
        yield process


async def test_only_the_packets_of_a_process(
    fleet: Fleet,
    bus: Bus,
    nats_server: NatsServer,
    tmp_path: Path,
    python: subprocess.Popen[bytes],
) -> None:
    """By its name and by its id, in the request and in the command."""
    fleet.start(tap={"taps": 3})
    await bus.ok("start", {"interface": "lo", "backend": "af_packet"})
    wanted = f"udp dst port {PORT}"
    words = ("--filter", wanted, "--process", "BAS?")
    live = await Follow(nats_server, tmp_path, *words).opened()
    named = await open_tap(bus, filter=wanted, process="bash")
    by_id = await open_tap(bus, filter=wanted, process=python.pid)
    await asyncio.to_thread(subprocess.run, ["bash", "-c", BASH], check=True)
    await asyncio.to_thread(python.communicate, b"\n")
    await eventually(lambda: len(payloads(named.frames)) >= PACKETS, "those of bash")
    await eventually(lambda: len(payloads(by_id.frames)) >= PACKETS, "those of Python")
    await eventually(lambda: live.packets() >= PACKETS, "those of bash in the file")
    ended = [await named.stop(), await by_id.stop()]
    assert payloads(named.frames) == numbered("bash")
    assert payloads(by_id.frames) == numbered("python")
    assert [one.lost for one in ended] == [{"ring": 0, "rate": 0}] * 2
    assert live.stop() == 0, live.said
    status = await bus.ok("status")
    check_conservation(status)
    assert status["packets_dropped"] == 0


async def test_port_that_changes_hands(
    fleet: Fleet, bus: Bus, parent: subprocess.Popen[bytes]
) -> None:
    """Also the packet of a connected socket that stays open: no event reports its port."""
    fleet.start(tap={"taps": 1})
    await bus.ok("start", {"interface": "lo", "backend": "af_packet"})
    tap = await open_tap(bus, filter=f"udp dst port {PORT}", process=parent.pid)
    assert parent.stdin is not None
    parent.stdin.write(b"\n")
    parent.stdin.flush()
    wanted = numbered("parent", TURNS) | {"parent 0"}
    await eventually(lambda: len(tap.frames) >= len(wanted), "the packets of the parent")
    assert payloads(tap.frames) == wanted
    await tap.stop()
    parent.stdin.close()
    check_conservation(await bus.ok("status"))


async def test_sockets_without_bind_and_connect(fleet: Fleet, bus: Bus) -> None:
    """A tap of a process attaches two more programs, so that no packet precedes its owner."""
    agent = fleet.start(tap={"taps": 1})
    await bus.ok("start", {"interface": "lo", "backend": "af_packet"})
    links = links_of(agent.pid)
    with running(UNBOUND) as sender:
        tap = await open_tap(bus, filter=f"udp dst port {PORT}", process=sender.pid)
        assert links_of(agent.pid) == links + 2
        await asyncio.to_thread(sender.communicate, b"\n")
        await eventually(lambda: len(tap.frames) >= PACKETS, "the packets of the parent")
        assert payloads(tap.frames) == numbered("parent")
        await tap.stop()
    await eventually(lambda: links_of(agent.pid) == links, "the end of two links")
    check_conservation(await bus.ok("status"))


async def test_without_owners_a_process_is_refused(fleet: Fleet, bus: Bus) -> None:
    fleet.start(flows={"owners": "off"})
    await bus.ok("start", {"interface": "lo", "backend": "af_packet"})
    assert await refused(bus, filter="udp", process="bash") == (503, "backend_unavailable")


async def test_a_hidden_process_is_refused(fleet: Fleet, bus: Bus) -> None:
    """A tap of one process would show which packets are its."""
    fleet.start(policy={"hide": {"*": ["process"]}})
    await bus.ok("start", {"interface": "lo", "backend": "af_packet"})
    assert await refused(bus, filter="udp", process="bash") == (403, "policy_denied")
    live = await open_tap(bus, filter="udp")
    await live.stop()
