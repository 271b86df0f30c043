"""Encryption of the capture buffer: keys, rejections, and no plaintext at rest.

Every packet contains a marker. The tests search all files below [buffer] dir and the buffer's
memory for the marker. The same search must find the marker in an unencrypted buffer.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import recording
from agents import COMMAND, Agent, Fleet, client_flags
from bus import Bus
from deadlines import eventually
from packets import Packet, read_capture
from recording import make_key, numbered_file, retrieve, sealing
from replay import finished
from servers import NatsServer

# The loop is only the test client's, so one is enough.
pytestmark = [pytest.mark.asyncio(loop_factories=["uvloop"]), pytest.mark.jetstream]

READER = Path(__file__).parents[2] / "schemas" / "segment_reader.py"
BUFFER_BYTES = 16 << 20


@pytest.fixture
def key(tmp_path: Path) -> Path:
    return make_key(tmp_path / "keys" / "one.key")


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    return tmp_path / "segments"


@pytest.fixture
def recorder(fleet: Fleet, key: Path, disk: Path) -> Agent:
    return fleet.start(
        "alpha", encryption={"key_dirs": [key.parent]}, buffer={"dir": disk, "disk_mb": 64}
    )


async def record(bus: Bus, path: Path, **options: Any) -> dict[str, Any]:
    body = {"interface": str(path), "backend": "file", "buffer_size_mb": BUFFER_BYTES >> 20}
    await bus.ok("start", {**body, **options})
    return await finished(bus)


async def captured(bus: Bus, count: int) -> int:
    """Returns the number of captured packets once it is at least `count`."""

    async def ask() -> int:
        seen: int = (await bus.ok("status"))["packets_captured"]
        return seen if seen >= count else 0

    return await eventually(ask, f"{count} packets")


def decrypt(files: list[Path], key: Path | None, out: Path) -> subprocess.CompletedProcess[str]:
    keys: list[str | Path] = [] if key is None else ["--key", key]
    command: list[str | Path] = [COMMAND, "decrypt", *files, *keys, "-o", out]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def read_alone(file: Path, key: Path, out: Path) -> int:
    """Decrypts with the stand-alone reader, which shares no code with the agent."""
    return subprocess.run([sys.executable, READER, file, out, key], check=False).returncode


def left_behind(disk: Path) -> list[Path]:
    """Returns the files of a running or killed session that hold more than a header."""
    found = []
    for file in disk.iterdir():
        with contextlib.suppress(FileNotFoundError):  # renamed or deleted in the meantime
            if file.stat().st_size > 96:
                found.append(file)
    return found


def segments(disk: Path) -> list[Path]:
    return sorted(disk.glob("*.segment"))


# ---- no plaintext ------------------------------------------------------------------------------


async def test_no_plaintext_at_rest(
    recorder: Agent, bus: Bus, key: Path, disk: Path, tmp_path: Path
) -> None:
    path, made = numbered_file(tmp_path / "made.pcap", 3000, every_ns=500_000)
    await record(bus, path)
    await eventually(lambda: recording.markers_on_disk(disk) > 0, "unencrypted segments")
    assert recording.markers_in_buffer(recorder.pid, BUFFER_BYTES) > len(made)
    await bus.ok("stop")

    body = {"interface": str(path), "backend": "file", "replay_speed": 1}
    await bus.ok("start", {**body, "buffer_size_mb": 16, "encryption": sealing(key)})
    while not (await bus.ok("status"))["finished"]:
        assert recording.markers_on_disk(disk) == 0
        await asyncio.sleep(0.1)
    await eventually(
        lambda: recording.markers_in_buffer(recorder.pid, BUFFER_BYTES) == 0,
        "the last packets to be sealed",
    )
    reply, found = await retrieve(bus, tmp_path)
    assert reply["complete"]
    assert found == made
    assert recording.markers_in_buffer(recorder.pid, BUFFER_BYTES) == 0  # after retrieval
    assert recording.markers_on_disk(disk) == 0
    await bus.ok("stop")
    assert recording.markers_on_disk(disk) == 0


async def test_enabling_encryption_mid_session_seals_earlier_packets(
    recorder: Agent, bus: Bus, key: Path, disk: Path, tmp_path: Path
) -> None:
    path, made = numbered_file(tmp_path / "made.pcap", 5000)
    await record(bus, path)
    await eventually(lambda: recording.markers_on_disk(disk) > 0, "unencrypted segments")
    reply = await bus.ok("encryption.enable", sealing(key))
    assert (reply["status"], reply["cipher_suite"]) == ("enabled", "AES-256-GCM")
    assert reply["key_file"] == str(key)
    assert recording.markers_in_buffer(recorder.pid, BUFFER_BYTES) == 0
    assert recording.markers_on_disk(disk) == 0
    status = await bus.ok("status")
    assert status["encryption"]["key_id"] == reply["key_id"]
    _, found = await retrieve(bus, tmp_path)
    assert found == made
    reply = await bus.ok("encryption.enable", {**sealing(key), "enable": False})
    assert reply["status"] == "disabled"
    assert (await bus.ok("status"))["encryption"] is None
    _, found = await retrieve(bus, tmp_path)  # the sealed packets can be decrypted
    assert found == made


async def test_enabling_encryption_after_wrapping_leaves_no_plaintext(
    fleet: Fleet, bus: Bus, key: Path, tmp_path: Path
) -> None:
    """Reused chunks contain old packets behind the new ones. Without a disk: a file is read faster
    than a disk writes, and chunks that wait for it take no new packets."""
    agent = fleet.start("alpha", encryption={"key_dirs": [key.parent]})
    path, made = numbered_file(tmp_path / "made.pcap", 20_000)
    status = await record(bus, path)
    assert status["buffer_usage_percent"] == 100
    assert status["packets_unrecorded"] == 0
    await bus.ok("encryption.enable", sealing(key))
    assert recording.markers_in_buffer(agent.pid, BUFFER_BYTES) == 0
    _, found = await retrieve(bus, tmp_path)
    assert found[-100:] == made[-100:]


async def test_another_key_starts_a_new_period(
    recorder: Agent, bus: Bus, key: Path, disk: Path, tmp_path: Path
) -> None:
    other = make_key(key.with_name("two.key"), b"ab" * 32 + b"\n")
    path, made = numbered_file(tmp_path / "made.pcap", 10_000, every_ns=1_000_000)
    body = {"interface": str(path), "backend": "file", "replay_speed": 1}
    await bus.ok("start", {**body, "encryption": sealing(key)})
    first = (await bus.ok("status"))["encryption"]["key_id"]
    await eventually(lambda: left_behind(disk), "a segment sealed with the first key")
    second = (await bus.ok("encryption.enable", sealing(other)))["key_id"]
    assert first != second
    safe = await captured(bus, await captured(bus, 500) + 500)
    reply, found = await retrieve(bus, tmp_path)
    assert reply["complete"]
    assert len(found) >= safe
    assert found == made[: len(found)]
    stopped = await bus.ok("stop")
    ids = [file.read_bytes()[16:24].hex() for file in segments(disk)]
    assert sorted(set(ids), key=ids.index) == [first, second]
    opened: list[Packet] = []
    for file, key_id in zip(segments(disk), ids, strict=True):
        right, wrong = (key, other) if key_id == first else (other, key)
        done = decrypt([file], wrong, tmp_path / "out.pcapng")
        assert done.returncode == 1
        assert "sealed with another key" in done.stderr
        done = decrypt([file], None, tmp_path / "out.pcapng")
        assert done.returncode == 1
        assert done.stderr == f"{file}: the file is encrypted: name its key file with --key\n"
        assert decrypt([file], right, tmp_path / "out.pcapng").returncode == 0
        opened += read_capture(tmp_path / "out.pcapng")
        assert read_alone(file, right, tmp_path / "out.pcap") == 0
        assert read_capture(tmp_path / "out.pcap") == read_capture(tmp_path / "out.pcapng")
    assert opened == made[: stopped["packets_captured"]]


# ---- after a kill ------------------------------------------------------------------------------


async def test_kill_loses_no_sealed_packet(
    recorder: Agent, bus: Bus, key: Path, disk: Path, tmp_path: Path
) -> None:
    path, made = numbered_file(tmp_path / "made.pcap", 8000, every_ns=500_000)
    body = {"interface": str(path), "backend": "file", "replay_speed": 1}
    await bus.ok("start", {**body, "encryption": sealing(key)})
    safe = await captured(bus, 2000)

    def on_disk() -> int:
        so_far = tmp_path / "so-far.pcapng"
        if not (files := left_behind(disk)):
            return 0
        decrypt(files, key, so_far)
        return len(read_capture(so_far)) if so_far.stat().st_size else 0

    # An extent is closed within a second. The sealer and the disk writer may take longer.
    await eventually(lambda: on_disk() >= safe, "a second of packets on the disk", interval_sec=0.2)
    recorder.kill()
    left = left_behind(disk)
    assert recording.markers_on_disk(disk) == 0
    done = decrypt(left, key, tmp_path / "out.pcapng")
    assert done.returncode == 1
    assert "truncated" in done.stderr
    opened = read_capture(tmp_path / "out.pcapng")
    assert opened == made[: len(opened)]
    assert len(opened) >= safe
    # The next session opens the directory and reads the same files.
    recorder.start()
    await bus.ok("start", {"interface": "lo", "backend": "af_packet", "encryption": sealing(key)})
    _, found = await retrieve(bus, tmp_path, filter="udp and dst host 10.9.9.9")
    assert found == opened


async def test_modified_file_is_detected(
    recorder: Agent, bus: Bus, key: Path, disk: Path, tmp_path: Path
) -> None:
    path, made = numbered_file(tmp_path / "made.pcap", 2000)
    await record(bus, path, encryption=sealing(key))
    await bus.ok("stop")
    (file,) = segments(disk)
    whole = file.read_bytes()
    out = tmp_path / "out.pcapng"
    for place in (3, 17, 30, 70, 100, 130, 1000, len(whole) // 2, len(whole) - 1):
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        done = decrypt([file], key, out)
        assert (done.returncode, done.stderr != "") == (1, True), place
        given = read_capture(out) if os.stat(out).st_size else []
        assert given == made[: len(given)]
    file.write_bytes(whole[:-50])
    done = decrypt([file], key, out)
    assert done.returncode == 1
    assert "truncated" in done.stderr
    file.write_bytes(whole)
    assert decrypt([file], key, out).returncode == 0
    assert f"alpha/{path}".encode() in out.read_bytes()  # the interface of each packet
    assert read_capture(out) == made


# ---- keys --------------------------------------------------------------------------------------


def link(path: Path) -> None:
    path.symlink_to(make_key(path.with_name("target.key")))


def foreign(path: Path) -> None:
    make_key(path)
    os.chown(path, 12345, 12345)


KEY_FILES: dict[str, tuple[Callable[[Path], object], int, str | None]] = {
    "raw": (make_key, 200, None),
    "hexadecimal": (lambda path: make_key(path, b"0f" * 16 + b"C3" * 16), 200, None),
    "with a line's end": (lambda path: make_key(path, b"0f" * 32 + b"\n"), 200, None),
    "read-only": (lambda path: make_key(path, mode=0o400), 200, None),
    "too short": (lambda path: make_key(path, bytes(31)), 400, "invalid_key"),
    "too long": (lambda path: make_key(path, bytes(33)), 400, "invalid_key"),
    "much too long": (lambda path: make_key(path, bytes(4096)), 400, "invalid_key"),
    "empty": (lambda path: make_key(path, b""), 400, "invalid_key"),
    "no hexadecimal": (lambda path: make_key(path, b"0g" * 32), 400, "invalid_key"),
    "hexadecimal and more": (lambda path: make_key(path, b"0f" * 32 + b"f\n"), 400, "invalid_key"),
    "for the group": (lambda path: make_key(path, mode=0o640), 400, "invalid_key"),
    "for everybody": (lambda path: make_key(path, mode=0o604), 400, "invalid_key"),
    "of another user": (foreign, 400, "invalid_key"),
    "missing": (lambda path: None, 400, "invalid_key"),
    "directory": (lambda path: path.mkdir(), 400, "invalid_key"),
    "pipe": (lambda path: os.mkfifo(path, 0o600), 400, "invalid_key"),
    "link": (link, 400, "invalid_key"),
    "link to nothing": (lambda path: path.symlink_to("nothing"), 400, "invalid_key"),
    "link to the outside": (lambda path: path.symlink_to("/etc/passwd"), 400, "invalid_key"),
}


async def test_key_file_is_validated(recorder: Agent, bus: Bus, key: Path, tmp_path: Path) -> None:
    path, _ = numbered_file(tmp_path / "made.pcap", 10)
    await record(bus, path)
    wrong = []
    for name, (make, code, error) in KEY_FILES.items():
        file = key.with_name(f"{name}.key")
        make(file)
        reply = await bus.request("encryption.enable", sealing(file))
        if (reply.code, reply.error) != (code, error):
            wrong.append(f"{name}: {reply}")
        if code != 200 and reply.body.get("field") != "$.key_file":
            wrong.append(f"{name}: {reply.body}")
    assert not wrong, "\n".join(wrong)
    make_key(tmp_path / "outside.key")
    (key.parent / "linked").symlink_to(tmp_path, target_is_directory=True)
    for outside in (
        tmp_path / "outside.key",
        key.parent / "linked" / "outside.key",
        key.parent / ".." / "outside.key",
        Path("/etc/passwd"),
        Path("/no/such/file"),
        Path("/dev/zero"),
    ):
        reply = await bus.request("encryption.enable", sealing(outside))
        assert (reply.code, reply.error) == (403, "path_not_allowed"), outside


# ---- rejections --------------------------------------------------------------------------------


async def test_rejections_follow_a_fixed_order(
    recorder: Agent, bus: Bus, key: Path, tmp_path: Path
) -> None:
    """422, then 400 and 403, then 503, for the verb and for the object in `start`."""
    good = sealing(key)
    unknown = {**good, "cipher_suite": "ROT13"}
    missing = sealing(key.with_name("missing.key"))
    outside = sealing(make_key(tmp_path / "outside.key"))
    reply = await bus.request("encryption.enable", good)
    assert (reply.code, reply.error) == (400, "no_session")
    table: list[tuple[dict[str, Any], int, str, str]] = [
        ({"cipher_suite": "AES-256-GCM"}, 422, "invalid_request", "key_file"),
        ({**good, "enable": 1}, 422, "invalid_request", "enable"),
        ({**good, "key": "x"}, 422, "invalid_request", "key"),
        (unknown, 400, "unsupported_cipher", "cipher_suite"),
        ({**unknown, "enable": False}, 400, "unsupported_cipher", "cipher_suite"),
        (missing, 400, "invalid_key", "key_file"),
        (outside, 403, "path_not_allowed", "key_file"),
    ]
    for body, code, error, field in table:
        start = {"interface": "lo", "backend": "pcap", "encryption": body}
        reply = await bus.request("start", start)
        found = (reply.code, reply.error, reply.body["field"])
        assert found == (code, error, f"$.encryption.{field}")
    reply = await bus.request("start", {"interface": "lo", "backend": "pcap", "encryption": good})
    assert (reply.code, reply.error) == (503, "encryption_unavailable")
    assert (await bus.request("status")).code == 204  # no session was started

    await bus.ok("start", {"interface": "lo", "backend": "pcap"})
    for body, code, error, field in table:
        reply = await bus.request("encryption.enable", body)
        assert (reply.code, reply.error, reply.body["field"]) == (code, error, f"$.{field}")
    for enable in (True, False):
        reply = await bus.request("encryption.enable", {**good, "enable": enable})
        assert (reply.code, reply.error) == (503, "encryption_unavailable")


# ---- the command line --------------------------------------------------------------------------


async def test_commands_encrypt_and_fetch(
    recorder: Agent, bus: Bus, nats_server: NatsServer, key: Path, tmp_path: Path
) -> None:
    def run(*words: str | Path) -> subprocess.CompletedProcess[bytes]:
        command = [COMMAND, *words, *client_flags(nats_server.url)]
        return subprocess.run(command, capture_output=True, check=False)

    path, made = numbered_file(tmp_path / "made.pcap", 700)
    words = ("start", "-i", path, "-b", "file", "--encrypt", key)
    assert (await asyncio.to_thread(run, *words)).returncode == 0
    assert (await finished(bus))["encryption"] is not None
    done = await asyncio.to_thread(run, "encrypt", "off")
    assert (done.returncode, b"disabled" in done.stdout) == (0, True)
    done = await asyncio.to_thread(run, "encrypt", "on")
    assert done.returncode == 2
    done = await asyncio.to_thread(run, "encrypt", "on", "--key-file", key)
    assert (done.returncode, b"enabled" in done.stdout) == (0, True)

    out = tmp_path / "got.pcapng"
    done = await asyncio.to_thread(run, "packets", "--filter", "port 1007", "-w", out)
    assert done.returncode == 0, done.stderr
    assert read_capture(out) == [made[number] for number in range(7, 700, 50)]
    done = await asyncio.to_thread(run, "packets", "--start", "-5m", "-w", "-")
    out.write_bytes(done.stdout)
    assert (done.returncode, read_capture(out)) == (0, [])  # the recording is from another year
    done = await asyncio.to_thread(run, "packets", "--max-packets", "3", "--open")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(b"10.9.9.9") == 3  # printed by tshark
    assert b"complete: no: limit" in done.stderr
    done = await asyncio.to_thread(run, "packets", "--to", "file")
    assert (done.returncode, b"403 path_not_allowed" in done.stderr) == (1, True)
