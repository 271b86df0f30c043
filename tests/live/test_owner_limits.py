"""Owners when something is missing: events, privileges, the agent itself, or exclusive use."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import bpf_objects
import owners
import pytest
from owners import Stage

import capturing
import netns
import unprivileged
from agents import COMMAND, Agent, Fleet, toml
from bus import Bus, Collector
from deadlines import eventually, eventually_now
from netsonde.core.library import PLUGIN_DIR, ffi, lib
from netsonde.daemon.privileges import NEEDED, OWNERS
from replay import check_conservation, records_of
from servers import NatsServer

LOOPBACK = "127.0.0.9"  # NATS has 127.0.0.1
FILTER = f"host {LOOPBACK}"
BURST, CLIENTS, RING_BYTES = 10_000, 2, 4096
METERING = {"enable": True}


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    with owners.staged(tmp_path) as stage:
        yield stage


def connect_once() -> tuple[int, int]:
    """Returns the port of the client and that of the server, both of this process."""
    with socket.create_server((LOOPBACK, 0)) as listener:
        to = listener.getsockname()
        with socket.create_connection(to) as client:
            listener.accept()[0].close()
            return client.getsockname()[1], to[1]


async def row_of(bus: Bus, ports: tuple[int, int], host: str = "alpha") -> dict[str, Any]:
    async def ask() -> dict[str, Any] | None:
        rows = (await bus.ok("flows", {"limit": 1000}, host=host))["flows"]
        return next((x for x in rows if (x["source_port"], x["dest_port"]) == ports), None)

    return await eventually(ask, f"the flow {ports} on {host}")


# ---- a killed agent ------------------------------------------------------------------------------


async def test_a_killed_agent_leaves_no_program(fleet: Fleet, bus: Bus) -> None:
    agent = fleet.start()
    for _ in range(2):
        await capturing.start(bus, interface="lo", metering=METERING)
        held = bpf_objects.held_by(agent.pid)
        assert {kind for kind, _ in held} == {"prog", "map", "link"}
        assert len([kind for kind, _ in held if kind == "link"]) >= 9
        agent.kill()
        # The kernel frees maps and programs after a grace period.
        eventually_now(
            partial(bpf_objects.are_gone, held),
            "all that the dead process held to be gone",
        )
        agent.start()


async def test_two_agents_find_owners_and_one_survives_the_other(fleet: Fleet, bus: Bus) -> None:
    alpha, _ = fleet.start("alpha"), fleet.start("beta")
    for host in ("alpha", "beta"):
        request = {"interface": "lo", "backend": "af_packet", "filter": FILTER}
        await bus.ok("start", {**request, "metering": METERING}, host=host)
    await check_owners(bus, "alpha", "beta")
    alpha.kill()
    await check_owners(bus, "beta")
    alpha.start()


async def check_owners(bus: Bus, *hosts: str) -> None:
    ports = connect_once()

    async def ask() -> bool:
        rows = [await row_of(bus, ports, host) for host in hosts]
        return all(
            (row["process"] or {}).get("pid") == os.getpid()
            and (row["peer_process"] or {}).get("pid") == os.getpid()
            for row in rows
        )

    await eventually(ask, f"the owners of a connection on {hosts}")


# ---- missing privileges --------------------------------------------------------------------------


@pytest.fixture
def shared() -> Iterator[Path]:
    with unprivileged.open_directory() as directory:
        (directory / "stage").mkdir()
        yield directory


def agent_of_user(
    wire: netns.Wire, server: NatsServer, shared: Path, *capabilities: str, **sections: Any
) -> Agent:
    """Not by `ip netns exec`, which hides the control groups."""
    fleet = Fleet(server, shared)
    enter = ("nsenter", f"--net=/run/netns/{wire.host}")
    fleet.prefix = (*enter, *unprivileged.prefix(capabilities, shared / "stage"))
    return fleet.start("alpha", capture={"replay_dirs": [shared]}, **sections)


async def test_capture_without_the_capabilities(
    wire: netns.Wire, nats_server: NatsServer, bus: Bus, shared: Path
) -> None:
    agent = agent_of_user(wire, nats_server, shared, *NEEDED["af_packet"])
    collector = await Collector.listen(bus, "alpha")
    started = await capturing.start(bus, interface="lo", metering=METERING, filter=FILTER)
    connect_once()
    status = await capturing.at_rest(bus)
    assert status["owners"] == {
        "found": False,
        "detail": "owners of flows need CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN",
    }
    assert status["owners_found"] == 0
    stopped = await bus.ok("stop")
    (record,) = await records_of(collector, started["session_id"], stopped)
    assert (record["process"], record["peer_process"]) == (None, None)
    assert agent.terminate() == 0


async def test_owners_without_root(
    wire: netns.Wire, nats_server: NatsServer, bus: Bus, shared: Path, stage: Stage
) -> None:
    """Exactly the documented capabilities. The path of a control group is read from the tree."""
    here, there = stage.groups.add("client.service"), stage.groups.add("server.service")
    capabilities = (*NEEDED["af_packet"], *OWNERS)
    agent = agent_of_user(wire, nats_server, shared, *capabilities)
    collector = await Collector.listen(bus, "alpha")
    started = await capturing.start(bus, interface="lo", metering=METERING, filter=FILTER)
    servers, ports = stage.servers(there, (), LOOPBACK)
    clients = await asyncio.to_thread(stage.clients, here, wire.prefix, LOOPBACK, ports)
    stage.stop()
    status = await capturing.at_rest(bus)
    check_conservation(status)
    assert status["owners"] == {"found": True, "detail": ""}
    stopped = await bus.ok("stop")
    found = await records_of(collector, started["session_id"], stopped)
    score = owners.score("user without root", found, clients, servers)
    print(f"\n{owners.table([score])}")
    assert score.wrong == []
    assert score.all["cgroup"] == owners.ENDS
    assert score.of("short")["right"] >= 99
    assert agent.terminate() == 0


@pytest.mark.parametrize(
    ("capabilities", "state"), [(NEEDED["af_packet"], "missing"), (OWNERS, "ok")]
)
def test_doctor_says_what_owners_need(
    wire: netns.Wire, shared: Path, capabilities: tuple[str, ...], state: str
) -> None:
    config = shared / "doctor.toml"
    config.write_text(toml({"http": {"listen": ""}}))
    prefix = unprivileged.prefix(capabilities, shared / "stage")
    done = subprocess.run(
        [*prefix, str(COMMAND), "doctor", "--json", "--config", str(config)],
        capture_output=True,
        text=True,
    )
    found = {one["check"]: one for one in map(json.loads, done.stdout.splitlines())}["owners"]
    assert found["state"] == state, found
    if state == "missing":
        assert all(name in found["detail"] for name in OWNERS)
        assert "owners.conf" in found["repair"]


async def test_owners_can_be_turned_off(fleet: Fleet, bus: Bus) -> None:
    agent = fleet.start(flows={"owners": "off"})
    await capturing.start(bus, interface="lo", metering=METERING, filter=FILTER)
    ports = connect_once()
    assert bpf_objects.held_by(agent.pid) == set()
    status = await capturing.at_rest(bus)
    assert status["owners"] == {"found": False, "detail": ""}
    row = await row_of(bus, ports)
    assert (row["process"], row["peer_process"]) == (None, None)


# ---- lost events ---------------------------------------------------------------------------------


class Session:
    """A session of the C core in this process: the size of the ring is no setting of the agent."""

    def __init__(self, device: str = "lo", wanted: str = FILTER, idle_sec: float = 300) -> None:
        self._error = ffi.new("struct sonde_error *")
        self._kept = [
            ffi.new("char[]", word)
            for word in (str(PLUGIN_DIR).encode(), b"af_packet", device.encode(), wanted.encode())
        ]
        config = ffi.new("struct sonde_session_config *")
        config.plugin_dir, config.backend = self._kept[0], self._kept[1]
        self._names = ffi.new("const char *[]", [self._kept[2]])
        config.interfaces, config.interface_count = self._names, 1
        config.filter = self._kept[3]
        config.file_fd, config.workers, config.snaplen = -1, 1, 256
        config.ring_bytes, config.flow_table_size = 1 << 26, 65536
        config.record_ring_size, config.metering = 65536, 1
        config.idle_timeout_ns, config.active_timeout_ns = int(idle_sec * 10**9), 3600 * 10**9
        config.owners, config.owner_ring_bytes = 1, RING_BYTES
        opened = ffi.new("struct sonde_session **")
        self._check(lib.sonde_session_open(config, opened, self._error))
        self._session = opened[0]
        self._check(lib.sonde_session_start(self._session, self._error))

    def _check(self, status: int) -> None:
        assert status == 0, ffi.string(self._error.detail)

    def stats(self) -> Any:
        stats = ffi.new("struct sonde_stats *")
        lib.sonde_session_stats(self._session, stats)
        return stats

    def stop(self) -> list[dict[str, Any]]:
        """Returns all records that were not drained."""
        self._check(lib.sonde_session_stop(self._session, self._error))
        return self.drain()

    def drain(self) -> list[dict[str, Any]]:
        room = 1 << 22
        buffer, batch = ffi.new("uint8_t[]", room), ffi.new("struct sonde_batch *")
        records: list[dict[str, Any]] = []
        while True:
            lib.sonde_session_drain(self._session, 0, 1000, buffer, room, batch)
            if batch.records == 0:
                return records
            records += json.loads(bytes(ffi.buffer(buffer, batch.bytes)))

    def close(self) -> None:
        lib.sonde_session_close(self._session)


def connect_often(to: tuple[str, int], count: int) -> None:
    for _ in range(count):
        socket.create_connection(to).close()


def burst(listeners: list[socket.socket]) -> dict[int, int]:
    """Connects to each listener from another process. Returns the process of each port."""
    found = {}
    for listener in listeners:
        child = os.fork()
        if child == 0:
            try:
                connect_often(listener.getsockname(), BURST // CLIENTS)
            finally:
                os._exit(0)
        found[listener.getsockname()[1]] = child
    for _ in range(BURST // CLIENTS):
        for listener in listeners:
            listener.accept()[0].close()
    for child in found.values():
        assert os.waitpid(child, 0)[1] == 0
    return found


def test_a_full_ring_is_counted_and_labels_nothing_wrong(wire: netns.Wire) -> None:
    session = Session()
    try:
        with contextlib.ExitStack() as stack:
            listeners = [
                stack.enter_context(socket.create_server((LOOPBACK, 0), backlog=4096))
                for _ in range(CLIENTS)
            ]
            processes = burst(listeners)
        stats = session.stats()
        records = session.stop()
    finally:
        session.close()
    assert stats.owners == 1
    assert stats.owners_lost > 0
    assert stats.packets_dropped == 0
    counts: Counter[str] = Counter()
    for one in records:
        if not one["packets"]:
            continue
        both = [owner for owner in (one["process"], one["peer_process"]) if owner]
        sides = {owner["side"]: owner for owner in both if owner["how"] != "unknown"}
        for side, pid in (("source", processes[one["dest_port"]]), ("dest", os.getpid())):
            owner = sides.get(side)
            counts[f"{side} unknown" if owner is None else side] += 1
            assert owner is None or owner["pid"] == pid, one
        if not sides:
            assert both[0]["reason"] == "lost", one
    print(f"\n{BURST} connections, ring of {RING_BYTES} bytes: {stats.owners_lost} events lost, "
          f"{dict(counts)}")  # fmt: skip
    assert counts["source unknown"] + counts["dest unknown"] > 0


SENDER = """
import os, socket, sys
with socket.socket(type=socket.SOCK_DGRAM) as one:
    one.bind((sys.argv[1], 0))
    print(os.getpid(), flush=True)
    for line in sys.stdin:
        one.sendto(b"x", (sys.argv[2], int(line)))
"""


def test_sockets_of_other_namespaces_are_known_again_after_a_loss(wire: netns.Wire) -> None:
    """A socket that is open since before the loss sends to new ports until it is known."""
    wire.address()
    session = Session(netns.HOST_DEVICE, f"udp and src {netns.PEER_ADDRESS}", idle_sec=0.2)
    words = [sys.executable, "-c", SENDER, netns.PEER_ADDRESS, netns.HOST_ADDRESS]
    with (
        contextlib.closing(session),
        subprocess.Popen(
            [*wire.peer_prefix, *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as sender,
        socket.create_server((LOOPBACK, 0), backlog=4096) as listener,
    ):
        assert sender.stdout is not None
        assert sender.stdin is not None
        pid = int(sender.stdout.readline())
        burst([listener])
        assert session.stats().owners_lost > 0
        ports = iter(range(42000, 60000))
        owners_seen: list[dict[str, Any]] = []

        def is_known() -> bool:
            print(next(ports), file=sender.stdin, flush=True)
            owners_seen.extend(one["process"] for one in session.drain())
            return bool(owners_seen) and owners_seen[-1]["pid"] is not None

        eventually_now(is_known, "the owner of a flow after the loss")
        sender.stdin.close()
        assert sender.wait() == 0
        owners_seen += [one["process"] for one in session.stop()]
        assert {(one["pid"], one["reason"]) for one in owners_seen} <= {(pid, None), (None, "lost")}
