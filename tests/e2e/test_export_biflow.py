"""`biflow = true` (RFC 5103: one IPFIX record for both directions) and `profile = "full"`, read by
tshark.

Of the collectors here, only tshark reads reverse elements. Each follows its forward element under
the same name.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import oracle
from agents import Fleet
from bus import Bus
from collectors import HOST, ICMP, ICMPV6, Inbox, Sniffer, Tshark
from exports import START_NS
from netns import Wire
from packets import IPV4, IPV6, UDP, VLAN, at, ethernet, ipv4, ipv6, udp, write_pcap
from replay import replay

REVERSE_ENTERPRISE = 29305  # RFC 5103 §6.1
TRACES = ("05", "12", "16")  # fragments and ICMP errors, ICMPv6, many segments with an answer

FULL = (
    "dot1q_priority",
    "ipv6flowlabel",
    "ipv6_exthdr",
    "fragment_offset",
    "ip_fragment_flags",
)

pytestmark = pytest.mark.asyncio(loop_factories=["uvloop"])


class Biflow(NamedTuple):
    """One record. A counter covers the forward direction, and the reverse one if the record has
    it."""

    source: str
    dest: str
    source_port: int
    dest_port: int
    protocol: int
    octets: tuple[int, ...]
    packets: tuple[int, ...]
    tcp_flags: tuple[int, ...]
    l2_octets: tuple[int, ...]


@pytest.fixture(autouse=True)
def inside(wire: Wire) -> Wire:
    return wire


@pytest.mark.parametrize("prefix", TRACES)
async def test_both_directions_are_in_one_record(
    fleet: Fleet, bus: Bus, tmp_path: Path, prefix: str
) -> None:
    inbox = Inbox()
    standing = {"ip": HOST, "port": inbox.port, "version": 10}
    fleet.start("alpha", export={"biflow": True, "profile": "full", "collectors": [standing]})
    with Sniffer(tmp_path / "sniffer") as sniffer:
        replayed = await replay(bus, oracle.trace(prefix).path, idle_sec=15, active_sec=60)
        (sent,) = replayed.stopped["export"]["collectors"]
        sniffer.finish(sent["messages_sent"])
    inbox.close()

    tshark = Tshark(sniffer.path, [inbox.port])
    assert tshark.complaints() == ""
    found = Counter(map(of_tshark, data_records(tshark)))
    assert found == Counter(map(of_stream, replayed.non_empty))
    assert any(len(one.packets) == 2 for one in found), "the reply is in the same record"
    assert found.total() == sent["records_sent"]
    assert sum(sum(one.packets) for one in found.elements()) == sent["packets_sent"]
    assert sum(sum(one.octets) for one in found.elements()) == sent["octets_sent"]
    enterprises = tshark.run("-T", "fields", "-e", "cflow.template_ipfix_field_pen").split()
    assert {int(one) for line in enterprises for one in line.split(",")} == {REVERSE_ENTERPRISE}


def of_stream(record: Mapping[str, Any]) -> Biflow:
    def sides(forward: int, reverse: int) -> tuple[int, ...]:
        return (forward, reverse) if record["reverse_packets"] else (forward,)

    def counted(name: str) -> tuple[int, ...]:
        reverse = record[f"reverse_{name}"]
        return sides(record[name] - reverse, reverse)

    ports = record["source_port"], record["dest_port"]
    if record["protocol_number"] in (ICMP, ICMPV6):
        ports = 0, record["icmp_type"] << 8 | record["icmp_code"]
    return Biflow(
        record["source_ip"],
        record["dest_ip"],
        *ports,
        record["protocol_number"],
        counted("bytes"),
        counted("packets"),
        sides(record["tcp_flags"], record["reverse_tcp_flags"]),
        counted("l2_bytes"),
    )


def of_tshark(pairs: list[tuple[str, Any]]) -> Biflow:
    def numbers(name: str) -> tuple[int, ...]:
        return tuple(int(value, 0) for key, value in pairs if key == f"cflow.{name}")

    one = {key.removeprefix("cflow."): value for key, value in pairs}
    return Biflow(
        one.get("srcaddr") or one["srcaddrv6"],
        one.get("dstaddr") or one["dstaddrv6"],
        int(one["srcport"]),
        int(one["dstport"]),
        int(one["protocol"]),
        numbers("octets"),
        numbers("packets"),
        numbers("tcpflags"),
        numbers("layer2_octet_delta_count"),
    )


def data_records(tshark: Tshark) -> list[list[tuple[str, Any]]]:
    """Returns each flow as (name, value) pairs, because names occur twice."""
    found: list[list[tuple[str, Any]]] = []

    def note(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if any(name == "cflow.protocol" for name, _ in pairs):
            found.append(pairs)
        return dict(pairs)

    json.loads(tshark.run("-T", "json"), object_pairs_hook=note)
    return found


async def test_full_profile_exports_header_fields(fleet: Fleet, bus: Bus, tmp_path: Path) -> None:
    """Tags, flow labels, extension headers and fragments, in both versions that support them."""
    extensions = bytes([43, 0, *bytes(6)]) + bytes([60, 0, *bytes(6)]) + bytes([UDP, 0, *bytes(6)])
    labelled = bytearray(ipv6(extensions + udp(b"", 4000, 53), 0, "2001:db8::1", "2001:db8::2"))
    labelled[1:4] = bytes.fromhex("054321")
    tag = (5 << 13 | 100).to_bytes(2)  # priority 5
    later = ipv4(bytes(8), UDP, "10.0.0.1", "10.0.0.2", fragment_offset=24, more_fragments=True)
    frames = [
        ethernet(bytes(labelled), IPV6),
        ethernet(tag + IPV4.to_bytes(2) + later, VLAN),
    ]
    path = write_pcap(tmp_path / "full.pcap", [at(START_NS + n, f) for n, f in enumerate(frames)])
    inboxes = {version: Inbox() for version in (9, 10)}
    standing = [{"ip": HOST, "port": box.port, "version": v} for v, box in inboxes.items()]
    fleet.start("alpha", export={"profile": "full", "collectors": standing})
    with Sniffer(tmp_path / "sniffer") as sniffer:
        replayed = await replay(bus, path)
        sent = replayed.stopped["export"]["collectors"]
        sniffer.finish(sum(one["messages_sent"] for one in sent))
    for version, inbox in inboxes.items():
        inbox.close()
        tshark = Tshark(sniffer.path, [inbox.port])
        assert tshark.complaints() == ""
        read = map(dict, data_records(tshark))
        reported = [tuple(int(one[f"cflow.{name}"], 0) for name in FULL) for one in read]
        # routing 1 << 5, destination 1 << 0, hop by hop 1 << 1; MF 32
        assert sorted(reported) == [(0, 0x54321, 0x23, 0, 0), (5, 0, 0, 3, 0x20)], version
