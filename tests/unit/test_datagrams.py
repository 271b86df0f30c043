"""Reading UDP datagrams from capture files of every supported kind."""

from __future__ import annotations

import struct
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netsonde.cli.datagrams import is_capture, read_datagrams
from netsonde.config.addresses import collector_address
from packets import IPV4, IPV6, SLL2, TCP, UDP, at, ethernet, ipv4, ipv6, tcp, udp, write_pcap

MESSAGE = b"\0\x0a" + b"a message of some length" * 3
V4 = ipv4(udp(MESSAGE, 4000, 4739), UDP, "10.0.0.1", "10.0.0.2")
V6 = ipv6(udp(MESSAGE, 4000, 4739), UDP, "fd00::1", "fd00::2")


def payloads(data: bytes) -> tuple[list[bytes], Counter[str]]:
    counts: Counter[str] = Counter()
    assert is_capture(memoryview(data))
    return [one.payload for one in read_datagrams(memoryview(data), counts)], +counts


def pcap(path: Path, *frames: bytes, linktype: int = 1, big_endian: bool = False) -> bytes:
    made = [at(0, frame, linktype) for frame in frames]
    return write_pcap(path / "x.pcap", made, linktype=linktype, big_endian=big_endian).read_bytes()


def pcapng(order: str, linktype: int, frame: bytes) -> bytes:
    def block(kind: int, body: bytes) -> bytes:
        body += bytes(-len(body) % 4)
        size = struct.pack(f"{order}I", len(body) + 12)
        return struct.pack(f"{order}I", kind) + size + body + size

    section = struct.pack(f"{order}IHHq", 0x1A2B3C4D, 1, 0, -1)
    interface = struct.pack(f"{order}HHI", linktype, 0, 0)
    packet = struct.pack(f"{order}IIIII", 0, 0, 0, len(frame), len(frame)) + frame
    simple = struct.pack(f"{order}I", len(frame)) + frame
    blocks = ((0x0A0D0D0A, section), (1, interface), (6, packet), (5, b"ab"), (3, simple))
    return b"".join(block(kind, body) for kind, body in blocks)


@pytest.mark.parametrize(
    ("linktype", "frame"),
    [
        (1, ethernet(V4)),
        (1, ethernet(V6, IPV6)),
        (1, ethernet(V4, vlans=(5, 6))),
        (101, V4),
        (101, V6),
        (0, b"\2\0\0\0" + V4),
        (113, bytes(14) + struct.pack("!H", IPV4) + V4),
        (SLL2, struct.pack("!H", IPV6) + bytes(18) + V6),
    ],
)
def test_each_link_type_is_read(tmp_path: Path, linktype: int, frame: bytes) -> None:
    for big_endian in (False, True):
        data = pcap(tmp_path, frame, linktype=linktype, big_endian=big_endian)
        assert payloads(data) == ([MESSAGE], Counter())
    for order in "<>":
        assert payloads(pcapng(order, linktype, frame)) == ([MESSAGE] * 2, Counter())


def test_other_packets_are_skipped(tmp_path: Path) -> None:
    other = ethernet(ipv4(tcp(b"", 1, 2), TCP, "10.0.0.1", "10.0.0.2"))
    data = pcap(tmp_path, other, b"", ethernet(b"\x45"), ethernet(V4))
    assert payloads(data) == ([MESSAGE], Counter())
    cut = ethernet(V4)[:-5]
    assert payloads(pcap(tmp_path, cut, ethernet(V4))) == ([MESSAGE], Counter(packets_cut=1))
    assert payloads(pcap(tmp_path, ethernet(V4))[:-3]) == ([], Counter(file_cut=1))


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 0, 2)])
def test_fragments_are_reassembled(tmp_path: Path, order: tuple[int, ...]) -> None:
    whole = udp(MESSAGE * 4, 4000, 4739)
    cuts = [(0, whole[:80]), (80, whole[80:160]), (160, whole[160:])]
    frames = [
        ethernet(ipv4(piece, UDP, "10.0.0.1", "10.0.0.2", ident=7, fragment_offset=offset,
                      more_fragments=offset < 160))
        for offset, piece in cuts
    ]  # fmt: skip
    assert payloads(pcap(tmp_path, *(frames[i] for i in order))) == ([MESSAGE * 4], Counter())
    missing = pcap(tmp_path, frames[0], frames[2])
    assert payloads(missing) == ([], Counter(fragments_lost=1))


def test_fragments_of_two_senders_stay_separate(tmp_path: Path) -> None:
    other = ethernet(ipv4(udp(MESSAGE, 4001, 4739), UDP, "10.0.0.1", "10.0.0.2"))
    data = memoryview(pcap(tmp_path, ethernet(V4), other, ethernet(V4)))
    first, second, third = read_datagrams(data, Counter())
    assert first.source == third.source != second.source


@given(st.sampled_from((b"\xd4\xc3\xb2\xa1", b"\xa1\xb2\x3c\x4d", b"\x0a\x0d\x0d\x0a")),
       st.binary(max_size=400))  # fmt: skip
def test_malformed_file_does_not_raise(magic: bytes, rest: bytes) -> None:
    list(read_datagrams(memoryview(magic + rest), Counter()))


@given(st.sampled_from((0, 1, 101, 113, 276)), st.binary(max_size=200))
def test_malformed_frame_does_not_raise(linktype: int, frame: bytes) -> None:
    for data in (pcapng("<", linktype, frame), pcapng("<", 101, b"\x60" + frame)):
        list(read_datagrams(memoryview(data), Counter()))


@pytest.mark.parametrize(
    ("text", "spelled"),
    [
        ("10.0.0.1", "10.0.0.1"),
        ("FD00:0::1", "fd00::1"),
        ("::ffff:10.0.0.1", "10.0.0.1"),
        ("fe80::1%eth0", "fe80::1%eth0"),
    ],
)
def test_collector_address_is_normalized(text: str, spelled: str) -> None:
    assert collector_address(text) == spelled
