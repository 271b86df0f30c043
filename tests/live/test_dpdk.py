"""The dpdk backend: its process, its interface names, and DPDK's reader of capture files.

The conformance suite tests the behaviour that it shares with other backends.
"""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

import net_pcap
import pytest

import capturing
import oracle
from agents import Agent, Fleet
from bus import Bus, Events
from deadlines import eventually, eventually_now
from netns import Sender, Wire
from netsonde.core.capture import Capture
from packets import UDP, ethernet, ipv4, udp

FRAME = ethernet(ipv4(udp(bytes(50), 1000, 53), UDP, "10.0.0.1", "10.1.0.1"))


_engines: set[int] = set()  # every process that `processes` has found in this test


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The test's own directory for temporary files, its agents' too."""
    directory = tmp_path / "temporary"
    directory.mkdir()
    monkeypatch.setenv("TMPDIR", str(directory))
    _engines.clear()
    return directory


def processes(agent: Agent) -> list[int]:
    """Returns the agent's DPDK processes, including zombies."""
    found: list[int] = []
    for task in Path(f"/proc/{agent.pid}/task").glob("*/children"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # the thread has ended
            found += map(int, task.read_text().split())
    engines = list(filter(is_engine, found))
    _engines.update(engines)
    return engines


def is_engine(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/comm").read_text().startswith(("netsonde-dpdk", "dpdk-engine"))
    except (FileNotFoundError, ProcessLookupError):
        return False


def mapped(pid: int) -> str:
    return Path(f"/proc/{pid}/maps").read_text()


def leftovers(temporary: Path) -> list[str]:
    """Returns the files that this test's DPDK processes left. Other programs use /dev/shm and
    /var/run/dpdk too, so only names with a process id of this test count there."""
    found = list(temporary.glob("netsonde-dpdk*"))
    for shared in (Path("/dev/shm"), Path("/var/run/dpdk")):
        for pid in _engines:
            found += shared.glob(f"netsonde-dpdk{pid}*")
    return list(map(str, found))


async def test_ten_captures_in_one_agent(
    alpha: Agent, bus: Bus, sender: Sender, temporary: Path
) -> None:
    descriptors = len(os.listdir(f"/proc/{alpha.pid}/fd"))
    for number in range(10):
        await capturing.start(bus, "dpdk")
        assert len(processes(alpha)) == 1
        sender.send([FRAME] * 10)
        await capturing.settled(bus, 10)
        assert (await bus.ok("stop"))["packets_captured"] == 10
        assert processes(alpha) == []
        if number == 0:
            descriptors = len(os.listdir(f"/proc/{alpha.pid}/fd"))
    # The agent opens files of /proc for a moment, for its metrics.
    await eventually(
        lambda: len(os.listdir(f"/proc/{alpha.pid}/fd")) <= descriptors, "no more descriptors"
    )
    assert leftovers(temporary) == []


async def test_interface_is_followed_by_its_driver_name(
    alpha: Agent, bus: Bus, sender: Sender, wire: Wire
) -> None:
    await bus.ok("start", {"interface": "net_af_packet0,iface=sonde0", "backend": "dpdk"})
    events = await bus.events(kind="capture")
    sender.send([FRAME] * 10)
    await capturing.settled(bus, 10)
    wire.host_ip("link", "set", "sonde0", "down")
    await eventually(
        lambda: "interface_down" in [event["event"] for event in events.all()], "interface_down"
    )
    wire.host_ip("link", "set", "sonde0", "up")
    await keeps_capturing(bus, sender)
    await bus.ok("stop")


AF_XDP = {"interface": "net_af_xdp0,iface=sonde0", "backend": "dpdk", "dedicated": True}


@pytest.fixture
def small_wire(wire: Wire) -> Wire:
    """A wire with frames that fit one page, as AF_XDP requires."""
    wire.host_ip("link", "set", "sonde0", "mtu", "1500")
    wire.peer_ip("link", "set", "peer0", "mtu", "1500")
    return wire


async def test_af_xdp_captures_on_a_dedicated_interface(
    alpha: Agent, bus: Bus, sender: Sender, small_wire: Wire
) -> None:
    await bus.ok("start", AF_XDP)
    assert "xdp" in small_wire.link()
    await keeps_capturing(bus, sender)
    before = await capturing.at_rest(bus)
    sender.send([FRAME] * 100)
    await capturing.settled(bus, before["packets_captured"] + before["packets_dropped"] + 100)
    await bus.ok("stop")
    assert "xdp" not in small_wire.link()


async def test_killed_processes_leave_no_af_xdp_program(
    fleet: Fleet, bus: Bus, small_wire: Wire, temporary: Path
) -> None:
    """Kills the DPDK process first, then the agent before it can clean up."""
    agent = fleet.start()
    await bus.ok("start", AF_XDP)
    (process,) = processes(agent)
    assert "xdp" in small_wire.link()
    agent.signal(signal.SIGSTOP)
    os.kill(process, signal.SIGKILL)
    agent.kill()
    await eventually(lambda: "xdp" not in small_wire.link(), "the interface to be free")
    assert leftovers(temporary) == []


async def test_busy_port_is_rejected_and_stays_with_its_owner(
    fleet: Fleet, bus: Bus, sender: Sender, small_wire: Wire
) -> None:
    """Two agents want the interface exclusively. The first keeps it."""
    alpha, beta = fleet.start("alpha"), fleet.start("beta")
    await bus.ok("start", AF_XDP, host="alpha")
    owned = small_wire.link()["xdp"]
    reply = await bus.request("start", AF_XDP, host="beta")
    assert (reply.code, reply.error) == (503, "interface_shared"), reply
    assert "another XDP program is attached" in reply.body["detail"]
    assert processes(beta) == []
    assert small_wire.link()["xdp"] == owned
    sender.send([FRAME])
    await keeps_capturing(bus, sender)
    await bus.ok("stop", host="alpha")
    assert processes(alpha) == []
    await bus.ok("start", AF_XDP, host="beta")
    await bus.ok("stop", host="beta")


async def kill_engine(agent: Agent, events: Events, number: int) -> None:
    """The agent reports the `number`th kill and starts another process."""
    (process,) = processes(agent)
    os.kill(process, signal.SIGKILL)
    await eventually(
        lambda: sum(event["event"] == "backend_error" for event in events.all()) == number,
        "the event backend_error",
    )
    await eventually(lambda: [pid for pid in processes(agent) if pid != process], "another process")


async def test_killed_process_is_reported_and_replaced(
    alpha: Agent, bus: Bus, sender: Sender, wire: Wire, temporary: Path
) -> None:
    await capturing.start(bus, "dpdk", metering={"enable": True})
    events = await bus.events(kind="capture")
    sender.send([FRAME] * 100)
    await capturing.settled(bus, 100)
    for number in range(1, 4):
        await kill_engine(alpha, events, number)
        await keeps_capturing(bus, sender)
    errors = [event for event in events.all() if event["event"] == "backend_error"]
    assert all("killed by signal 9" in error["detail"] for error in errors)
    before = await capturing.at_rest(bus)
    sender.send([FRAME] * 1000)
    await capturing.settled(bus, before["packets_captured"] + before["packets_dropped"] + 1000)
    await bus.ok("stop")
    assert processes(alpha) == []
    assert leftovers(temporary) == []
    assert wire.link()["promiscuity"] == 0


async def keeps_capturing(bus: Bus, sender: Sender) -> None:
    """Sends packets until one is captured."""
    before = (await bus.ok("status"))["packets_captured"]

    async def ask() -> bool:
        sender.send([FRAME])
        return bool((await bus.ok("status"))["packets_captured"] > before)

    await eventually(ask, "the capture to continue", interval_sec=0.05)


async def test_killed_agent_ends_its_process(
    fleet: Fleet, bus: Bus, wire: Wire, temporary: Path
) -> None:
    agent = fleet.start()
    await capturing.start(bus, "dpdk")
    (process,) = processes(agent)
    agent.kill()
    eventually_now(lambda: not is_engine(process), "the process to end")
    eventually_now(lambda: leftovers(temporary) == [], "its files to be gone")
    eventually_now(lambda: wire.link()["promiscuity"] == 0, "the interface to be as before")


async def test_agent_loads_no_dpdk_library(alpha: Agent, bus: Bus) -> None:
    """Neither a `backends` request nor a capture loads one."""
    await bus.ok("backends")
    await capturing.start(bus, "dpdk")
    assert "librte" not in mapped(alpha.pid)
    (process,) = processes(alpha)
    assert "librte_eal" in mapped(process)
    await bus.ok("stop")


@pytest.mark.parametrize(
    ("interface", "code", "error"),
    [
        ("nosuch0", 400, "invalid_interface"),
        ("net_pcap0,rx_pcap=/etc/hostname", 400, "invalid_interface"),
        ("net_null0 --huge-dir=/", 400, "invalid_interface"),
        ("net_tap0,iface=x", 400, "invalid_interface"),
        ("net_null0,size=64;flows=9", 400, "invalid_interface"),
        ("0000:ff:1f.7", 400, "invalid_interface"),
        ("net_af_xdp0,iface=sonde0", 503, "interface_shared"),
    ],
)
async def test_invalid_start_is_rejected(
    alpha: Agent, bus: Bus, interface: str, code: int, error: str
) -> None:
    reply = await bus.request("start", {"interface": interface, "backend": "dpdk"})
    assert (reply.code, reply.error) == (code, error), reply
    assert "Usage" not in alpha.log
    assert processes(alpha) == []


async def test_dedicated_is_rejected_where_the_host_needs_the_interface(
    alpha: Agent, bus: Bus, wire: Wire
) -> None:
    wire.address()
    body = {"interface": "net_af_xdp0,iface=sonde0", "backend": "dpdk", "dedicated": True}
    reply = await bus.request("start", body)
    assert (reply.code, reply.error) == (503, "interface_shared")
    assert "IP address" in reply.body["detail"]


# ---- features without a request ---------------------------------------------------------------


async def test_each_worker_has_its_own_queue(temporary: Path) -> None:
    """net_null has several queues and gives each 100 separate flows."""
    settings = net_pcap.settings("net_null0,size=64,copy=0;flows=100", workers=4)
    capture = await Capture.open(settings)
    assert "dpdk net_null, 4 queues" in capture.stats().attach
    await eventually(lambda: capture.stats().flows_active == 400, "packets of every queue")
    await capture.stop()
    stats = capture.stats()
    await capture.close()
    assert stats.flows_created == 400
    kept = stats.packets_recorded + stats.packets_active + stats.packets_unmetered
    assert stats.packets_captured == kept > 0
    assert leftovers(temporary) == []


async def test_traces_through_net_pcap_match_the_oracle(tmp_path: Path, temporary: Path) -> None:
    wrong = []
    assert len(oracle.traces()) == oracle.TRACES_EXPECTED, f"no traces in {oracle.DIRECTORY}"
    for trace in oracle.traces():
        frames = oracle.frames(trace)
        status, flows = await net_pcap.capture(frames, tmp_path)
        if (status["packets_captured"], status["packets_dropped"]) != (
            len(frames),
            0,
        ) or oracle.digest(flows) not in trace.accepted("flows_sha256"):
            wrong.append(f"{trace.path.name}: {status}\n" + "\n".join(oracle.flow_lines(flows)[:9]))
    assert not wrong, "\n".join(wrong)
    assert leftovers(temporary) == []
