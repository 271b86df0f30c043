"""Optional libraries are loaded only when a backend that needs them is used."""

from __future__ import annotations

from pathlib import Path

import pytest

import capturing
from absent import BPF, DPDK, without
from agents import Fleet
from bus import Bus
from netns import Sender
from packets import UDP, ethernet, ipv4, udp

FRAME = ethernet(ipv4(udp(bytes(50), 1000, 53), UDP, "10.0.0.1", "10.1.0.1"))
MISSING = "cannot open shared object file: No such file or directory"


def libraries(pid: int) -> set[str]:
    """Names of the shared objects in a process, without the version after `.so`."""
    lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
    paths = [line.split(maxsplit=5)[5] for line in lines if len(line.split(maxsplit=5)) == 6]
    return {Path(path).name.split(".so")[0] for path in paths if ".so" in path}


def optional(pid: int) -> set[str]:
    return {
        name
        for name in libraries(pid)
        if name.startswith(("librte_", "libbpf", "libxdp", "libpfring"))
    }


async def test_agent_starts_without_libraries_and_names_the_missing(
    fleet: Fleet, bus: Bus, sender: Sender, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LD_LIBRARY_PATH")  # no libpfring either
    fleet.prefix += without(tmp_path / "libraries", *DPDK, *BPF)
    fleet.start()
    listed = await bus.ok("backends")
    reasons = {one["name"]: one["reason"] for one in listed["unavailable"]}
    assert reasons.keys() == {"dpdk", "pf_ring", "xdp"}
    assert reasons["dpdk"].startswith("librte_"), reasons
    assert reasons["xdp"].startswith("libbpf.so.1: "), reasons
    assert reasons["pf_ring"].startswith("libpfring.so: "), reasons
    assert all(reason.endswith(MISSING) for reason in reasons.values()), reasons
    assert {one["name"] for one in listed["available"]} == {"af_packet", "file", "pcap"}
    for backend, reason in reasons.items():
        reply = await bus.request("start", {"interface": "sonde0", "backend": backend})
        assert (reply.code, reply.error) == (503, "backend_unavailable"), reply
        assert reason in reply.body["detail"]
    for backend in ("af_packet", "pcap"):
        await capturing.start(bus, backend)
        sender.send([FRAME] * 10)
        await capturing.settled(bus, 10)
        assert (await bus.ok("stop"))["packets_captured"] == 10


async def test_agent_loads_only_the_library_it_captures_with(
    fleet: Fleet, bus: Bus, sender: Sender
) -> None:
    agent = fleet.start()
    assert optional(agent.pid) == set()
    at_start = libraries(agent.pid)
    await capturing.start(bus)
    sender.send([FRAME] * 10)
    await capturing.settled(bus, 10)
    await bus.ok("stop")
    assert optional(agent.pid) == set()
    assert libraries(agent.pid) - at_start == {"af_packet"}
    await bus.ok("backends")
    assert not any(name.startswith("librte_") for name in libraries(agent.pid))
