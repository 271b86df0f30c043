"""The link types for which a filter is compiled: of interfaces and of capture files."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import pytest

from netsonde.capture import link_types
from netsonde.capture.link_types import ALL, ETHERNET, RAW, SLL2, of_file, of_interfaces

PCAP_MAGICS = (0xA1B2C3D4, 0xA1B23C4D, 0xA1B2CD34)


def file_with(directory: Path, content: bytes) -> int:
    path = directory / "capture"
    path.write_bytes(content)
    return os.open(path, os.O_RDONLY)


def types_of(directory: Path, content: bytes) -> tuple[int, ...]:
    fd = file_with(directory, content)
    try:
        found = of_file(fd)
        assert os.lseek(fd, 0, os.SEEK_CUR) == 0
        return found
    finally:
        os.close(fd)


def pcap(link: int, order: str = "<", magic: int = PCAP_MAGICS[0]) -> bytes:
    return struct.pack(f"{order}IHHiIII", magic, 2, 4, 0, 0, 262_144, link)


def block(order: str, kind: int, body: bytes) -> bytes:
    size = struct.pack(f"{order}I", len(body) + 12)
    return struct.pack(f"{order}I", kind) + size + body + size


def section(order: str = "<") -> bytes:
    return block(order, 0x0A0D0D0A, struct.pack(f"{order}IHHq", 0x1A2B3C4D, 1, 0, -1))


def interface(link: int, order: str = "<") -> bytes:
    return block(order, 1, struct.pack(f"{order}HHI", link, 0, 0))


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("magic", PCAP_MAGICS)
def test_pcap_header_names_one_link_type(tmp_path: Path, order: str, magic: int) -> None:
    assert types_of(tmp_path, pcap(127, order, magic)) == (127,)


def test_upper_bits_of_the_link_type_are_not_part_of_it(tmp_path: Path) -> None:
    assert types_of(tmp_path, pcap(0xF000_0001)) == (ETHERNET,)


@pytest.mark.parametrize("number", [12, 14, 101])
def test_raw_ip_has_several_numbers(tmp_path: Path, number: int) -> None:
    assert types_of(tmp_path, pcap(number)) == (RAW,)
    assert types_of(tmp_path, section() + interface(number)) == (RAW,)


@pytest.mark.parametrize("order", ["<", ">"])
def test_pcapng_names_each_link_type_once(tmp_path: Path, order: str) -> None:
    content = section(order) + b"".join(
        interface(link, order) for link in (ETHERNET, 127, ETHERNET, SLL2)
    )
    other = block(order, 6, bytes(60))
    assert types_of(tmp_path, content + other + interface(9, order)) == (ETHERNET, 127, SLL2, 9)


def test_number_of_link_types_is_bounded(tmp_path: Path) -> None:
    many = b"".join(interface(link) for link in range(200, 300))
    assert types_of(tmp_path, section() + many) == tuple(
        range(200, 200 + link_types.LINK_TYPES_MAX)
    )


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not a capture",
        pcap(1)[:23],
        section(),
        section() + struct.pack("<II", 1, 0),
        section() + struct.pack("<II", 9, 0) * 4096,  # blocks of length 0 end the search
    ],
)
def test_file_without_a_link_type_may_have_all(tmp_path: Path, content: bytes) -> None:
    assert types_of(tmp_path, content) == ALL


def test_only_the_head_of_a_file_is_read(tmp_path: Path) -> None:
    filler = block("<", 6, bytes(link_types.HEAD_BYTES))
    assert types_of(tmp_path, section() + filler + interface(127)) == ALL


def test_loopback_is_ethernet_and_a_missing_interface_may_be_all() -> None:
    assert of_interfaces(["lo"]) == (ETHERNET,)
    assert of_interfaces(["absent0"]) == ALL
    assert of_interfaces([".."]) == ALL


def test_several_interfaces_have_each_link_type_once() -> None:
    assert of_interfaces(["lo", "lo"]) == (ETHERNET,)
    assert of_interfaces(["absent0", "lo"]) == ALL
    assert of_interfaces([]) == ()


@pytest.mark.parametrize(
    ("hardware", "found"),
    [
        (1, (ETHERNET,)),
        (772, (ETHERNET,)),
        (801, (105, 119, 127, 163, 192)),
        (803, (105, 119, 127, 163, 192)),
        (804, ALL),
        (65534, (RAW,)),
        (778, (RAW,)),
        (32, ALL),
    ],
)
def test_hardware_type_decides(
    monkeypatch: pytest.MonkeyPatch, hardware: int, found: tuple[int, ...]
) -> None:
    monkeypatch.setattr(Path, "read_text", lambda _path: f"{hardware}\n")
    assert of_interfaces(["made0"]) == found


def test_an_unknown_interface_may_have_every_link_type() -> None:
    assert of_interfaces(["absent0"]) == (1, 101, 276, 113, 105, 119, 127, 163, 192, 0, 9)
    assert of_interfaces(["lo", "absent0"])[0] == ETHERNET
