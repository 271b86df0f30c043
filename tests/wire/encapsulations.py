"""Scenarios of link types, Ethernet encapsulations and tunnels: one datagram each way, wrapped.

Each wrapped pair is one flow A:1001 → B:53 of two packets with 36 bytes of IP each. Scenarios of a
tunnel need `[flows] tunnel = "inner"`; the first line of their golden records says so.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

from scenarios import MS_NS, SCENARIOS, START_NS, A, B

from packets import UDP, Packet, at, ethernet, ipv4, ipv6, udp

CUSTOM_VXLAN_PORT = 14_789

Wrap = Callable[[bytes], bytes]


def pair(wrap: Wrap, linktype: int = 1) -> list[Packet]:
    there = ipv4(udp(b"12345678", 1001, 53), UDP, A, B)
    back = ipv4(udp(b"12345678", 53, 1001), UDP, B, A)
    return [at(START_NS, wrap(there), linktype), at(START_NS + MS_NS, wrap(back), linktype)]


def add(name: str, wrap: Wrap, linktype: int = 1) -> None:
    SCENARIOS[name] = lambda: pair(wrap, linktype)


def prefix(text: str) -> Wrap:
    """Returns a wrap that puts these hexadecimal bytes before the datagram."""
    head = bytes.fromhex(text)
    return lambda datagram: head + datagram


def frame(ethertype: int, header: str, *, bridged: bool = False) -> Wrap:
    """Returns a wrap: Ethernet, a header in hexadecimal, then IP or an Ethernet frame."""
    head = bytes.fromhex(header)

    def wrap(datagram: bytes) -> bytes:
        return ethernet(head + (ethernet(datagram) if bridged else datagram), ethertype)

    return wrap


def outer(port: int, header: str, *, bridged: bool = True) -> Wrap:
    """Returns a wrap: a UDP tunnel between two other hosts, with the header in hexadecimal."""
    head = bytes.fromhex(header)

    def wrap(datagram: bytes) -> bytes:
        inside = head + (ethernet(datagram) if bridged else datagram)
        return ethernet(ipv4(udp(inside, 50_000, port), UDP, "10.9.0.1", "10.9.0.2"))

    return wrap


def nflog(order: str) -> Wrap:
    """Returns a wrap: a netfilter log message in the byte order of its host."""

    def value(kind: int, data: bytes) -> bytes:
        return struct.pack(order + "HH", 4 + len(data), kind) + data + bytes(-len(data) % 4)

    return lambda datagram: (
        struct.pack("!BBH", 2, 0, 5)
        + value(1, b"\x08\0\1\0")
        + value(10, b"log:\0")
        + value(9, datagram)
    )


LLC = "aaaa030000000800"
WLAN = "0801 0000 020000000001 020000000002 020000000003 1000"
QOS = "8801 0000 020000000001 020000000002 020000000003 1000 0000"
ADDRESSES = "020000000002 020000000001"

# ---- link types ------------------------------------------------------------------------------

add("chdlc", prefix("0f000800"), 104)
add("ppp-chdlc", prefix("0f000800"), 9)
add("ppp-serial-chdlc", prefix("8f000800"), 50)
add("chdlc-direction", prefix("00 0f000800"), 205)
add("ppp-direction", prefix("00 ff030021"), 204)
add("frame-relay", prefix("1841 03cc"), 107)
add("fddi", prefix("50" + ADDRESSES + LLC), 10)
add("token-ring", prefix("1040" + ADDRESSES + LLC), 6)
add("wlan", prefix(WLAN + LLC), 105)
add("radiotap", prefix("00000800 00000000" + QOS + LLC), 127)
add("radiotap-padded", prefix("00000900 02000000 20" + QOS + "0000" + LLC), 127)
add("prism", prefix("44000000 90000000" + "00" * 136 + WLAN + LLC), 119)
add("avs", prefix("80211001 00000040" + "00" * 56 + WLAN + LLC), 163)
add("ppi", prefix("00000800 01000000" + ADDRESSES + "0800"), 192)
add("ppi-wlan", prefix("00000800 69000000" + WLAN + LLC), 192)
add("nflog", nflog("<"), 239)
add("nflog-big-endian", nflog(">"), 239)
add("pflog", prefix("3d020000" + "656d30" + "00" * 53 + "01000000"), 117)
add("ipsec-enc", prefix("02000000 00000000 00000000"), 109)
add("pppoe", prefix("11000001 ffff 0021"), 51)

# ---- Ethernet encapsulations -----------------------------------------------------------------

add("backbone", frame(0x88E7, "00001388", bridged=True))
add("nsh-1", frame(0x894F, "0fc60101 000100ff" + "00" * 16))
add("nsh-2", frame(0x894F, "0fc20201 000100ff"))
add("nsh-ethernet", frame(0x894F, "0fc20203 000100ff", bridged=True))
add("e-tag", frame(0x893F, "000000010000 0800"))
add("fabricpath", frame(0x8903, "0420", bridged=True))
add("cisco-metadata", frame(0x8909, "0101 0001 0005 0800"))
add("trill", frame(0x22F3, "003f 0001 0002", bridged=True))
add("macsec-clear", frame(0x88E5, "0000 00000001 0800"))
add("priority-tag", lambda datagram: ethernet(datagram, vlans=[5 << 13]))
add("inner-priority-tag", lambda datagram: ethernet(datagram, vlans=[10, 5 << 13]))
add("outer-priority-tag", lambda datagram: ethernet(datagram, vlans=[0, 10]))

# ---- tunnels ---------------------------------------------------------------------------------

add("vxlan-8472", outer(8472, "08000000 00004d00"))
add("vxlan-custom", outer(CUSTOM_VXLAN_PORT, "08000000 00004d00"))
add("vxlan-gpe", outer(4790, "0c000001 00004d00", bridged=False))
add("vxlan-gpe-ethernet", outer(4790, "0c000003 00004d00"))
add("vxlan-gpe-nsh", outer(4790, "0c000004 00004d00 0fc20201 000100ff", bridged=False))


def _priority_tag_one_way() -> list[Packet]:
    """A sends with a priority tag, B without a tag: one flow."""
    tagged, plain = pair(lambda datagram: ethernet(datagram, vlans=[5 << 13])), pair(ethernet)
    return [tagged[0], plain[1]]


def _ipv6_no_next_header() -> list[Packet]:
    """Payload length 0 and next header 59 in a padded frame: 40 bytes. A TSO packet with length 0
    counts as long as it is on the wire."""
    empty = ethernet(ipv6(b"", 59, "fd00::1", "fd00::2"), 0x86DD)
    whole = ipv6(udp(bytes(100), 1001, 53), UDP, "fd00::1", "fd00::2")
    large = ethernet(whole[:4] + b"\0\0" + whole[6:], 0x86DD)
    return [at(START_NS, empty + bytes(60 - len(empty))), at(START_NS + MS_NS, large)]


SCENARIOS["priority-tag-one-way"] = _priority_tag_one_way
SCENARIOS["ipv6-no-next-header"] = _ipv6_no_next_header
EVERY: dict[str, Callable[[], list[Packet]]] = SCENARIOS  # with those of scenarios.py
