"""IP protocol names: as flow records show them, and for requests that ask by name.

The same table as in native/export/protocol.c. Requests may use any case.
"""

from __future__ import annotations

NAMES = {
    1: "ICMP",
    2: "IGMP",
    4: "IPIP",
    6: "TCP",
    17: "UDP",
    33: "DCCP",
    41: "IPv6",
    46: "RSVP",
    47: "GRE",
    50: "ESP",
    51: "AH",
    58: "ICMPv6",
    88: "EIGRP",
    89: "OSPF",
    97: "EtherIP",
    103: "PIM",
    108: "IPComp",
    112: "VRRP",
    115: "L2TP",
    132: "SCTP",
    135: "Mobility",
    136: "UDPLite",
    137: "MPLS",
    139: "HIP",
}
_NUMBERS = {name.lower(): number for number, name in NAMES.items()}


def protocol_name(number: int) -> str:
    """Returns the name in records, or the number as text if the protocol has no name."""
    return NAMES.get(number, str(number))


def protocol_number(text: str) -> int | None:
    """Returns the number of a name or of a decimal number 0…255, else None."""
    if text.isascii() and text.isdigit() and int(text[:4]) <= 255 and len(text) <= 3:
        return int(text)
    return _NUMBERS.get(text.lower())
