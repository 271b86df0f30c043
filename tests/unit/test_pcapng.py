"""Merging pcapng files: order, names, memory, and files that no host would write."""

from __future__ import annotations

import random
import struct
import tracemalloc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from netsonde.fleet.pcapng import Part, PcapngError, merge
from packets import Packet, read_capture

HEAD = struct.pack("<IIIHHqI", 0x0A0D0D0A, 28, 0x1A2B3C4D, 1, 0, -1, 28)
STATISTICS = struct.pack("<IIIIII", 5, 24, 0, 0, 0, 24)


def block(kind: int, body: bytes) -> bytes:
    length = len(body) + 12
    return struct.pack("<II", kind, length) + body + struct.pack("<I", length)


def interface(name: str, *, resolution: int = 9) -> bytes:
    text = name.encode()
    options = struct.pack("<HH", 2, len(text)) + text + bytes(-len(text) % 4)
    options += struct.pack("<HHBxxxI", 9, 1, resolution, 0)
    return block(1, struct.pack("<HHI", 1, 0, 262144) + options)


def packet(time_ns: int, data: bytes, number: int = 0) -> bytes:
    head = struct.pack("<IIIII", number, time_ns >> 32, time_ns & 0xFFFFFFFF, len(data), len(data))
    return block(6, head + data + bytes(-len(data) % 4))


@contextmanager
def opened(files: Sequence[tuple[str, Path]]) -> Iterator[list[Part]]:
    handles = [(host, path.open("rb")) for host, path in files]
    try:
        yield [Part(host, handle.fileno()).read() for host, handle in handles]
    finally:
        for _, handle in handles:
            handle.close()


def merged(directory: Path, *files: tuple[str, bytes]) -> Path:
    paths = []
    for number, (host, content) in enumerate(files):
        path = directory / f"{number}.pcapng"
        path.write_bytes(content)
        paths.append((host, path))
    out = directory / "merged.pcapng"
    with opened(paths) as parts:
        out.write_bytes(b"".join(merge(parts)))
    return out


def names(path: Path) -> list[str]:
    """Returns the names of the interfaces. All come before the first packet."""
    data, at, found = path.read_bytes(), 0, []
    while at < len(data):
        kind, length = struct.unpack_from("<II", data, at)
        if kind == 6:
            break
        if kind == 1:
            (size,) = struct.unpack_from("<H", data, at + 18)
            found.append(data[at + 20 : at + 20 + size].decode())
        at += length
    assert data.count(b"\x0a\x0d\x0d\x0a") == 1
    return found


@pytest.mark.parametrize("seed", range(20))
def test_packets_out_of_order_are_sorted(tmp_path: Path, seed: int) -> None:
    """Packets of one host with the same time keep their order."""
    chance = random.Random(seed)
    files, expected = [], []
    for host in range(chance.randrange(1, 5)):
        content, base = HEAD + interface("a") + interface("b"), 0
        for number in range(chance.randrange(300)):
            base += chance.choice((0, 1, 50)) - chance.choice((0, 0, 0, 400))
            time_ns = 10**18 + base
            data = b"%d %d" % (host, number) + bytes(chance.randrange(600))
            content += packet(time_ns, data, chance.randrange(2)) + STATISTICS
            expected.append((time_ns, host, number, data))
        files.append((f"web{host}", content))
    found = read_capture(merged(tmp_path, *files))
    assert len(found) == len(expected)
    times = [one.time_ns for one in found]
    assert times == sorted(times)
    for host in range(len(files)):
        own = [one.data for one in found if one.data.startswith(b"%d " % host)]
        assert own == [data for _, other, _, data in sorted(expected) if other == host]


def test_names_have_the_host_that_sent_them(tmp_path: Path) -> None:
    one = HEAD + interface("web1/eth0") + packet(5, b"x") + interface("lo") + packet(6, b"y", 1)
    two = HEAD + interface("web1/eth0") + interface("") + packet(1, b"z")
    out = merged(tmp_path, ("web1", one), ("web2", two), ("web3", HEAD))
    assert names(out) == ["web1/eth0", "web1/lo", "web2/web1/eth0", "web2"]
    assert read_capture(out) == [
        Packet(1, b"z", 1),
        Packet(5, b"x", 1),
        Packet(6, b"y", 1),
    ]


GOOD = HEAD + interface("a")
MALFORMED = {
    "empty": b"",
    "cut": (GOOD + packet(1, b"x" * 99))[:-4],
    "two sections": GOOD + HEAD,
    "no section": interface("a"),
    "big-endian": struct.pack(">IIIHHqI", 0x0A0D0D0A, 28, 0x1A2B3C4D, 1, 0, -1, 28),
    "microseconds": HEAD + interface("a", resolution=6),
    "unknown interface": GOOD + packet(1, b"x", 1),
    "packet too short": GOOD + block(6, bytes(16)),
    "packet longer than its block": GOOD + block(6, struct.pack("<IIIII", 0, 0, 1, 999, 999)),
    "simple packet": GOOD + block(3, bytes(4)),
    "length of zero": GOOD + struct.pack("<III", 6, 0, 0),
    "large block": GOOD + block(6, bytes(2 << 20)),
    "short interface": HEAD + block(1, bytes(4)),
    "option beyond its block": HEAD + block(1, bytes(8) + struct.pack("<HH", 2, 99)),
}


@pytest.mark.parametrize("content", MALFORMED.values(), ids=MALFORMED)
def test_malformed_files_are_rejected(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "part"
    path.write_bytes(content)
    with pytest.raises(PcapngError, match="malformed pcapng"), opened([("web1", path)]):
        pass


def test_memory_does_not_grow_with_the_files(tmp_path: Path) -> None:
    """Five files of 8 MB."""
    paths = []
    for host in range(5):
        path = tmp_path / str(host)
        content = b"".join(packet(n * 1000 + host, bytes(1400)) for n in range(5700))
        path.write_bytes(GOOD + content)
        paths.append((f"web{host}", path))
    with opened(paths) as parts:
        tracemalloc.start()
        try:
            size = sum(len(piece) for piece in merge(parts))
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert size > 40_000_000
    assert peak < 8 << 20
