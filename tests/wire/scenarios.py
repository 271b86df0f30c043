"""Small captures made by hand, each for one rule of docs/flow-record.md.

A scenario is a function that returns packets. golden/<its name>.pcap holds those packets, and
golden/<its name>.jsonl the records that a meter must produce, written by hand from the rules.
`python tests/wire/scenarios.py` rewrites the pcaps; test_golden.py checks that they are current.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from packets import (
    ACK,
    ARP,
    FIN,
    ICMP,
    IPV6,
    LLDP,
    PSH,
    RST,
    SECOND_NS,
    SYN,
    TCP,
    UDP,
    Packet,
    arp,
    at,
    ethernet,
    icmp,
    ipv4,
    ipv6,
    tcp,
    udp,
    write_pcap,
)

GOLDEN = Path(__file__).with_name("golden")
START_NS = 1_767_225_600 * SECOND_NS  # 2026-01-01T00:00:00Z
MS_NS = 1_000_000
YEAR_NS = 365 * 86_400 * SECOND_NS
A, B = "10.0.0.1", "10.0.0.2"
GRE, IPIP = 47, 4

SCENARIOS: dict[str, Callable[[], list[Packet]]] = {}


def scenario(make: Callable[[], list[Packet]]) -> Callable[[], list[Packet]]:
    SCENARIOS[make.__name__.replace("_", "-")] = make
    return make


def datagram(ms: int, port: int, payload: bytes = b"12345678") -> Packet:
    """Returns a UDP packet A → B from `port` to 53, with 36 bytes of IP."""
    return at(START_NS + ms * MS_NS, ethernet(ipv4(udp(payload, port, 53), UDP, A, B)))


def segment(ms: int, flags: int, payload: bytes = b"", *, back: bool = False) -> Packet:
    """Returns a TCP segment between A:40000 and B:80: 40 bytes of IP and the payload."""
    source, dest, ports = (B, A, (80, 40000)) if back else (A, B, (40000, 80))
    return at(START_NS + ms * MS_NS, ethernet(ipv4(tcp(payload, *ports, flags), TCP, source, dest)))


def handshake(ms: int) -> list[Packet]:
    return [segment(ms, SYN), segment(ms + 1, SYN | ACK, back=True), segment(ms + 2, ACK)]


def fins(ms: int) -> list[Packet]:
    """Both sides close; the last ACK follows both FINs."""
    return [
        segment(ms, FIN | ACK),
        segment(ms + 1, FIN | ACK, back=True),
        segment(ms + 2, ACK),
    ]


# ---- timeouts ------------------------------------------------------------------------------


@scenario
def idle_timeout() -> list[Packet]:
    """Three flows of two packets each, 299.999, 300.000 and 300.001 s apart."""
    return [
        datagram(0, 1001),
        datagram(1, 1002),
        datagram(2, 1003),
        datagram(299_999, 1001),
        datagram(300_001, 1002),
        datagram(300_003, 1003),
    ]


@scenario
def active_timeout() -> list[Packet]:
    """One flow; a segment's time starts with its first packet, and 60.000 s end the segment."""
    return [datagram(ms, 1001) for ms in (0, 59_999, 60_000, 119_999, 120_001)]


@scenario
def empty_segment() -> list[Packet]:
    """Flow 1001 is silent after a segment was sent; flow 1002 advances the time."""
    return [datagram(0, 1001), datagram(1, 1002), datagram(100_000, 1002), datagram(301_000, 1002)]


# ---- clocks --------------------------------------------------------------------------------


@scenario
def equal_times() -> list[Packet]:
    return [datagram(0, 1001) for _ in range(3)]


@scenario
def reversed_times() -> list[Packet]:
    """Packets are out of order by seconds; neither time nor timeouts run backwards."""
    return [datagram(ms, 1001) for ms in (10_000, 5_000, 7_000, 10_001)]


@scenario
def year_jump() -> list[Packet]:
    """The clock jumps ten years ahead and back: one flow ends idle, the rest is one flow."""
    later = START_NS + 10 * YEAR_NS
    first = datagram(0, 1001)
    return [first, at(later, first.data), at(later + SECOND_NS, first.data), datagram(2_000, 1001)]


@scenario
def long_silence() -> list[Packet]:
    """Two hours without packets, then a few: the first flow ended long before."""
    return [datagram(0, 1001), datagram(7_200_000, 1002), datagram(7_200_001, 1002)]


# ---- TCP ends ------------------------------------------------------------------------------


@scenario
def tcp_close() -> list[Packet]:
    """FIN both ways. The last ACK, 2 ms later, belongs to the flow. Another flow advances time by 5
    s."""
    data = [segment(10, PSH | ACK, b"GET /"), segment(11, PSH | ACK, b"200 OK", back=True)]
    return [*handshake(0), *data, *fins(20), datagram(5_100, 1001)]


@scenario
def tcp_half_close() -> list[Packet]:
    """A FIN in one direction does not end the flow."""
    half = [segment(10, FIN | ACK), segment(11, ACK, back=True)]
    return [*handshake(0), *half, datagram(10_000, 1001), segment(10_001, ACK, b"more", back=True)]


@scenario
def tcp_reset() -> list[Packet]:
    """A reset ends the flow after the linger time; a late packet within it starts no new flow."""
    return [
        *handshake(0),
        segment(10, RST | ACK, back=True),
        segment(1_000, ACK),
        datagram(6_100, 1001),
    ]


@scenario
def syn_reuse() -> list[Packet]:
    """The same ports, one second after the close, start a new flow at once."""
    return [*handshake(0), *fins(10), *handshake(1_000)]


# ---- keys ----------------------------------------------------------------------------------


@scenario
def icmp_pairs() -> list[Packet]:
    """An echo and its reply are one flow. An error is a separate flow; the packet it quotes is
    not."""
    quoted = ipv4(udp(b"12345678", 1001, 53), UDP, A, B)
    return [
        at(START_NS, ethernet(ipv4(icmp(8), ICMP, A, B))),
        at(START_NS + MS_NS, ethernet(ipv4(icmp(0), ICMP, B, A))),
        at(START_NS + 2 * MS_NS, ethernet(ipv4(icmp(3, 3, bytes(4) + quoted), ICMP, B, A))),
    ]


@scenario
def fragments() -> list[Packet]:
    """Later fragments inherit the first one's ports. Without a first fragment, ports are 0."""
    whole = udp(bytes(24), 1001, 53)
    parts = [
        ipv4(whole[:16], UDP, A, B, ident=7, more_fragments=True),
        ipv4(whole[16:24], UDP, A, B, ident=7, more_fragments=True, fragment_offset=16),
        ipv4(whole[24:], UDP, A, B, ident=7, fragment_offset=24),
        ipv4(bytes(8), UDP, A, B, ident=8, fragment_offset=16),
    ]
    return [at(START_NS + n * MS_NS, ethernet(part)) for n, part in enumerate(parts)]


@scenario
def vlan_keys() -> list[Packet]:
    """One address pair untagged, tagged 42, and tagged 10/20: three flows. The tag's priority bits
    are not part of the id."""
    datagram_42 = ipv4(udp(b"12345678", 1001, 53), UDP, A, B)
    stacks = [(), (42,), (10, 20), (42 | 5 << 13,)]
    return [
        at(START_NS + n * MS_NS, ethernet(datagram_42, vlans=stack))
        for n, stack in enumerate(stacks)
    ]


@scenario
def tunnels() -> list[Packet]:
    """With [flows] tunnel = "inner" the innermost IP header makes the flow. Records have the type,
    the id and the addresses of the innermost tunnel."""
    outer = ("198.51.100.1", "198.51.100.2")

    def inside(port: int) -> bytes:
        return ipv4(udp(b"12345678", port, 53), UDP, A, B)

    def vxlan(port: int) -> bytes:
        return udp(bytes.fromhex("0800000000109200") + ethernet(inside(port)), 50000, 4789)

    geneve = bytes.fromhex("0000655800109300") + ethernet(inside(1002))
    gre_key = bytes.fromhex("200008000a0b0c0d") + inside(1003)
    erspan = bytes.fromhex("100088be00000001100a0c2a00000000") + ethernet(inside(1004))
    gtpu = bytes.fromhex("30ff002400abcdef") + inside(1005)
    teredo = ipv6(udp(b"12345678", 1008, 53), UDP, "2001:0:1::1", "2001:0:1::2")
    nested = bytes.fromhex("00000800") + ipv4(vxlan(1009), UDP, "192.0.2.1", "192.0.2.2")
    frames = [
        ethernet(ipv4(vxlan(1001), UDP, *outer)),
        ethernet(ipv4(udp(geneve, 50000, 6081), UDP, *outer)),
        ethernet(ipv4(gre_key, GRE, *outer)),
        ethernet(ipv4(erspan, GRE, *outer)),
        ethernet(ipv4(udp(gtpu, 2152, 2152), UDP, *outer)),
        ethernet(ipv4(inside(1006), IPIP, *outer)),
        ethernet(ipv6(inside(1007), IPIP, "2001:db8::1", "2001:db8::2"), IPV6),
        ethernet(ipv4(udp(teredo, 3544, 3544), UDP, *outer)),
        ethernet(ipv4(nested, GRE, *outer)),
    ]
    return [at(START_NS + n * MS_NS, frame) for n, frame in enumerate(frames)]


@scenario
def lengths() -> list[Packet]:
    """IP total length 0 (TSO), a length beyond the wire's, and Ethernet padding, which does not
    count as IP."""
    body = udp(bytes(100), 1001, 53)
    padded = ethernet(ipv4(udp(b"", 1001, 53), UDP, A, B))
    return [
        at(START_NS, ethernet(ipv4(body, UDP, A, B, total_length=0))),
        at(START_NS + MS_NS, ethernet(ipv4(body, UDP, A, B, total_length=1500))),
        at(START_NS + 2 * MS_NS, padded + bytes(60 - len(padded))),
    ]


@scenario
def non_flow() -> list[Packet]:
    """Packets without an IP header are counted by cause and start no flow."""
    return [
        at(START_NS, ethernet(arp(A, B), ARP)),
        at(START_NS + MS_NS, ethernet(bytes(46), LLDP)),
        at(START_NS + 2 * MS_NS, ethernet(bytes(46), 0x88B5)),  # local experimental
        at(START_NS + 3 * MS_NS, ethernet(ipv6(udp(b"x", 1, 2), UDP, "fd00::1", "fd00::2"), IPV6)),
    ]


# ---- time and order --------------------------------------------------------------------------


def shake(micros: int, flags: int, *, back: bool = False) -> Packet:
    """Returns a segment of a handshake, `micros` after the start."""
    made = segment(0, flags, back=back)
    return at(START_NS + micros * 1000, made.data)


@scenario
def synack_first() -> list[Packet]:
    """The SYN-ACK arrives before the SYN that it answers, which is 100 µs older."""
    return [shake(100, SYN | ACK, back=True), shake(0, SYN), shake(200, ACK), shake(300, PSH | ACK)]


@scenario
def ack_first() -> list[Packet]:
    """A handshake that arrives backwards."""
    return [shake(200, ACK), shake(100, SYN | ACK, back=True), shake(0, SYN)]


@scenario
def rst_first() -> list[Packet]:
    """The reset arrives before the SYN that it refuses, which is 200 µs older: one flow."""
    return [shake(200, RST | ACK, back=True), shake(0, SYN)]


@scenario
def five_seconds_late() -> list[Packet]:
    """The second packet is 5 s older than the first one, too late to correct the start."""
    return [datagram(5_000, 1001), datagram(0, 1001), datagram(6_000, 1001)]


@scenario
def late_after_reuse() -> list[Packet]:
    """A packet of the closed connection arrives after the SYN of the next one, and is older."""
    last = segment(950, ACK, back=True)
    return [
        *handshake(0),
        *fins(10),
        segment(1_000, SYN),
        last,
        segment(1_001, SYN | ACK, back=True),
    ]


if __name__ == "__main__":
    import encapsulations

    GOLDEN.mkdir(exist_ok=True)
    for title, made in encapsulations.EVERY.items():
        write_pcap(GOLDEN / f"{title}.pcap", made())
