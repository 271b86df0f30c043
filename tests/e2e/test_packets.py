"""The verb `packets`: replayed packets are retrieved from memory and from disk.

Every result is compared with the input (recording.retrieve). The buffer wraps several times and the
disk runs full; every missing packet must be reported as missing.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import oracle
import recording
from agents import Agent, Fleet
from bus import Bus
from deadlines import eventually
from packets import (
    IPV6,
    SECOND_NS,
    TCP,
    UDP,
    Packet,
    at,
    ethernet,
    ipv4,
    ipv6,
    read_capture,
    tcp,
    udp,
    write_pcap,
)
from recording import make_key, numbered, numbered_file, retrieve, sealing, spelled
from replay import finished
from servers import NatsServer

# The loop is only the test client's, so one is enough.
pytestmark = pytest.mark.asyncio(loop_factories=["uvloop"])

PLAIN_SERVER = "plain_server"
CUT_PORTS = range(7001, 7007)


@pytest.fixture
def nats_server(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[NatsServer]:
    """A server with an object store, unless the test's parameters say otherwise."""
    plain = PLAIN_SERVER in request.node.name
    config = "" if plain else recording.jetstream(tmp_path / "js")
    server = NatsServer(tmp_path / "nats", config=config).start()
    yield server
    server.kill()


@pytest.fixture
def recorder(fleet: Fleet, tmp_path: Path) -> Agent:
    key = make_key(tmp_path / "keys" / "one.key")
    (tmp_path / "export").mkdir()
    return fleet.start(
        "alpha",
        encryption={"key_dirs": [key.parent]},
        buffer={"export_dir": tmp_path / "export"},
    )


async def record(bus: Bus, path: Path, **options: Any) -> dict[str, Any]:
    """Returns the status of a replay that has reached its end."""
    await bus.ok("start", {"interface": str(path), "backend": "file", **options})
    return await finished(bus)


def contents(found: list[Packet]) -> list[tuple[int, bytes, int, int]]:
    return [(one.time_ns, one.data, one.wirelen, one.linktype) for one in found]


# ---- retrieval equals input ---------------------------------------------------------------------


@pytest.mark.parametrize("sealed", [False, True], ids=["clear", "sealed"])
async def test_every_trace_is_retrieved_unchanged(
    recorder: Agent, bus: Bus, tmp_path: Path, sealed: bool
) -> None:
    """Times, wire lengths and link types are equal too."""
    options = {"encryption": sealing(tmp_path / "keys" / "one.key")} if sealed else {}
    wrong = []
    for trace in oracle.traces():
        await record(bus, trace.path, buffer_size_mb=16, **options)
        reply, found = await retrieve(bus, tmp_path)
        there = sorted(read_capture(trace.path), key=lambda packet: packet.time_ns)
        if not reply["complete"] or sorted(contents(found)) != sorted(contents(there)):
            wrong.append(f"{trace.path.name}: {reply}")
        await bus.ok("stop")
    assert not wrong, "\n".join(wrong)


async def test_time_range_and_limits(recorder: Agent, bus: Bus, tmp_path: Path) -> None:
    path, made = numbered_file(tmp_path / "made.pcap", 2000)
    await record(bus, path)
    middle = made[1000].time_ns
    for body, expected in (
        ({"start": spelled(middle)}, made[1000:]),
        ({"end": spelled(middle)}, made[:1001]),
        ({"start": spelled(middle), "end": spelled(middle)}, made[1000:1001]),
        ({"start": spelled(middle + 1), "end": spelled(middle + 99_999)}, []),
        # The same instant, written with an offset.
        ({"start": spelled(middle + 7200 * SECOND_NS).replace("Z", "+02:00")}, made[1000:]),
        ({"start": "2000-01-01T00:00:00Z", "end": "2030-01-01t00:00:00.5z"}, made),
        ({"end": "9999-12-31T23:59:59Z"}, made),
        ({"start": "9999-12-31T23:59:59Z"}, []),
    ):
        reply, found = await retrieve(bus, tmp_path, **body)
        assert contents(found) == contents(expected), body
        assert reply["complete"], body
    reply, found = await retrieve(bus, tmp_path, max_packets=10)
    assert contents(found) == contents(made[:10])
    assert [gap["reason"] for gap in reply["gaps"]] == ["limit"]
    assert reply["gaps"][0]["from"] == spelled(made[10].time_ns)
    reply, found = await retrieve(bus, tmp_path, max_bytes=100_000)
    assert 90 <= len(found) <= 100
    assert reply["bytes"] <= 100_000
    assert contents(found) == contents(made[: len(found)])
    reply, found = await retrieve(bus, tmp_path, max_packets=len(made))
    assert reply["complete"]
    reply, _ = await retrieve(bus, tmp_path, filter="host 10.0.3.1 and port 1003")
    assert reply["packets"] == sum(n % 7 == 3 and n % 50 == 3 for n in range(2000))


async def test_ports_beyond_the_ip_length_match_a_filter(
    recorder: Agent, bus: Bus, tmp_path: Path
) -> None:
    """BPF reads ports whatever length the IP header states. A flow has no such ports."""
    made = numbered(3000)
    for number, port in enumerate(CUT_PORTS):
        made[100 + number] = at(made[100 + number].time_ns, cut_short(number, port))
    path = write_pcap(tmp_path / "made.pcap", made)
    await record(bus, path)
    for port in CUT_PORTS:
        expression = f"port {port}"
        reply, found = await retrieve(bus, tmp_path, filter=expression)
        assert recording.frames_of(found) == recording.tcpdump(path, expression)
        assert len(found) == 1
        assert reply["chunks_skipped"] > 0


def cut_short(number: int, port: int) -> bytes:
    """Returns TCP or UDP in an IP packet whose length field ends before, or within, the ports."""
    segment, protocol = (tcp(b"", port, 1), TCP) if number % 2 else (udp(b"", port, 1), UDP)
    if number < 4:
        return ethernet(resized(ipv4(segment, protocol, "10.0.0.1", "10.0.0.2"), 2, 20 + number))
    return ethernet(resized(ipv6(segment, protocol, "fd00::1", "fd00::2"), 4, number - 3), IPV6)


def resized(packet: bytes, place: int, octets: int) -> bytes:
    return packet[:place] + octets.to_bytes(2, "big") + packet[place + 2 :]


async def test_empty_recording_gives_an_empty_result(
    recorder: Agent, bus: Bus, tmp_path: Path
) -> None:
    await bus.ok("start", {"interface": "lo", "backend": "af_packet", "filter": "host 192.0.2.77"})
    reply, found = await retrieve(bus, tmp_path)
    assert (found, reply["packets"], reply["complete"]) == ([], 0, True)


async def test_result_is_written_to_a_file(recorder: Agent, bus: Bus, tmp_path: Path) -> None:
    path, made = numbered_file(tmp_path / "made.pcap", 500)
    await record(bus, path)
    reply = await bus.ok("packets", {"to": "file", "filter": "port 53"})
    answer = Path(reply["path"])
    assert answer.parent == tmp_path / "export"
    assert os.stat(answer).st_mode & 0o777 == 0o600
    assert contents(recording.checked(reply, answer)) == contents(made)
    assert "bucket" not in reply
    assert os.listdir(answer.parent) == [answer.name]


# ---- beyond the capacity ------------------------------------------------------------------------


@pytest.mark.parametrize("sealed", [False, True], ids=["clear", "sealed"])
async def test_wrapped_buffer_returns_the_newest_and_reports_the_rest(
    recorder: Agent, bus: Bus, tmp_path: Path, sealed: bool
) -> None:
    """The newest packets are returned. Exactly the others are reported as overwritten."""
    options = {"encryption": sealing(tmp_path / "keys" / "one.key")} if sealed else {}
    path, made = numbered_file(tmp_path / "made.pcap", 16_000, every_ns=100_000)
    status = await record(bus, path, buffer_size_mb=4, replay_speed=1, **options)
    assert status["buffer_usage_percent"] == 100
    assert status["buffer"]["bytes_capacity"] == 4 << 20
    (mapping,) = recording.buffer_mappings(recorder.pid, 4 << 20)
    assert mapping[1] - mapping[0] == 4 << 20  # all memory for packets
    assert status["packets_unrecorded"] == status["packets_seal_lost"] == 0
    reply, found = await retrieve(bus, tmp_path)
    kept = len(found)
    assert kept * 1200 > 3 << 20  # the capacity is 4 MiB, and the chunk being written is not full
    assert contents(found) == contents(made[-kept:])
    assert status["packets_overwritten"] == len(made) - kept
    assert not reply["complete"]
    (gap,) = reply["gaps"]
    assert gap["reason"] == "overwritten"
    assert gap["from"] <= spelled(made[0].time_ns)
    assert spelled(made[-kept - 1].time_ns) <= gap["to"] <= spelled(made[-kept].time_ns)
    expected_sec = (made[-1].time_ns - made[-kept].time_ns) / SECOND_NS
    assert status["retention_sec"] == pytest.approx(expected_sec, abs=0.01)
    # A range within reach is complete, and the reply says so.
    reply, _ = await retrieve(bus, tmp_path, start=spelled(made[-kept].time_ns))
    assert reply["complete"]
    assert (await bus.ok("metrics"))["buffer_usage_percent"] == 100


@pytest.mark.parametrize("sealed", [False, True], ids=["clear", "sealed"])
async def test_disk_reaches_further_back_than_memory(
    fleet: Fleet, bus: Bus, tmp_path: Path, sealed: bool
) -> None:
    key = make_key(tmp_path / "keys" / "one.key")
    disk = tmp_path / "segments"
    fleet.start(encryption={"key_dirs": [key.parent]}, buffer={"dir": disk, "disk_mb": 64})
    # This pace gives the disk writer about 400 ms for a chunk, so it does not block capture.
    path, made = numbered_file(tmp_path / "made.pcap", 12_000, every_ns=250_000)
    options = {"encryption": sealing(key)} if sealed else {}
    status = await record(bus, path, buffer_size_mb=8, replay_speed=1, **options)
    assert status["packets_overwritten"] > 0
    assert status["packets_spill_lost"] == 0
    reply, found = await retrieve(bus, tmp_path)
    assert reply["complete"], reply
    assert contents(found) == contents(made)
    await bus.ok("stop")
    # A later session on the same directory still reads them with the same key.
    later = at(made[-1].time_ns + SECOND_NS, made[0].data)
    await record(bus, write_pcap(tmp_path / "more.pcap", [later]), **options)
    _, found = await retrieve(bus, tmp_path)
    assert contents(found) == contents([*made, later])


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=3m,mode=700", "tmpfs", str(disk)]
    subprocess.run(mount, check=True)
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


async def test_full_disk_raises_an_alarm_and_capture_continues(
    fleet: Fleet, bus: Bus, tmp_path: Path, small_disk: Path
) -> None:
    fleet.start(buffer={"dir": small_disk, "disk_mb": 64})
    events = await bus.events("alpha")
    path, made = numbered_file(tmp_path / "made.pcap", 12_000, every_ns=100_000)
    status = await record(bus, path, buffer_size_mb=32, replay_speed=1)
    assert status["packets_captured"] == len(made)
    await eventually(
        lambda: "spill_failed" in [event["event"] for event in events.all()], "an alarm"
    )
    (alarm,) = (event for event in events.all() if event["event"] == "spill_failed")
    assert (alarm["kind"], alarm["data"]["value"]) == ("alarm", 28)  # ENOSPC
    status = await bus.ok("status")
    assert status["spill_failures"] > 0
    assert status["packets_spill_lost"] > 0
    reply, found = await retrieve(bus, tmp_path)  # memory holds all packets
    assert contents(found) == contents(made)
    assert reply["complete"]


# ---- rejections ---------------------------------------------------------------------------------

NOT_OF_THE_FORM: list[tuple[dict[str, Any], str]] = [
    ({}, "$.to"),
    ({"to": "stdout"}, "$.to"),
    ({"to": "file", "max_bytes": 0}, "$.max_bytes"),
    ({"to": "file", "max_packets": 0}, "$.max_packets"),
    ({"to": "file", "filter": 7}, "$.filter"),
    ({"to": "file", "start": "yesterday"}, "$.start"),
    ({"to": "file", "start": "2026-01-01T00:00:00"}, "$.start"),
    ({"to": "file", "end": "5m"}, "$.end"),
    ({"to": "file", "end": ""}, "$.end"),
    ({"to": "file", "start": "-1m", "end": "-2m"}, "$.end"),
    ({"to": "file", "path": "/tmp/x"}, "$.path"),
]


async def test_rejections_without_a_session(recorder: Agent, bus: Bus) -> None:
    wrong = []
    for body, field in NOT_OF_THE_FORM:
        reply = await bus.request("packets", body)
        if (reply.code, reply.error, reply.body.get("field")) != (422, "invalid_request", field):
            wrong.append(f"{body}: {reply}")
    assert not wrong, "\n".join(wrong)
    reply = await bus.request("packets", {"to": "file", "filter": "no such words"})
    assert (reply.code, reply.error) == (400, "no_session")


async def test_rejections_during_a_session(
    fleet: Fleet, bus: Bus, recorder: Agent, tmp_path: Path
) -> None:
    path, _ = numbered_file(tmp_path / "made.pcap", 10)
    await record(bus, path)
    reply = await bus.request("packets", {"to": "file", "filter": "tcp prot 80"})
    assert (reply.code, reply.error, reply.body["field"]) == (400, "invalid_filter", "$.filter")
    fleet.start("beta")
    await bus.ok("start", {"interface": str(path), "backend": "file"}, host="beta")
    reply = await bus.request("packets", {"to": "file"}, host="beta")
    assert (reply.code, reply.error, reply.body["field"]) == (403, "path_not_allowed", "$.to")
    assert os.listdir(tmp_path / "export") == []


@pytest.mark.parametrize("which", [PLAIN_SERVER])
async def test_503_without_an_object_store(
    recorder: Agent, bus: Bus, tmp_path: Path, which: str
) -> None:
    path, _ = numbered_file(tmp_path / "made.pcap", 10)
    await record(bus, path)
    reply = await bus.request("packets", {"to": "object_store"})
    assert (reply.code, reply.error) == (503, "object_store_unavailable")
    assert (await bus.request("packets", {"to": "file"})).code == 200


async def test_429_for_too_many_requests_at_once(recorder: Agent, bus: Bus, tmp_path: Path) -> None:
    path, made = numbered_file(tmp_path / "made.pcap", 20_000)
    await record(bus, path)
    body = {"to": "file", "filter": "udp"}
    replies = await asyncio.gather(*(bus.request("packets", body) for _ in range(20)))
    assert {reply.code for reply in replies} == {200, 429}
    assert {reply.error for reply in replies if reply.code == 429} == {"too_many_requests"}
    assert {reply.body["packets"] for reply in replies if reply.code == 200} == {len(made)}
    assert (await bus.request("packets", body)).code == 200


async def test_abandoned_request_ends_at_its_deadline(
    recorder: Agent, bus: Bus, nats_server: NatsServer, tmp_path: Path
) -> None:
    """The deadline passes while the server is frozen. No part of the object remains."""
    path, _ = numbered_file(tmp_path / "made.pcap", 20_000)
    await record(bus, path)
    deadline = datetime.now(UTC) + timedelta(seconds=0.03)
    headers = {"Expires-At": deadline.isoformat()}
    late = await bus.request("packets", {"to": "object_store"}, headers=headers)
    assert (late.code, late.error) == (400, "expired")
    reply, _ = await retrieve(bus, tmp_path)
    assert reply["packets"] == 20_000
    (entry,) = await (await bus.client.jetstream().object_store(reply["bucket"])).list()
    stream = await bus.client.jetstream().stream_info("OBJ_capture-packets-alpha")
    assert entry.chunks is not None
    assert stream.state.messages == entry.chunks + 1


async def test_bucket_stays_within_its_limits(fleet: Fleet, bus: Bus, tmp_path: Path) -> None:
    """The bucket is created on demand with limits. When it is full, the oldest objects are
    deleted."""
    fleet.start(buffer={"bucket_mb": 8, "bucket_hours": 2})
    path, made = numbered_file(tmp_path / "made.pcap", 3000)
    await record(bus, path)
    names = []
    for _ in range(4):
        reply, found = await retrieve(bus, tmp_path)
        assert len(found) == len(made)
        names.append(reply["object"])
    stream = await bus.client.jetstream().stream_info("OBJ_capture-packets-alpha")
    assert stream.config.max_bytes == 8 << 20
    assert stream.config.max_age == 7200
    assert stream.state.bytes <= 8 << 20
    store = await bus.client.jetstream().object_store("capture-packets-alpha")
    left = [entry.name for entry in await store.list()]
    assert left == names[-len(left) :]
    assert len(left) < 4
