"""The demo's made-up packets, and its checks, which must be able to fail."""

from __future__ import annotations

import socket
import struct
from pathlib import Path
from typing import Any

import pytest

from netsonde.cli.demo_packets import (
    CLIENT_IP,
    CLIENT_IP6,
    SERVER_IP,
    SERVER_IP6,
    Side,
    answer_dns,
    checksum,
    ip_packets,
    make_dns_query,
    tcp,
    udp,
)
from netsonde.cli.demo_play import check_scenes, find_imbalance
from netsonde.cli.demo_trace import make_trace
from netsonde.cli.demo_traffic import Scene
from packets import read_capture

FOUR = Side(CLIENT_IP, 1234, SERVER_IP, 80)
SIX = Side(CLIENT_IP6, 1234, SERVER_IP6, 80)


@pytest.mark.parametrize("side", [FOUR, SIX])
def test_checksums_verify(side: Side) -> None:
    source, dest = side.addresses()
    for protocol, segment in ((17, udp(side, b"odd")), (6, tcp(side, 1, 2, 16, b"even"))):
        pseudo = source + dest + struct.pack("!II", len(segment), protocol)
        assert checksum(pseudo + segment) == 0
    if side is FOUR:
        (packet,) = ip_packets(side, 17, udp(side, b"x"), 1)
        assert checksum(packet[:20]) == 0


def test_long_segments_become_fragments_that_fit_together() -> None:
    segment = udp(FOUR, bytes(range(256)) * 16)
    packets = list(ip_packets(FOUR, 17, segment, 7))
    assert len(packets) == 3
    assert all(len(packet) <= 1500 for packet in packets)
    offsets = [struct.unpack_from("!H", packet, 6)[0] for packet in packets]
    assert [offset >> 13 for offset in offsets] == [1, 1, 0]
    whole = bytearray(len(segment))
    for packet, offset in zip(packets, offsets, strict=True):
        at = (offset & 0x1FFF) * 8
        whole[at : at + len(packet) - 20] = packet[20:]
    assert bytes(whole) == segment


def test_dns_answers_repeat_the_question() -> None:
    query = make_dns_query()
    answer = answer_dns(query)
    assert answer[:2] == query[:2]
    assert answer[12 : len(query)] == query[12:]
    assert answer.endswith(socket.inet_aton(SERVER_IP))


def test_the_trace_holds_what_its_scenes_say(tmp_path: Path) -> None:
    trace = make_trace()
    trace.write(tmp_path / "demo.pcap")
    packets = read_capture(tmp_path / "demo.pcap")
    assert len(packets) == len(trace.frames) == sum(s.packets for s in trace.scenes) + 1
    times = [packet.time_ns for packet in packets]
    assert times == sorted(times)
    # Ethernet headers, VLAN tags and the one ARP packet are no IP bytes.
    overhead = 14 * (len(packets) - 1) + 4 * 10 + 42
    assert sum(p.wirelen for p in packets) - overhead == sum(s.ip_bytes for s in trace.scenes)


RECORD: dict[str, Any] = {"protocol": "UDP", "dest_port": 53, "packets": 2, "bytes": 100}


def test_a_scene_adds_up_its_own_records_only() -> None:
    scene = Scene("DNS", {"protocol": "UDP", "dest_port": 53}, 4, 200)
    assert scene.find([RECORD, {**RECORD, "dest_port": 54}, RECORD]) == (4, 200)
    assert scene.find([]) == (0, 0)


@pytest.mark.parametrize(
    ("records", "missing_at_least", "missing_exactly"),
    [(0, True, True), (1, True, True), (2, False, False), (3, False, True)],
)
def test_too_little_is_missing_and_too_much_too_where_it_is_known(
    records: int, *, missing_at_least: bool, missing_exactly: bool
) -> None:
    for exact, missing in ((False, missing_at_least), (True, missing_exactly)):
        scene = Scene("DNS", {"dest_port": 53}, 4, 200, exact=exact)
        assert bool(check_scenes([scene], [RECORD] * records)) == missing


def test_a_packet_that_is_nowhere_is_found_missing() -> None:
    books = {
        "packets_captured": 10,
        "packets_recorded": 4,
        "packets_active": 3,
        "packets_non_flow": 2,
        "packets_unmetered": 1,
    }
    assert find_imbalance(books) == []
    assert find_imbalance({**books, "packets_active": 2})
    assert find_imbalance(dict.fromkeys(books, 0)) == ["no packet was captured"]
