"""A second process that uses a socket is noticed while the first still has it.

The first process connects or binds, keeps its descriptor, and closes last. A child inherits the
socket and uses it. Records have the first process, so they must say `shared`.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import capturing
import netns
from agents import COMMAND, Fleet, toml
from bus import Bus, Collector
from deadlines import eventually
from replay import check_conservation, records_of
from servers import NatsServer

LOOPBACK = "127.0.0.9"  # NATS has 127.0.0.1
FILTER = f"host {LOOPBACK}"
NO_TYPES = ("unshare", "--mount", "sh", "-c", 'mount -t tmpfs none /sys/kernel/btf && exec "$@"')
MISSING = (
    "without Linux 6.3 and its BTF, a second process that uses a socket is not noticed, "
    "and connected UDP sockets of other network namespaces are unknown"
)

Use = Callable[[socket.socket], object]


def run_in_child(use: Callable[[], object]) -> None:
    """Returns when the child has ended."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            use()
            code = 0
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0


def send_file(one: socket.socket) -> None:
    with Path(__file__).open("rb") as file:
        assert os.sendfile(one.fileno(), file.fileno(), 0, 10) == 10


def splice(one: socket.socket) -> None:
    reading, writing = os.pipe()
    os.write(writing, b"x")
    assert os.splice(reading, one.fileno(), 1) == 1


def read_nothing(one: socket.socket) -> None:
    with pytest.raises(BlockingIOError):
        one.recv(1, socket.MSG_DONTWAIT)


SENDS: dict[str, Use] = {
    "send": lambda one: one.send(b"x"),
    "sendmsg": lambda one: one.sendmsg([b"x"]),
    "write": lambda one: os.write(one.fileno(), b"x"),
    "writev": lambda one: os.writev(one.fileno(), [b"x"]),
    "sendfile": send_file,
    "splice": splice,
}
RECEIVES: dict[str, Use] = {
    "recv": lambda one: one.recv(1),
    "recvmsg": lambda one: one.recvmsg(1),
    "peek": lambda one: one.recv(1, socket.MSG_PEEK),
    "read": lambda one: os.read(one.fileno(), 1),
    "readv": lambda one: os.readv(one.fileno(), [bytearray(1)]),
}
NO_USE: dict[str, Use] = {
    "hold": lambda one: one.getpeername(),
    "read nothing": read_nothing,
    "close": lambda one: one.close(),
}


class Sockets:
    """Both ends of each use. This process made them all."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self._listener = stack.enter_context(socket.create_server((LOOPBACK, 0)))
        self.shared: dict[tuple[str, int], str] = {}  # protocol and port of the client
        self.unshared: dict[tuple[str, int], str] = {}

    def connect(self, kind: socket.SocketKind) -> tuple[socket.socket, socket.socket]:
        """Returns the client and the server's socket, which have exchanged data."""
        enter = self._stack.enter_context
        if kind == socket.SOCK_STREAM:
            client = enter(socket.create_connection(self._listener.getsockname()))
            server = enter(self._listener.accept()[0])
        else:
            server, client = enter(socket.socket(type=kind)), enter(socket.socket(type=kind))
            server.bind((LOOPBACK, 0))
            client.connect(server.getsockname())
            client.send(b"x")
            server.connect(server.recvfrom(1)[1])
        server.send(b"x")
        assert client.recv(1) == b"x"
        return client, server

    def use(self, name: str, kind: socket.SocketKind = socket.SOCK_STREAM) -> None:
        client, server = self.connect(kind)
        key = ("TCP" if kind == socket.SOCK_STREAM else "UDP", client.getsockname()[1])
        use = {**SENDS, **RECEIVES, **NO_USE}[name]
        if name in RECEIVES:
            server.send(b"x")
        run_in_child(lambda: use(client))
        (self.unshared if name in NO_USE else self.shared)[key] = name

    def send_first(self) -> int:
        """Sends on a UDP socket without bind and connect. Returns its port."""
        client, _ = self._send_to_bound()
        return int(client.getsockname()[1])

    def _send_to_bound(self) -> tuple[socket.socket, socket.socket]:
        client, server = (
            self._stack.enter_context(socket.socket(type=socket.SOCK_DGRAM)) for _ in range(2)
        )
        server.bind((LOOPBACK, 0))
        client.sendto(b"x", server.getsockname())
        return client, server

    def receive_by_child(self) -> None:
        """The process that bound a UDP socket receives nothing."""
        _, server = self._send_to_bound()
        run_in_child(lambda: server.recv(1))
        self.shared["UDP", server.getsockname()[1]] = "bound"


@pytest.fixture
def sockets() -> Iterator[Sockets]:
    with ExitStack() as stack:
        yield Sockets(stack)


def owner_of(row: dict[str, Any], sockets: Sockets) -> tuple[tuple[str, int], dict[str, Any]]:
    """The socket that a child had, and its owner."""
    client = (row["protocol"], row["source_port"])
    known = client in sockets.shared or client in sockets.unshared
    side, port = ("source", "source_port") if known else ("dest", "dest_port")
    owners = [one for one in (row["process"], row["peer_process"]) if one]
    return (row["protocol"], row[port]), next((one for one in owners if one["side"] == side), {})


def check(rows: list[dict[str, Any]], sockets: Sockets) -> None:
    found = dict(owner_of(row, sockets) for row in rows if row["packets"])
    assert found.keys() == sockets.shared.keys() | sockets.unshared.keys()
    for key, owner in found.items():
        assert owner["pid"] == os.getpid()
        assert owner["shared"] == (key in sockets.shared), (key, sockets.unshared.get(key))


async def test_each_use_by_a_second_process_is_noticed(
    fleet: Fleet, bus: Bus, sockets: Sockets
) -> None:
    fleet.start()
    collector = await Collector.listen(bus, "alpha")
    started = await capturing.start(bus, interface="lo", filter=FILTER, metering={"enable": True})
    for name in (*NO_USE, *SENDS, *RECEIVES):
        sockets.use(name)
    for name in ("hold", "send", "recv"):
        sockets.use(name, socket.SOCK_DGRAM)
    sockets.receive_by_child()

    async def all_known() -> list[dict[str, Any]] | None:
        rows: list[dict[str, Any]] = (await bus.ok("flows", {"limit": 1000}))["flows"]
        found = dict(owner_of(row, sockets) for row in rows)
        shared = [key for key in sockets.shared if found.get(key, {}).get("shared")]
        known = [key for key in sockets.unshared if found.get(key, {}).get("pid")]
        whole = len(shared) == len(sockets.shared) and len(known) == len(sockets.unshared)
        return rows if whole else None

    check(await eventually(all_known, "the second process to be noticed"), sockets)
    status = await capturing.at_rest(bus)
    check_conservation(status)
    assert status["owners"] == {"found": True, "detail": ""}
    stopped = await bus.ok("stop")
    check(await records_of(collector, started["session_id"], stopped), sockets)


# ---- a kernel without its types ------------------------------------------------------------------


async def test_the_rest_works_without_kernel_types(
    wire: netns.Wire, nats_server: NatsServer, bus: Bus, sockets: Sockets, tmp_path: Path
) -> None:
    """Not by `ip netns exec`, which hides the control groups."""
    fleet = Fleet(nats_server, tmp_path)
    fleet.prefix = ("nsenter", f"--net=/run/netns/{wire.host}", *NO_TYPES, "sh")
    agent = fleet.start("alpha")
    await capturing.start(bus, interface="lo", filter=FILTER, metering={"enable": True})
    sockets.use("send")
    ((_, connected),) = sockets.shared
    sender = sockets.send_first()

    async def ask(port: int) -> dict[str, Any] | None:
        rows = (await bus.ok("flows", {"limit": 1000}))["flows"]
        owners = [row["process"] for row in rows if row["source_port"] == port]
        return next((one for one in owners if one["how"] == "connect"), None)

    for port in (connected, sender):
        owner = await eventually(partial(ask, port), f"the owner of port {port}")
        assert (owner["pid"], owner["shared"]) == (os.getpid(), False)
    status = await capturing.at_rest(bus)
    check_conservation(status)
    assert status["owners"] == {"found": True, "detail": MISSING}
    await bus.ok("stop")
    assert agent.terminate() == 0


def test_doctor_says_what_the_kernel_lacks(tmp_path: Path) -> None:
    config = tmp_path / "doctor.toml"
    config.write_text(toml({"http": {"listen": ""}}))
    done = subprocess.run(
        [*NO_TYPES, "sh", str(COMMAND), "doctor", "--json", "--config", str(config)],
        capture_output=True,
        text=True,
    )
    found = {one["check"]: one for one in map(json.loads, done.stdout.splitlines())}["owners"]
    assert found["state"] == "note", found
    assert found["detail"].endswith(MISSING)
