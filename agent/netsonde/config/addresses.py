"""Which address a collector of NetFlow may have, and its one spelling. A leaf."""

from __future__ import annotations

import ipaddress


def collector_address(text: str) -> str:
    """The address as the core and every table spell it; ValueError says why it is none.

    Two spellings of one address are one collector. Nothing is asked of a resolver: whom the
    records go to must not depend on one.
    """
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        raise ValueError(f"{text[:64]!r} is not an IPv4 or IPv6 address") from None
    if address.version == 6 and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    if address.is_unspecified:
        raise ValueError(f"{text} is nobody's address")
    if address.is_multicast or address == ipaddress.IPv4Address("255.255.255.255"):
        raise ValueError(f"{text} is not the address of one collector")
    if address.version == 6 and address.is_link_local and address.scope_id is None:
        raise ValueError(f"{text} is link-local: say by which interface, as in fe80::1%eth0")
    return str(address)


def endpoint(address: str, port: int) -> str:
    """`198.18.0.1:2055`, `[fd00::1]:2055`"""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
