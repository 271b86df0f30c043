"""The demo's capture file, the flows expected from it, and the checks, which must be able to
fail."""

from __future__ import annotations

import socket
import subprocess
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from demo_packets import make_capture
from netsonde.cli.demo_capture import FILE, FLOWS, SPEED, read_frames, send_frames, write_recent
from netsonde.cli.demo_play import check_flows, find_imbalance
from netsonde.cli.demo_programs import PROGRAMS, check_programs
from packets import read_capture, write_pcap

SIZE_MAX = 300_000
ADDRESSES = ("ip.src", "ip.dst", "ipv6.src", "ipv6.dst")
PORTS = ("tcp.srcport", "tcp.dstport", "udp.srcport", "udp.dstport")
LENGTHS = ("ip.proto", "ip.len", "ipv6.nxt", "ipv6.plen", "vlan.id")
PROTOCOLS = {"1": "ICMP", "6": "TCP", "17": "UDP", "58": "ICMPv6"}


def run_tshark(*arguments: str) -> list[str]:
    done = subprocess.run(
        ["tshark", "-r", str(FILE), "-o", "ip.defragment:FALSE", *arguments],
        check=True,
        capture_output=True,
        text=True,
    )
    return done.stdout.splitlines()


def test_the_capture_file_is_what_its_generator_writes(tmp_path: Path) -> None:
    written = write_pcap(tmp_path / "demo.pcap", make_capture())
    assert written.read_bytes() == FILE.read_bytes()
    assert FILE.stat().st_size <= SIZE_MAX


def test_tshark_counts_the_expected_flows() -> None:
    """Both directions are counted for the server's address and port. Later fragments have no
    ports: they count for the conversation of their first fragment, which has the same IP ID."""
    fields = [*ADDRESSES, *PORTS, *LENGTHS, "ip.id", "eth.type"]
    columns = [word for name in fields for word in ("-e", name)]
    sums: dict[tuple[str, str, int, tuple[str, ...]], list[int]] = defaultdict(lambda: [0, 0])
    no_ip = 0
    first_ports: dict[tuple[str, str], int] = {}
    for line in run_tshark("-T", "fields", *columns):
        one = dict(zip(fields, line.split("\t"), strict=True))
        protocol = PROTOCOLS.get(one["ip.proto"] or one["ipv6.nxt"])
        if protocol is None:
            no_ip += 1
            continue
        ends = {one["ip.src"] or one["ipv6.src"], one["ip.dst"] or one["ipv6.dst"]}
        server = next(ip for ip in ends if ip.endswith((".2", "::2")))
        ports = [int(one[name]) for name in PORTS if one[name]]
        datagram = (one["ip.src"], one["ip.id"])
        if protocol == "UDP" and not ports:
            port = first_ports[datagram]
        else:
            port = min(ports, default=0)
            first_ports[datagram] = port
        size = int(one["ip.len"]) if one["ip.len"] else 40 + int(one["ipv6.plen"])
        total = sums[protocol, server, port, tuple(filter(None, [one["vlan.id"]]))]
        total[0] += 1
        total[1] += size
    expected = {
        (key[0], key[1], 0 if key[0].startswith("ICMP") else key[2], tuple(map(str, key[3:]))): [
            packets,
            ip_bytes,
        ]
        for key, (_, packets, ip_bytes) in FLOWS.items()
    }
    assert sums == expected
    assert no_ip == 1


def test_tshark_finds_no_bad_checksum_and_no_malformed_packet() -> None:
    checks = ("ip", "tcp", "udp")
    options = [word for name in checks for word in ("-o", f"{name}.check_checksum:TRUE")]
    bad = [f"{name}.checksum.status == Bad" for name in (*checks, "icmp", "icmpv6")]
    assert run_tshark(*options, "-Y", " || ".join([*bad, "_ws.malformed"])) == []
    good = [*options, "-Y", "tcp.checksum.status == Good || udp.checksum.status == Good"]
    assert len(run_tshark(*good)) == sum(flow[1] for key, flow in FLOWS.items() if is_whole(key))


def is_whole(key: tuple[Any, ...]) -> bool:
    """TCP and UDP, not fragmented: tshark checks their checksums without reassembly."""
    return key[0] in ("TCP", "UDP") and key[2] != 7001


def test_fragments_reassemble_to_a_correct_datagram() -> None:
    done = run_tshark(
        *("-o", "ip.defragment:TRUE", "-o", "udp.check_checksum:TRUE"),
        *("-Y", "udp.port == 7001 && udp.checksum.status == Good", "-T", "fields"),
        *("-e", "udp.length"),
    )
    assert done == ["4008"] * 4


def test_dns_answers_are_valid() -> None:
    assert len(run_tshark("-Y", "dns.flags.response == 1 && dns.a == 198.18.0.2")) == 3


def test_frames_and_times_are_those_of_the_file() -> None:
    """The demo's reader agrees with the tests' own parser."""
    packets = read_capture(FILE)
    assert list(read_frames()) == [(packet.time_ns, packet.data) for packet in packets]
    times = [packet.time_ns for packet in packets]
    assert times == sorted(times)
    assert times[0] == 0
    assert all(packet.wirelen == len(packet.data) for packet in packets)


def test_a_recent_copy_differs_only_in_its_start(tmp_path: Path) -> None:
    write_recent(tmp_path / "copy.pcap")
    copy, packets = read_capture(tmp_path / "copy.pcap"), read_capture(FILE)
    assert [packet.data for packet in copy] == [packet.data for packet in packets]
    start_ns = copy[0].time_ns
    assert [packet.time_ns - start_ns for packet in copy] == [packet.time_ns for packet in packets]


async def test_every_frame_is_sent_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    frames = [(0, b"first"), (SPEED * 1_000_000, b"second"), (SPEED * 2_000_000, b"third")]
    monkeypatch.setattr("netsonde.cli.demo_capture.read_frames", lambda: iter(frames))
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with near, far:
        near.setblocking(False)
        await send_frames(near)
        assert [far.recv(100) for _ in frames] == [frame for _, frame in frames]


def make_records(*, parts: int = 1) -> list[dict[str, Any]]:
    """Records that contain exactly the expected flows, each divided into `parts`."""
    return [
        {
            "protocol": key[0],
            "dest_ip": key[1],
            "dest_port": key[2],
            "vlan": list(key[3:]),
            "packets": packets // parts + (packets % parts if part == 0 else 0),
            "bytes": ip_bytes // parts + (ip_bytes % parts if part == 0 else 0),
        }
        for key, (_, packets, ip_bytes) in FLOWS.items()
        for part in range(parts)
    ]


@pytest.mark.parametrize("parts", [1, 3])
def test_records_of_other_flows_do_not_count(
    parts: int, capsys: pytest.CaptureFixture[str]
) -> None:
    records = make_records(parts=parts)
    assert check_flows([*records, {**records[0], "dest_port": 54}]) == []
    table = capsys.readouterr().out
    assert "MISSING" not in table
    for title, packets, ip_bytes in FLOWS.values():
        row = next(line for line in table.splitlines() if line.startswith(title))
        assert row.split()[-3:] == [str(packets), str(ip_bytes), "ok"]


@pytest.mark.parametrize("name", ["packets", "bytes"])
@pytest.mark.parametrize("change", [-1, 1])
@pytest.mark.parametrize("number", range(len(FLOWS)))
def test_too_little_and_too_much_are_reported(
    name: str, change: int, number: int, capsys: pytest.CaptureFixture[str]
) -> None:
    records = make_records()
    records[number][name] += change
    (problem,) = check_flows(records)
    title = list(FLOWS.values())[number][0]
    assert problem.startswith(f"{title}: ")
    (row,) = [line for line in capsys.readouterr().out.splitlines() if "MISSING" in line]
    assert row.startswith(title)


def test_a_flow_without_records_is_reported(capsys: pytest.CaptureFixture[str]) -> None:
    assert len(check_flows([])) == len(FLOWS)
    assert capsys.readouterr().out.count("MISSING") == len(FLOWS)


def test_an_unaccounted_packet_is_reported() -> None:
    balance = {
        "packets_captured": 10,
        "packets_recorded": 4,
        "packets_active": 3,
        "packets_non_flow": 2,
        "packets_unmetered": 1,
    }
    assert find_imbalance(balance) == []
    assert find_imbalance({**balance, "packets_active": 2})
    assert find_imbalance(dict.fromkeys(balance, 0)) == ["no packet was captured"]


def of_programs() -> list[dict[str, Any]]:
    return [
        {"name": host, "process": {"name": program, "pid": 7}}
        for program, (_, _, host) in PROGRAMS.items()
    ] + [{"name": None, "process": None}]


def test_a_program_without_its_record_is_reported(capsys: pytest.CaptureFixture[str]) -> None:
    found = {"found": True, "detail": ""}
    assert check_programs(of_programs(), found) == []
    assert "demo-browser [7] asked for docs.netsonde.example" in capsys.readouterr().out
    for number, program in enumerate(PROGRAMS):
        for change in ({"process": None}, {"name": None}, {"name": "other.example"}):
            records = of_programs()
            records[number] |= change
            (problem,) = check_programs(records, found)
            assert program in problem
    assert check_programs([], {"found": False, "detail": "no privilege"}) == []
    assert "no privilege" in capsys.readouterr().out
