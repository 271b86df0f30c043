"""The pf_ring backend with the test double: reasons, timestamps, a broken library.

The conformance suite tests the behaviour that it shares with other backends.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

import capturing
from agents import Fleet
from bus import Bus
from deadlines import eventually
from netns import HOST_DEVICE, Sender, Wire
from packets import UDP, ethernet, ipv4, udp

FRAME = ethernet(ipv4(udp(bytes(50), 1000, 53), UDP, "10.0.0.1", "10.1.0.1"))


async def reason(bus: Bus) -> str:
    listed = (await bus.ok("backends"))["unavailable"]
    return str(next(one["reason"] for one in listed if one["name"] == "pf_ring"))


async def test_missing_library_reason_quotes_the_loader(
    fleet: Fleet, bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LD_LIBRARY_PATH")
    fleet.start()
    words = "libpfring.so: cannot open shared object file: No such file or directory"
    assert await reason(bus) == words
    reply = await bus.request("start", {"interface": "lo", "backend": "pf_ring"})
    assert (reply.code, reply.error) == (503, "backend_unavailable")
    assert words in reply.body["detail"]


@pytest.mark.parametrize(
    ("quirk", "words"),
    [
        ("no_module", "the kernel module pf_ring is not loaded"),
        ("no_module,hidden_cause", "the kernel module pf_ring is not loaded"),
        ("no_permission", "needs CAP_NET_RAW: "),
        ("slot_mismatch", "libpfring 8.9.0 does not fit the kernel module (version 8.4.0"),
        ("quick_mode", "has quick_mode=1, so packets lose their direction"),
        ("keep_vlan_offload", "has keep_vlan_offload=1, so packets lose their VLAN tags"),
    ],
)
async def test_each_missing_feature_has_its_own_reason(
    fleet: Fleet, bus: Bus, monkeypatch: pytest.MonkeyPatch, quirk: str, words: str
) -> None:
    monkeypatch.setenv("PFRING_DOUBLE", quirk)
    fleet.start()
    assert words in await reason(bus)
    reply = await bus.request("start", {"interface": "lo", "backend": "pf_ring"})
    assert (reply.code, reply.error) == (503, "backend_unavailable")


@pytest.fixture
def empty_library(tmp_path: Path) -> Path:
    """A library with one of the right names and no functions."""
    library = tmp_path / "libpfring.so.7"
    command = ["cc", "-shared", "-fPIC", "-x", "c", "/dev/null", "-o", str(library)]
    subprocess.run(command, check=True)
    return library


async def test_reason_names_the_library_and_the_missing_function(
    fleet: Fleet, bus: Bus, empty_library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LD_LIBRARY_PATH", str(empty_library.parent))
    fleet.start()
    assert await reason(bus) == f"{empty_library}: undefined symbol: pfring_open"


@pytest.mark.parametrize("quirk", ["monotonic", "no_time"])
async def test_invalid_timestamps_are_corrected_and_counted(
    fleet: Fleet, bus: Bus, sender: Sender, monkeypatch: pytest.MonkeyPatch, quirk: str
) -> None:
    monkeypatch.setenv("PFRING_DOUBLE", quirk)
    fleet.start()
    await capturing.start(bus, "pf_ring")
    sender.send([FRAME] * 100)
    status = await capturing.settled(bus, 100)
    assert status["timestamps_corrected"] == 100
    (flow,) = (await bus.ok("flows"))["flows"]
    assert flow["first_seen"] > "2020"
    await bus.ok("stop")


async def test_failing_library_is_reopened(
    fleet: Fleet, bus: Bus, sender: Sender, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PFRING_DOUBLE", "broken")
    fleet.start()
    await capturing.start(bus, "pf_ring")
    events = await bus.events(kind="capture")

    async def twice() -> bool:
        sender.send([FRAME])
        names = [event["event"] for event in events.all()]
        return names.count("backend_error") >= 2 and "interface_returned" in names

    await eventually(twice, "two errors with a return between them", interval_sec=0.02)
    errors = [event for event in events.all() if event["event"] == "backend_error"]
    assert {error["detail"] for error in errors} == {"sonde0: pfring_recv returned -1"}
    await bus.ok("stop")


@pytest.mark.parametrize("interface", ["sonde0@0", "zc:sonde0"])
async def test_interface_names_with_queue_or_driver_are_accepted(
    fleet: Fleet, bus: Bus, sender: Sender, interface: str
) -> None:
    fleet.start()
    await bus.ok("start", {"interface": interface, "backend": "pf_ring", "dedicated": True})
    sender.send([FRAME] * 10)
    await capturing.settled(bus, 10)
    assert (await bus.ok("stop"))["packets_captured"] == 10


@pytest.mark.parametrize(
    ("interface", "code", "error"),
    [
        ("zc:sonde0", 503, "interface_shared"),
        ("zc:lo", 503, "interface_shared"),
        ("pcap:/etc/hostname", 400, "invalid_interface"),
        ("nosuch0", 400, "invalid_interface"),
        ("sonde0@5", 400, "invalid_interface"),  # sonde0 has one channel
    ],
)
async def test_invalid_start_is_rejected(
    fleet: Fleet, bus: Bus, interface: str, code: int, error: str
) -> None:
    fleet.start()
    reply = await bus.request("start", {"interface": interface, "backend": "pf_ring"})
    assert (reply.code, reply.error) == (code, error), reply


def rings(pid: int) -> int:
    """Counts the packet sockets of a process and their mappings: a ring of the double is both."""
    table = Path(f"/proc/{pid}/net/packet").read_text().splitlines()[1:]
    inodes = {f"socket:[{line.split()[-1]}]" for line in table}
    descriptors = [os.readlink(fd) for fd in Path(f"/proc/{pid}/fd").iterdir()]
    mappings = [line.split()[-1] for line in Path(f"/proc/{pid}/maps").read_text().splitlines()]
    return sum(name in inodes for name in descriptors + mappings)


def promiscuity(wire: Wire) -> int:
    command = ["ip", "-n", wire.host, "-d", "-j", "link", "show", HOST_DEVICE]
    (link,) = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    return int(link["promiscuity"])


async def test_no_ring_is_left_behind(fleet: Fleet, bus: Bus, wire: Wire) -> None:
    """pfring_close of stock libraries leaves the ring open."""
    agent = fleet.start()
    for _ in range(3):
        await bus.ok("backends")
    assert rings(agent.pid) == 0
    for _ in range(3):
        await capturing.start(bus, "pf_ring")
        assert (rings(agent.pid), promiscuity(wire)) == (2, 1)
        await bus.ok("stop")
        assert (rings(agent.pid), promiscuity(wire)) == (0, 0)


async def test_failed_start_leaves_no_ring(
    fleet: Fleet, bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PFRING_DOUBLE", "slot_mismatch")
    agent = fleet.start()
    for _ in range(3):
        await bus.ok("backends")
        await bus.request("start", {"interface": HOST_DEVICE, "backend": "pf_ring"})
    assert rings(agent.pid) == 0


async def test_name_with_a_dot_is_that_interface(
    fleet: Fleet, bus: Bus, wire: Wire, sender: Sender
) -> None:
    """PF_RING reads sonde0.42 as a VLAN filter on sonde0."""
    name = f"{HOST_DEVICE}.42"
    wire.connect(name, "peer42")
    fleet.start()
    await bus.ok("start", {"interface": name, "backend": "pf_ring"})
    tagged = ethernet(ipv4(udp(bytes(50), 1000, 53), UDP, "10.0.0.1", "10.1.0.1"), vlans=[42])
    sender.send([tagged] * 10)
    there = wire.sender("peer42")
    there.send([FRAME] * 7)
    there.close()
    await capturing.settled(bus, 7)
    await bus.ok("stop")
    reply = await bus.request("start", {"interface": f"{name}@0", "backend": "pf_ring"})
    assert (reply.code, reply.error) == (400, "invalid_interface")
    assert "a name with a dot" in reply.body["detail"]


async def test_zero_copy_failure_names_likely_causes(
    fleet: Fleet, bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PFRING_DOUBLE", "no_license")
    fleet.start()
    body = {"interface": f"zc:{HOST_DEVICE}", "backend": "pf_ring", "dedicated": True}
    reply = await bus.request("start", body)
    assert (reply.code, reply.error) == (503, "backend_unavailable")
    assert "Operation not permitted. Likely causes: " in reply.body["detail"]
    assert "no licence for it" in reply.body["detail"]


async def test_hidden_sent_packets_are_reported(
    fleet: Fleet, bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PFRING_DOUBLE", "no_tx")
    fleet.start()
    await capturing.start(bus, "pf_ring")
    attach = (await bus.ok("status"))["attach"]
    assert attach == ("libpfring 8.9.0, kernel ring, received packets only (enable_tx_capture=0)")


@pytest.mark.parametrize("backend", ["af_packet", "pf_ring"])
async def test_interface_that_is_down_is_captured_once_it_is_up(
    fleet: Fleet, bus: Bus, wire: Wire, sender: Sender, backend: str
) -> None:
    wire.host_ip("link", "set", HOST_DEVICE, "down")
    fleet.start()
    events = await bus.events(kind="capture")
    await capturing.start(bus, backend)
    wire.host_ip("link", "set", HOST_DEVICE, "up")

    async def captures() -> bool:
        sender.send([FRAME])
        return bool((await bus.ok("status"))["packets_captured"])

    await eventually(captures, "the first packet", interval_sec=0.02)
    before = await capturing.at_rest(bus)
    sender.send([FRAME] * 100)
    await capturing.settled(bus, before["packets_captured"] + before["packets_dropped"] + 100)
    assert "backend_error" not in [event["event"] for event in events.all()]
    await bus.ok("stop")


async def test_tags_come_back_as_the_description_says(
    fleet: Fleet, bus: Bus, sender: Sender
) -> None:
    """The module returns every VLAN tag as 802.1Q and loses a tag of priority 0 and VLAN 0."""
    fleet.start()
    listed = (await bus.ok("backends"))["available"]
    (description,) = (one["description"] for one in listed if one["name"] == "pf_ring")
    assert description.endswith("VLAN tags appear as 802.1Q, null tags are lost")
    await capturing.start(bus, "pf_ring")
    outer = FRAME[:12] + b"\x88\xa8\x00\x07" + FRAME[12:]
    null = FRAME[:12] + b"\x81\x00\x00\x00" + FRAME[12:]
    sender.send([outer, null])
    await capturing.settled(bus, 2)
    flows = (await bus.ok("flows"))["flows"]
    assert sorted(flow["vlan"] for flow in flows) == [[], [7]]
    await bus.ok("stop")
