"""`netsonde packets --follow`: merged files, readers that stop, agents that die.

All agents capture the same wire, so each packet comes once from each host.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import capturing
from agents import COMMAND, Fleet, client_flags
from bus import Bus
from capturing import settled
from deadlines import eventually
from netns import HOST_DEVICE, Sender, Wire
from packets import UDP, ethernet, ipv4, udp
from replay import check_conservation
from servers import MONITORED, NatsServer
from tapping import (
    INTERFACE,
    PACKET,
    SECTION,
    STATISTICS,
    blocks,
    check_bus,
    ended_taps,
    until_ended,
)

A, B = "10.0.0.1", "10.0.0.2"
HOSTS = ("alpha", "beta", "gamma")


def datagram(number: int, size: int = 40) -> bytes:
    load = number.to_bytes(4) + bytes(size)
    return ethernet(ipv4(udp(load, 1000, 53), UDP, A, B, ident=number & 0xFFFF))


@pytest.fixture
def nats_server(tmp_path: Path, wire: Wire) -> Iterator[NatsServer]:
    server = NatsServer(tmp_path / "nats", config=MONITORED).start()
    yield server
    server.kill()


def dissected(path: Path) -> list[list[str]]:
    """Returns the interface and the time of each packet, as tshark reads them."""
    command = ["tshark", "-n", "-r", str(path), "-T", "fields"]
    command += ["-e", "frame.interface_name", "-e", "frame.time_epoch"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True)
    return [line.split("\t") for line in shown.stdout.splitlines()]


def piped(server: NatsServer, packets: int) -> subprocess.Popen[bytes]:
    """Runs a live retrieval into tshark, whose output is the ports of each packet."""
    words = " ".join([str(COMMAND), "packets", "--follow", *client_flags(server.url)])
    command = f"exec {words} --filter udp --max-packets {packets} -w -"
    return subprocess.Popen(
        ["sh", "-c", f"{command} | tshark -n -r - -T fields -e udp.port"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )


async def start_all(fleet: Fleet, bus: Bus, **sections: Any) -> None:
    for host in HOSTS:
        fleet.start(host, **sections)
    for host in HOSTS:
        start = {"interface": HOST_DEVICE, "backend": "af_packet"}
        await bus.ok("start", start, host=host)


async def test_three_hosts_become_one_file_in_order(
    fleet: Fleet, bus: Bus, sender: Sender, follow: Any
) -> None:
    await start_all(fleet, bus)
    live = await follow("--filter", "udp", "--reorder-ms", "30000").opened(3)
    for number in range(600):
        sender.send([datagram(number)])
        if number % 50 == 0:
            await asyncio.sleep(0.05)
    await eventually(lambda: live.packets() == 1800, "1800 packets in the file")
    assert live.stop() == 0, live.said
    kinds = live.kinds()
    assert kinds[:4] == [SECTION, INTERFACE, INTERFACE, INTERFACE]
    assert INTERFACE not in kinds[4:]
    rows = dissected(live.path)
    assert sorted({name for name, _ in rows}) == [f"{host}/{HOST_DEVICE}" for host in HOSTS]
    for host in HOSTS:
        times = [float(at) for name, at in rows if name.startswith(f"{host}/")]
        assert len(times) == 600
        assert times == sorted(times)
    times = [float(at) for _, at in rows]
    assert times == sorted(times)
    for host in HOSTS:
        check_conservation(await bus.ok("status", host=host))


async def test_rotation_keeps_the_newest_files(
    fleet: Fleet, bus: Bus, sender: Sender, follow: Any, tmp_path: Path
) -> None:
    fleet.start(tap={"rate_kbps": 0})
    await capturing.start(bus)
    ring = tmp_path / "ring"
    ring.mkdir()
    options = ("-w", str(ring / "r.pcapng"), "--rotate-mb", "1", "--files", "2", "--snaplen", "0")
    live = follow("--filter", "udp", *options)
    await eventually(lambda: any(ring.iterdir()), "the first file")
    number = 0
    while not any("_00004_" in one.name for one in ring.iterdir()):
        sender.send(datagram(number + each, size=1000) for each in range(100))
        number += 100
        await asyncio.sleep(0.02)
    live.stop()
    names = sorted(one.name for one in ring.iterdir())
    assert len(names) == 2
    for name in names:
        kinds = [kind for kind, _ in blocks((ring / name).read_bytes())]
        assert kinds[:2] == [SECTION, INTERFACE]  # then statistics, if packets were lost
        assert next(kind for kind in kinds[2:] if kind != STATISTICS) == PACKET
        assert (ring / name).stat().st_size <= (1 << 20) + 4096
    await settled(bus, sender.frames_sent)


async def test_a_pipe_into_tshark(
    fleet: Fleet, bus: Bus, sender: Sender, nats_server: NatsServer
) -> None:
    fleet.start()
    await capturing.start(bus)
    running = piped(nats_server, 20)
    await eventually(lambda: _tapped(bus), "the tap")
    sender.send(datagram(number) for number in range(20))
    out, _ = await asyncio.to_thread(running.communicate, None, 60)
    assert len(out.splitlines()) == 20


async def _tapped(bus: Bus) -> bool:
    return bool((await bus.ok("status")).get("taps"))


async def test_losses_are_in_the_file_and_the_exit_code(
    fleet: Fleet, bus: Bus, sender: Sender, follow: Any
) -> None:
    """Twenty times the rate: what did not fit is on standard error and in interface statistics."""
    fleet.start(tap={"rate_kbps": 400})
    await capturing.start(bus)
    live = await follow("--filter", "udp", "--snaplen", "0", "--duration", "3").opened()
    while live.process.poll() is None:
        sender.send([datagram(1, size=1000)] * 10)
        await asyncio.sleep(0.01)
    assert live.process.returncode == 1
    status = await settled(bus, sender.frames_sent)
    assert status["packets_dropped"] == 0
    lost = live.drops()
    assert lost > 0
    assert f"alpha: {live.packets()} packets, {lost} lost" in live.said
    assert f"alpha: {lost} lost: above the rate" in live.said


async def test_a_killed_agent_is_named(fleet: Fleet, bus: Bus, sender: Sender, follow: Any) -> None:
    """The reader names it after 3 s, continues with the others, and exits with 1."""
    await start_all(fleet, bus)
    live = await follow("--filter", "udp").opened(3)
    victim = fleet.agents.pop(1)
    victim.kill()
    began = time.monotonic()
    await eventually(lambda: f"{victim.host}: silent" in live.said, "the silent host")
    assert time.monotonic() - began < 3 + 10
    sender.send(datagram(number) for number in range(100))
    await eventually(lambda: live.packets() == 200, "the packets of the other hosts")
    assert live.stop() == 1
    assert f"{victim.host}: the tap ended early: gone" in live.said


# ---- hosts that come later -----------------------------------------------------------------------


async def test_a_host_that_appears_later_joins(
    fleet: Fleet, bus: Bus, sender: Sender, follow: Any
) -> None:
    """Also a host of the target whose capture starts later; not a host of another group."""
    start = {"interface": HOST_DEVICE, "backend": "af_packet"}
    for host in ("alpha", "gamma"):
        fleet.start(host, labels={"role": "web"})
    await bus.ok("start", start, host="alpha")
    live = await follow("--filter", "udp", "--group", "role=web").opened()
    sender.send(datagram(number) for number in range(50))
    await eventually(lambda: live.packets() == 50, "the packets of the first host")
    fleet.start("beta", labels={"role": "web"})
    fleet.start("delta", labels={"role": "db"})
    for host in ("beta", "gamma", "delta"):
        await bus.ok("start", start, host=host)
    await eventually(
        lambda: all(f"{host}: joined" in live.said for host in ("beta", "gamma")), "both hosts"
    )
    sender.send(datagram(number) for number in range(50, 100))
    await eventually(lambda: live.packets() == 200, "the packets of three hosts")
    assert live.stop() == 0, live.said
    rows = dissected(live.path)
    for host in HOSTS:
        wanted = 100 if host == "alpha" else 50
        assert sum(name == f"{host}/{HOST_DEVICE}" for name, _ in rows) == wanted
        check_conservation(await bus.ok("status", host=host))
    assert "delta" not in live.said


async def test_a_host_that_replies_late_joins(
    fleet: Fleet, bus: Bus, sender: Sender, follow: Any
) -> None:
    """A stopped agent has the request in its socket and replies when it continues."""
    for host in ("alpha", "beta"):
        agent = fleet.start(host)
        await bus.ok("start", {"interface": HOST_DEVICE, "backend": "af_packet"}, host=host)
    os.kill(agent.pid, signal.SIGSTOP)
    try:
        live = await follow("--filter", "udp", "--host", "alpha", "--host", "beta").opened()
        sender.send(datagram(number) for number in range(50))
        await eventually(lambda: live.packets() == 50, "the packets of the first host")
        assert "beta" not in live.said
    finally:
        os.kill(agent.pid, signal.SIGCONT)
    await eventually(lambda: "beta: joined" in live.said, "the second host")
    sender.send(datagram(number) for number in range(50, 100))
    await eventually(lambda: live.packets() >= 150, "the packets of both hosts")
    assert live.stop() == 0, live.said
    rows = dissected(live.path)
    assert sum(name == f"beta/{HOST_DEVICE}" for name, _ in rows) >= 50
    for host in ("alpha", "beta"):
        check_conservation(await bus.ok("status", host=host))


# ---- a reader that stops -------------------------------------------------------------------------


@pytest.mark.parametrize("how", [signal.SIGSTOP, signal.SIGKILL])
async def test_a_reader_that_stops_harms_nobody(
    fleet: Fleet,
    bus: Bus,
    sender: Sender,
    follow: Any,
    nats_server: NatsServer,
    control: Bus,
    how: int,
) -> None:
    """The tap ends within the lease, the bus holds one window at most, `status` stays as fast as on
    a host without a tap, and no packet of the capture is dropped."""
    fleet.start(tap={"rate_kbps": 0})
    audits = await bus.events(kind="audit")
    await capturing.start(bus)
    await capturing.start(control)
    live = await follow("--filter", "udp", "--snaplen", "0").opened()
    sender.send(datagram(number, size=1000) for number in range(300))
    await eventually(lambda: live.packets() == 300, "the packets before the stop")

    def offer() -> None:
        sender.send(datagram(number, size=1000) for number in range(100))

    os.kill(live.process.pid, how)
    stall = await until_ended(bus, control, nats_server, audits, offer)
    stall.check()
    (data,) = ended_taps(audits)
    assert data["reason"] in ("lease", "no_responders")
    check_bus(data, live, nats_server)
    for one in (bus, control):
        status = await settled(one, sender.frames_sent)
        assert status["packets_dropped"] == 0
    if how == signal.SIGSTOP:
        os.kill(live.process.pid, signal.SIGCONT)
        assert await asyncio.to_thread(live.process.wait, 60) == 1


def test_a_missing_filter_is_a_usage_error(nats_server: NatsServer) -> None:
    done = subprocess.run(
        [str(COMMAND), "packets", "--follow", *client_flags(nats_server.url), "-w", "-"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "--filter" in done.stderr
