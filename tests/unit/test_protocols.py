"""Protocols by name or number."""

from __future__ import annotations

import re
import socket
from pathlib import Path

import pytest

from netsonde.wire.protocols import NAMES, protocol_name, protocol_number

TABLE = Path(__file__).parents[2] / "native" / "export" / "protocol.c"


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("TCP", 6),
        ("udp", 17),
        ("ICMPv6", 58),
        ("0", 0),
        ("255", 255),
        ("256", None),
        ("0000006", None),
        ("-1", None),
        ("²", None),
        ("", None),
        ("quic", None),
    ],
)
def test_protocol_number_by_name_or_digits(text: str, number: int | None) -> None:
    assert protocol_number(text) == number


def test_names_match_the_records() -> None:
    names = re.findall(r'^  X\((\w+), "(\w+)"\)', TABLE.read_text(), re.MULTILINE)
    assert sorted(name for _, name in names) == sorted(NAMES.values())
    for number, name in names:
        if number.isdigit():
            assert protocol_name(int(number)) == name
    assert protocol_name(253) == "253"


def test_numbers_are_those_of_the_system() -> None:
    """The C library has them from IANA's registry."""
    names = ("ICMP", "TCP", "UDP", "GRE", "ESP", "AH", "SCTP", "PIM", "RSVP", "UDPLite", "IPv6")
    for name in names:
        number = getattr(socket, f"IPPROTO_{name.upper()}", None)
        if number is not None:
            assert protocol_name(number) == name
            assert protocol_number(name.lower()) == number
