"""Interface names that may reach a backend library, names that must not, and patterns."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import netns
from netsonde.capture.host_links import Link, read_links
from netsonde.capture.interfaces import SEVERAL, choose, find_interfaces, follows_changes
from netsonde.errors import InvalidInterface

ALLOWED = [
    ("af_packet", "lo"),
    ("pcap", "lo"),
    ("pcap", "l*"),
    ("xdp", "lo,l[o]"),
    ("xdp", "lo"),
    ("pf_ring", "lo"),
    ("pf_ring", "lo@0"),
    ("pf_ring", "lo@0-2,5"),
    ("pf_ring", "zc:lo"),
    ("dpdk", "lo"),
    ("dpdk", "0000:03:00.0"),
    ("dpdk", "af:1f.7"),
    ("dpdk", "net_null0"),
    ("dpdk", "net_null12,size=64,copy=1"),
    ("dpdk", "net_ring0"),
    ("dpdk", "net_af_packet0,iface=lo"),
    ("dpdk", "net_af_xdp0,iface=eth0.7,start_queue=1,queue_count=1"),
]

REFUSED = [
    ("af_packet", "nosuch*"),
    ("af_packet", "lo,nosuch0"),
    ("pcap", "lo,"),
    ("dpdk", "lo,lo"),
    ("pf_ring", "l*"),
    ("af_packet", ""),
    ("af_packet", "no\0such"),
    ("xdp", "nosuch0"),
    ("pf_ring", "any"),
    ("pf_ring", "nosuch0"),
    ("pf_ring", "lo;lo"),
    ("pf_ring", "lo@x"),
    ("pf_ring", "zc:nosuch0"),
    ("pf_ring", "pcap:/etc/hostname"),
    ("pf_ring", "stack:lo"),
    ("dpdk", ""),
    ("dpdk", "nosuch0"),
    ("dpdk", "0000:03:00.8"),
    ("dpdk", "0000:03:00.0 --vdev=net_tap0"),
    ("dpdk", "net_null0;flows=1000"),
    ("dpdk", "net_null0,size=x"),
    ("dpdk", "net_null0\n"),
    ("dpdk", "net_pcap0,rx_pcap=/etc/hostname"),
    ("dpdk", "net_pcap0,tx_pcap=out"),
    ("dpdk", "net_tap0"),
    ("dpdk", "net_vhost0,iface=sock"),
    ("dpdk", "net_af_packet0,iface=lo,qpairs=4"),
    ("dpdk", "net_af_xdp0,iface=lo,xdp_prog=evil.o"),
]


@pytest.mark.parametrize(("backend", "name"), ALLOWED)
def test_valid_interface_is_accepted(backend: str, name: str) -> None:
    assert find_interfaces(backend, name) == (("lo",) if backend in SEVERAL else (name,))


@pytest.mark.parametrize(("backend", "name"), REFUSED)
def test_invalid_interface_is_rejected(backend: str, name: str) -> None:
    with pytest.raises(InvalidInterface) as refused:
        find_interfaces(backend, name)
    assert refused.value.field == "$.interface"


def test_file_names_are_rejected_with_the_right_backend() -> None:
    for backend, name in (("dpdk", "net_pcap0,rx_pcap=x"), ("pf_ring", "pcap:x")):
        with pytest.raises(InvalidInterface, match='backend "file"'):
            find_interfaces(backend, name)


def test_backends_for_one_interface_say_so() -> None:
    for backend, name in (("dpdk", "any"), ("dpdk", "lo,lo"), ("pf_ring", "l*")):
        with pytest.raises(InvalidInterface, match="captures from one interface"):
            find_interfaces(backend, name)


# ---- patterns --------------------------------------------------------------------------------


def host(**lower: str) -> dict[str, Link]:
    """Makes a host of devices, each with the names of the devices below it."""
    index = {name: number for number, name in enumerate(lower, 1)}
    return {
        name: Link(name, index[name], name == "lo", frozenset(index[one] for one in below.split()))
        for name, below in lower.items()
    }


PLAIN = host(lo="", eth0="", eth1="", wlan0="")
BOND = host(lo="", eth0="", eth1="", bond0="eth0 eth1", vlan5="bond0", br0="vlan5 tap0", tap0="")


@pytest.mark.parametrize(
    ("links", "text", "chosen"),
    [
        (PLAIN, "any", "eth0 eth1 wlan0"),
        (PLAIN, "eth1,eth0", "eth1 eth0"),
        (PLAIN, " eth1 , eth1,eth*", "eth1 eth0"),
        (PLAIN, "*", "eth0 eth1 lo wlan0"),
        (PLAIN, "eth[1-9],wl*", "eth1 wlan0"),
        (PLAIN, "nosuch0,eth*", "nosuch0 eth0 eth1"),
        (PLAIN, "x*", ""),
        (BOND, "any", "eth0 eth1 tap0"),
        (BOND, "bond0,any", "bond0 eth0 eth1 tap0"),
        (BOND, "bond*", "bond0"),
        (BOND, "bond*,vlan*,br*", "bond0"),
        (BOND, "bond0,vlan5,br0", "bond0 vlan5 br0"),
        (BOND, "vlan*,br*", "vlan5"),
        (BOND, "br*", "br0"),
        (BOND, "eth0,br*", "eth0"),
        (BOND, "br0,e*", "br0 eth0 eth1"),
        (host(a="b", b="a"), "*", "a"),
    ],
)
def test_patterns_count_each_packet_once(links: dict[str, Link], text: str, chosen: str) -> None:
    assert choose(text, links) == tuple(chosen.split())


def test_a_name_with_pattern_characters_is_a_name() -> None:
    assert choose("e*0", host(**{"e*0": "", "eth0": ""})) == ("e*0",)


def test_only_patterns_follow_changes() -> None:
    assert follows_changes("af_packet", "any")
    assert follows_changes("xdp", "lo,eth*")
    assert not follows_changes("af_packet", "lo,eth0")
    assert not follows_changes("dpdk", "net_null0,size=64")
    assert not follows_changes("file", "*.pcap")


def test_a_session_has_at_most_64_interfaces(monkeypatch: pytest.MonkeyPatch) -> None:
    many = host(**{f"veth{number}": "" for number in range(65)})
    monkeypatch.setattr("netsonde.capture.interfaces.read_links", lambda: many)
    with pytest.raises(InvalidInterface, match=r"65 interfaces.*at most 64"):
        find_interfaces("af_packet", "veth*")
    assert len(find_interfaces("af_packet", "veth[0-9],veth[1-5][0-9]")) == 60


# ---- the kernel's links ----------------------------------------------------------------------


@pytest.fixture
def wire() -> Iterator[netns.Wire]:
    made = netns.Wire().create()
    yield made
    made.delete()


def test_links_of_the_kernel(wire: netns.Wire) -> None:
    for words in (
        "link add ve0 type veth peer name ve1",
        "link add br0 type bridge",
        "link set ve0 master br0",
        "link add link br0 name mac0 type macvlan",
    ):
        wire.host_ip(*words.split())
    links = netns.in_namespace(wire.host, read_links)
    index = {name: link.ifindex for name, link in links.items()}
    below = {name: {one for one in links if index[one] in links[name].lower} for name in links}
    assert below == {
        "lo": set(),
        "sonde0": set(),
        "ve0": set(),
        "ve1": set(),
        "br0": {"ve0"},
        "mac0": {"br0"},
    }
    assert [name for name, link in links.items() if link.loopback] == ["lo"]
    assert choose("any", links) == ("sonde0", "ve0", "ve1")
    assert choose("br*", links) == ("br0",)
