"""The agent as an unprivileged user, and the privileges that `netsonde doctor` reports."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

import netns
import unprivileged
from agents import COMMAND, Fleet, toml
from bus import Bus
from deadlines import eventually
from netsonde.config.sections import NatsSection
from netsonde.daemon.privileges import NEEDED
from packets import UDP, ethernet, ipv4, udp
from servers import NatsServer

FRAMES = 50
# The default configuration names a port of this machine, where a server may listen.
NO_NETWORK = ("unshare", "--net")


@pytest.fixture
def shared() -> Iterator[Path]:
    with unprivileged.open_directory() as directory:
        (directory / "stage").mkdir()
        yield directory


def doctor(shared: Path, *capabilities: str) -> tuple[int, dict[str, dict[str, str]]]:
    config = shared / "doctor.toml"
    config.write_text(toml({"http": {"listen": ""}}))
    done = subprocess.run(
        [*NO_NETWORK, *unprivileged.prefix(capabilities, shared / "stage"), str(COMMAND), "doctor",
         "--json", "--config", str(config)],
        capture_output=True, text=True,
    )  # fmt: skip
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, {f["check"]: f for f in map(json.loads, done.stdout.splitlines())}


def status_of(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


@pytest.mark.parametrize("backend", ["af_packet", "pcap", "xdp", "dpdk"])
async def test_captures_with_exactly_the_documented_capabilities(
    wire: netns.Wire, nats_server: NatsServer, bus: Bus, shared: Path, backend: str
) -> None:
    fleet = Fleet(nats_server, shared)
    fleet.prefix = (*wire.prefix, *unprivileged.prefix(NEEDED[backend], shared / "stage"))
    agent = fleet.start("alpha", capture={"replay_dirs": [shared]})
    status = status_of(agent.pid)
    assert status["Uid"].split() == [str(unprivileged.USER_ID)] * 4
    assert status["NoNewPrivs"] == "1"
    bits = {12: "CAP_NET_ADMIN", 13: "CAP_NET_RAW", 14: "CAP_IPC_LOCK", 38: "CAP_PERFMON",
            39: "CAP_BPF"}  # fmt: skip
    expected = sum(1 << bit for bit, name in bits.items() if name in NEEDED[backend])
    assert {int(status[key], 16) for key in ("CapEff", "CapPrm", "CapBnd", "CapAmb")} == {expected}
    await bus.ok("start", {"interface": netns.HOST_DEVICE, "backend": backend})
    sender = wire.sender()
    sender.send(
        [ethernet(ipv4(udp(b"x" * 60, 1000 + n, 53), UDP, "10.0.0.1", "10.0.0.2"))
         for n in range(FRAMES)]
    )  # fmt: skip

    async def captured() -> bool:
        return bool((await bus.ok("status"))["packets_captured"] == FRAMES)

    await eventually(captured, "every frame")
    sender.close()
    await bus.ok("stop")
    assert fleet.dismiss() == []


@pytest.mark.asyncio(loop_factories=["uvloop"])
@pytest.mark.parametrize("dropped", ["CAP_NET_ADMIN", "CAP_PERFMON", "CAP_BPF"])
async def test_xdp_needs_each_of_its_capabilities(
    wire: netns.Wire, nats_server: NatsServer, bus: Bus, shared: Path, dropped: str
) -> None:
    left = [name for name in NEEDED["xdp"] if name != dropped]
    fleet = Fleet(nats_server, shared)
    fleet.prefix = (*wire.prefix, *unprivileged.prefix(left, shared / "stage"))
    fleet.start("alpha")
    reply = await bus.request("start", {"interface": netns.HOST_DEVICE, "backend": "xdp"})
    assert (reply.code, reply.error) == (503, "backend_unavailable")
    assert dropped in reply.body["detail"]
    assert fleet.dismiss() == []


def test_run_without_privileges_exits_with_77(shared: Path) -> None:
    config = shared / "netsonde.toml"
    config.write_text(toml({"http": {"listen": ""}, "agent": {"host": "alpha"}}))
    done = subprocess.run(
        [*NO_NETWORK, *unprivileged.prefix((), shared / "stage"), str(COMMAND), "run", "--config",
         str(config)],
        capture_output=True, text=True, timeout=30,
    )  # fmt: skip
    assert done.returncode == 77
    assert "CAP_NET_RAW" in done.stderr
    assert "netsonde doctor" in done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr


async def test_agent_without_live_capture_needs_no_capability(
    nats_server: NatsServer, bus: Bus, shared: Path
) -> None:
    fleet = Fleet(nats_server, shared)
    fleet.prefix = unprivileged.prefix((), shared / "stage")
    agent = fleet.start("alpha", capture={"replay_dirs": [shared], "live": False})
    assert int(status_of(agent.pid)["CapEff"], 16) == 0
    reply = await bus.request("start", {"interface": "lo", "backend": "af_packet"})
    assert (reply.code, reply.error) == (503, "backend_unavailable")
    assert "CAP_NET_RAW" in reply.body["detail"]
    assert fleet.dismiss() == []


@pytest.mark.usefixtures("server_on_default_port")
def test_doctor_reports_missing_capabilities_and_how_to_grant_them(shared: Path) -> None:
    code, found = doctor(shared)
    assert code == 77
    assert found["capture"]["state"] == "bad"
    for backend in ("af_packet", "pcap"):
        assert found[backend]["state"] == "missing"
        assert "AmbientCapabilities=CAP_NET_RAW" in found[backend]["detail"]
    assert found["file"]["state"] == "ok"
    code, found = doctor(shared, "CAP_NET_RAW")
    assert code == 69, "NATS is the only failed check"
    assert found["capture"]["state"] == found["af_packet"]["state"] == "ok"
    assert "AmbientCapabilities=CAP_NET_ADMIN CAP_PERFMON CAP_BPF" in found["xdp"]["detail"]
    assert "CAP_NET_RAW" not in found["xdp"]["detail"].partition(":")[0]


@pytest.fixture
def server_on_default_port() -> Iterator[None]:
    """A listener on the default configuration's port, unless the machine has one already."""
    default = urlsplit(NatsSection().servers[0])
    try:
        listener = socket.create_server((default.hostname, default.port))
    except OSError:
        yield
        return
    with listener:
        yield


def test_doctor_reports_an_invalid_configuration(tmp_path: Path) -> None:
    config = tmp_path / "netsonde.toml"
    config.write_text("[nats]\nrood = 1\n")
    done = subprocess.run(
        [*NO_NETWORK, str(COMMAND), "doctor", "--config", str(config)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 78
    assert "nats.rood" in done.stdout


# ---- the supervisor --------------------------------------------------------------------------


async def test_systemd_is_notified_of_start_watchdog_and_stop(
    nats_server: NatsServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """READY=1 while NATS is still unreachable, WATCHDOG=1 repeatedly, STOPPING=1 at the end."""
    address = tmp_path / "notify"
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    listener.bind(str(address))
    port = nats_server.port
    nats_server.kill()
    agent = Fleet(nats_server, tmp_path).agent("alpha")
    monkeypatch.setenv("NOTIFY_SOCKET", str(address))
    monkeypatch.setenv("WATCHDOG_USEC", "300000")
    agent.spawn()
    heard: list[str] = []

    def listen() -> None:
        """Reads at once: the socket holds a few notifications, and the agent drops further ones."""
        while data := listener.recv(4096):
            heard.extend(data.decode().splitlines())

    listening = threading.Thread(target=listen)
    listening.start()
    try:
        await eventually(lambda: heard.count("WATCHDOG=1") >= 3, "three watchdog notifications")
        assert "READY=1" in heard
        assert port == nats_server.port
        assert await asyncio.to_thread(agent.terminate) == 0
        await eventually(lambda: "STOPPING=1" in heard, "the notification of the end")
    finally:
        listener.shutdown(socket.SHUT_RD)
        listening.join()
        listener.close()
