"""Retrieval of packets from a capture buffer, and searches for packets at rest.

`retrieve` downloads a result from the object store and checks it against the reply. `tcpdump`
decides independently which packets match a filter.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import subprocess
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bus import Bus
from packets import SECOND_NS, UDP, Packet, at, ethernet, ipv4, read_capture, udp, write_pcap

CIPHER_SUITE = "AES-256-GCM"
MARKER = b"not-to-be-found-at-rest-"
START_NS = 1_767_225_600 * SECOND_NS


def jetstream(directory: Path) -> str:
    """Returns configuration lines for a nats-server with an object store."""
    return f'jetstream {{ store_dir: "{directory}" }}'


async def retrieve(bus: Bus, directory: Path, **body: Any) -> tuple[dict[str, Any], list[Packet]]:
    """Returns the reply and the packets of the object that the reply names."""
    reply = await bus.ok("packets", {"to": "object_store", **body}, timeout_sec=60)
    store = await bus.client.jetstream().object_store(reply["bucket"])
    answer = directory / "answer.pcapng"
    data = (await store.get(reply["object"])).data
    assert data is not None
    answer.write_bytes(data)
    return reply, checked(reply, answer)


def checked(reply: dict[str, Any], answer: Path) -> list[Packet]:
    """Returns the packets of a pcapng file after checking them against the reply."""
    data = answer.read_bytes()
    assert len(data) == reply["bytes"]
    assert hashlib.sha256(data).hexdigest() == reply["sha256"]
    found = read_capture(answer)
    assert len(found) == reply["packets"]
    assert reply["complete"] == (reply["gaps"] == [])
    times = [packet.time_ns for packet in found]
    assert times == sorted(times)
    if times:
        assert (reply["first_time"], reply["last_time"]) == (spelled(times[0]), spelled(times[-1]))
    else:
        assert reply["first_time"] is reply["last_time"] is None
    return found


def spelled(time_ns: int) -> str:
    """Formats a time as RFC 3339 in UTC with nanoseconds."""
    moment = datetime.fromtimestamp(time_ns // SECOND_NS, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{time_ns % SECOND_NS:09d}Z"


def tcpdump(capture: Path, expression: str) -> list[bytes]:
    """Returns the frames in the file that match according to tcpdump."""
    chosen = capture.with_suffix(".chosen")
    command = ["tcpdump", "-n", "-r", str(capture), "-w", str(chosen)]
    done = subprocess.run([*command, expression], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [packet.data for packet in read_capture(chosen)]


def frames_of(found: Sequence[Packet]) -> list[bytes]:
    return [packet.data for packet in found]


def numbered(count: int, *, payload_bytes: int = 1000, every_ns: int = 100_000) -> list[Packet]:
    """Returns datagrams that carry their number and a marker."""
    filling = MARKER * (payload_bytes // len(MARKER))
    return [
        at(
            START_NS + number * every_ns,
            ethernet(
                ipv4(
                    udp(b"%08d" % number + filling, 1000 + number % 50, 53),
                    UDP,
                    f"10.0.{number % 7}.1",
                    "10.9.9.9",
                )
            ),
        )
        for number in range(count)
    ]


def numbered_file(path: Path, count: int, **shape: int) -> tuple[Path, list[Packet]]:
    made = numbered(count, **shape)
    return write_pcap(path, made), made


def make_key(path: Path, content: bytes | None = None, *, mode: int = 0o600) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bytes(range(32)) if content is None else content)
    path.chmod(mode)
    return path


def sealing(key: Path) -> dict[str, Any]:
    return {"cipher_suite": CIPHER_SUITE, "key_file": str(key)}


# ---- at rest ---------------------------------------------------------------------------------


def markers_on_disk(directory: Path) -> int:
    while True:
        try:
            return sum(path.read_bytes().count(MARKER) for path in directory.iterdir())
        except FileNotFoundError:
            continue  # a segment was renamed or deleted during the search


def markers_in_buffer(pid: int, capacity: int) -> int:
    """Counts markers in the agent's capture buffer: the mapping of that size which is excluded from
    core dumps."""
    found, seen = 0, 0
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        for start, end in buffer_mappings(pid, capacity):
            memory.seek(start)
            content = memory.read(end - start)
            found += content.count(MARKER)
            seen += 1
    assert seen, "the capture buffer's mapping was not found"
    return found


def markers_in_memory(pid: int) -> int:
    """Counts markers in the agent's anonymous memory. A kernel ring is not anonymous; the buffer
    that a file is read into is."""
    found = 0
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            bounds, access, _, _, inode, *name = line.split()
            if access.startswith("rw") and inode == "0" and name in ([], ["[heap]"]):
                start, end = (int(part, 16) for part in bounds.split("-"))
                memory.seek(start)
                with contextlib.suppress(OSError):  # unmapped during the search
                    found += memory.read(end - start).count(MARKER)
    return found


def buffer_mappings(pid: int, capacity: int) -> Iterator[tuple[int, int]]:
    """Yields anonymous mappings at least as large as the buffer and excluded from core dumps."""
    for entry in re.split(r"\n(?=[0-9a-f]+-[0-9a-f]+ )", Path(f"/proc/{pid}/smaps").read_text()):
        head = entry.partition("\n")[0].split()
        start, end = (int(part, 16) for part in head[0].split("-"))
        flags = re.search(r"^VmFlags:(.*)$", entry, re.M)
        if end - start >= capacity and len(head) == 5 and flags and " dd" in flags[1]:
            yield start, end
