"""Addresses of NetFlow and IPFIX collectors, in canonical form."""

from __future__ import annotations

import ipaddress


def collector_address(text: str) -> str:
    """Returns the canonical address, or raises ValueError with the reason.

    Two spellings of one address are one collector. Names are rejected: the destination of
    records must not depend on a resolver.
    """
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        raise ValueError(f"{text[:64]!r} is not an IPv4 or IPv6 address") from None
    if address.version == 6 and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    if address.is_unspecified:
        raise ValueError(f"{text} is the unspecified address")
    if address.is_multicast or address == ipaddress.IPv4Address("255.255.255.255"):
        raise ValueError(f"{text} is a multicast or broadcast address")
    if address.version == 6 and address.is_link_local and address.scope_id is None:
        raise ValueError(f"{text} is link-local: add the interface, as in fe80::1%eth0")
    return str(address)


def endpoint(address: str, port: int) -> str:
    """`198.18.0.1:2055`, `[fd00::1]:2055`"""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
