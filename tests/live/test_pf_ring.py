"""The pf_ring backend with the test double: reasons, timestamps, a broken library.

The conformance suite tests the behaviour that it shares with other backends.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

import capturing
from agents import Fleet
from bus import Bus
from deadlines import eventually
from netns import Sender
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
    words = "libpfring.so.1: cannot open shared object file: No such file or directory"
    assert await reason(bus) == words
    reply = await bus.request("start", {"interface": "lo", "backend": "pf_ring"})
    assert (reply.code, reply.error) == (503, "backend_unavailable")
    assert words in reply.body["detail"]


@pytest.mark.parametrize(
    ("quirk", "words"),
    [
        ("no_module", "the kernel module pf_ring is not loaded"),
        ("no_module,hidden_cause", "the kernel module pf_ring is not loaded"),
        ("no_permission", "needs CAP_NET_RAW"),
        ("slot_mismatch", "libpfring 8.9.0 does not match the kernel module"),
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
    """A library with the right name and no functions."""
    library = tmp_path / "libpfring.so.1"
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
    ],
)
async def test_invalid_start_is_rejected(
    fleet: Fleet, bus: Bus, interface: str, code: int, error: str
) -> None:
    fleet.start()
    reply = await bus.request("start", {"interface": interface, "backend": "pf_ring"})
    assert (reply.code, reply.error) == (code, error), reply
