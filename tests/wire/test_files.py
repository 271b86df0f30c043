"""Files that are cut, old, compressed, of another format, or of a link type that is unknown."""

from __future__ import annotations

import asyncio
import gzip
import struct
import subprocess
from pathlib import Path

import pytest
from scenarios import datagram

from agents import COMMAND, Agent, client_flags
from bus import Bus
from deadlines import TIMEOUT_SEC
from packets import at, write_pcap
from replay import finished, replay
from servers import NatsServer

USER0 = 147
COMPRESSED = {
    "zstd": (b"\x28\xb5\x2f\xfd", "zstd -d"),
    "xz": (b"\xfd7zXZ\0", "xz -d"),
    "bzip2": (b"BZh9", "bunzip2"),
    "zip": (b"PK\3\4", "unzip"),
    "lz4": (b"\x04\x22\x4d\x18", "lz4 -d"),
}
FOREIGN = {
    "kuznetzov": b"\x34\xcd\xb2\xa1",
    "snoop": b"snoop\0\0\0",
    "netmon": b"GMBU",
    "unknown": b"\x01\x02\x03\x04",
}


def capture(path: Path, count: int = 3) -> bytes:
    return write_pcap(path, [datagram(n, 1001) for n in range(count)]).read_bytes()


def run(verb: str, url: str) -> subprocess.CompletedProcess[str]:
    command = [str(COMMAND), verb, "--host", "alpha", *client_flags(url)]
    return subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_SEC)


async def refusal(bus: Bus, path: Path) -> str:
    reply = await bus.request("start", {"interface": str(path), "backend": "file"})
    assert (reply.code, reply.body["error"]) == (400, "invalid_interface")
    return str(reply.body["detail"])


async def test_a_cut_file_is_reported_from_start_to_stop(
    alpha: Agent, bus: Bus, tmp_path: Path
) -> None:
    whole = capture(tmp_path / "whole.pcap")
    path = tmp_path / "cut.pcap"
    path.write_bytes(whole[:-20])
    started = await bus.ok("start", {"interface": str(path), "backend": "file"})
    status = await finished(bus)
    stopped = await bus.ok("stop")
    for body in (started, status, stopped):
        assert body["file"]["truncated"] is True
        assert f"byte {len(whole) - 20}" in body["file"]["detail"]
    assert stopped["packets_captured"] == 2


async def test_a_damaged_file_is_reported_before_its_replay_gets_there(
    alpha: Agent, bus: Bus, tmp_path: Path
) -> None:
    damaged = bytearray(capture(tmp_path / "damaged.pcap"))
    second = 24 + 16 + 50
    damaged[second + 8 : second + 12] = struct.pack("<I", 1 << 30)
    path = tmp_path / "damaged.pcap"
    path.write_bytes(damaged)
    request = {"interface": str(path), "backend": "file", "replay_speed": 1e-6}
    started = await bus.ok("start", request)
    assert started["file"]["truncated"] is True
    assert f"byte {second}" in started["file"]["detail"]
    assert (await bus.ok("stop"))["file"]["truncated"] is True


async def test_a_whole_file_says_so(alpha: Agent, bus: Bus, tmp_path: Path) -> None:
    capture(tmp_path / "whole.pcap")
    replayed = await replay(bus, tmp_path / "whole.pcap")
    assert replayed.status["file"] == {"truncated": False, "detail": ""}
    assert replayed.stopped["file"] == {"truncated": False, "detail": ""}
    assert replayed.status["undecoded"] == []


@pytest.mark.parametrize("minor", [2, 3], ids=["swapped", "either-order"])
async def test_lengths_of_old_versions(alpha: Agent, bus: Bus, tmp_path: Path, minor: int) -> None:
    """Before version 2.3 the length on the wire came first; in 2.3 the larger one is that."""
    frame = datagram(0, 1001).data
    head = struct.pack("<IHHiIII", 0xA1B2C3D4, 2, minor, 0, 0, 68, 1)
    first = struct.pack("<IIII", 1_700_000_000, 0, 1000, len(frame)) + frame
    path = tmp_path / "old.pcap"
    path.write_bytes(head + first * 2)
    replayed = await replay(bus, path)
    assert replayed.status["packets_captured"] == 2
    assert [(r["packets"], r["l2_bytes"]) for r in replayed.records] == [(2, 2000)]


async def test_an_unknown_version_is_refused(alpha: Agent, bus: Bus, tmp_path: Path) -> None:
    data = bytearray(capture(tmp_path / "new.pcap"))
    data[4:8] = struct.pack("<HH", 3, 1)
    (tmp_path / "new.pcap").write_bytes(data)
    assert "version 3.1" in await refusal(bus, tmp_path / "new.pcap")


async def test_other_files_are_named_with_a_command(alpha: Agent, bus: Bus, tmp_path: Path) -> None:
    path = tmp_path / "capture"
    path.write_bytes(gzip.compress(capture(tmp_path / "whole.pcap")))
    detail = await refusal(bus, path)
    assert "gzip" in detail
    assert "gunzip" in detail
    for name, (magic, command) in COMPRESSED.items():
        path.write_bytes(magic + bytes(100))
        assert command in await refusal(bus, path), name
    for name, magic in FOREIGN.items():
        path.write_bytes(magic + bytes(100))
        assert "editcap -F pcapng" in await refusal(bus, path), name
    path.write_bytes(b"")
    assert "empty" in await refusal(bus, path)


async def test_link_types_that_are_not_decoded_are_named(
    alpha: Agent, bus: Bus, tmp_path: Path, nats_server: NatsServer
) -> None:
    """Also on the terminal, where neither they nor a cut file change the exit code."""
    frame = datagram(0, 1001).data
    whole = write_pcap(tmp_path / "user.pcap", [at(n, frame, USER0) for n in range(3)])
    path = tmp_path / "cut.pcap"
    path.write_bytes(whole.read_bytes()[:-1])
    await bus.ok("start", {"interface": str(path), "backend": "file"})
    status = await finished(bus)
    assert status["packets_non_flow"] == status["non_flow"]["other_linktype"] == 2
    (undecoded,) = status["undecoded"]
    assert (undecoded["linktype"], undecoded["name"], undecoded["packets"]) == (USER0, "USER0", 2)
    assert "not decoded" in undecoded["detail"]
    for verb in ("status", "stop"):
        done = await asyncio.to_thread(run, verb, nats_server.url)
        assert done.returncode == 0, done.stderr
        assert "the file is cut or damaged" in done.stderr
        if verb == "status":
            assert "2 packets not decoded: link type 147 (USER0)" in done.stderr
