"""Interface names that may reach a backend library, and names that must not."""

from __future__ import annotations

import pytest

from netsonde.capture.interfaces import check_interface
from netsonde.errors import InvalidInterface

ALLOWED = [
    ("af_packet", "lo"),
    ("pcap", "lo"),
    ("pcap", "any"),
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
    ("af_packet", "any"),
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
    check_interface(backend, name)


@pytest.mark.parametrize(("backend", "name"), REFUSED)
def test_invalid_interface_is_rejected(backend: str, name: str) -> None:
    with pytest.raises(InvalidInterface) as refused:
        check_interface(backend, name)
    assert refused.value.field == "$.interface"


def test_file_names_are_rejected_with_the_right_backend() -> None:
    for backend, name in (("dpdk", "net_pcap0,rx_pcap=x"), ("pf_ring", "pcap:x")):
        with pytest.raises(InvalidInterface, match='backend "file"'):
            check_interface(backend, name)
