"""Counting the records of an IPFIX batch: limits of template ids, templates that end early."""

from __future__ import annotations

import struct

import pytest

from netsonde.collect.templates import count_records, read_records


def batch(set_id: int, template: bytes, records: bytes) -> bytes:
    sets = struct.pack("!HH", 2, 4 + len(template)) + template
    sets += struct.pack("!HH", set_id, 4 + len(records)) + records
    return struct.pack("!HHIII", 10, 16 + len(sets), 0, 0, 1) + sets


def template(set_id: int) -> bytes:
    """packets and bytes, 4 octets each, and 8 octets of an unknown enterprise's element."""
    fields = struct.pack("!HHHH", 2, 4, 1, 4) + struct.pack("!HHI", 0x8001, 8, 99)
    return struct.pack("!HH", set_id, 3) + fields


RECORD = struct.pack("!IIQ", 3, 500, 7)


@pytest.mark.parametrize(("set_id", "counts"), [(256, (2, 6, 1000)), (65535, (2, 6, 1000))])
def test_records_packets_and_bytes_are_counted(set_id: int, counts: tuple[int, int, int]) -> None:
    assert count_records(batch(set_id, template(set_id), RECORD * 2)) == counts


@pytest.mark.parametrize("cut", range(1, len(template(256))))
def test_template_that_ends_early_has_no_records(cut: int) -> None:
    assert count_records(batch(256, template(256)[:-cut], RECORD)) == (0, 0, 0)


def test_template_after_padding_is_ignored() -> None:
    padded = struct.pack("!HH", 255, 0) + template(256)
    assert count_records(batch(256, padded, RECORD)) == (0, 0, 0)


def test_records_are_counted_by_template() -> None:
    two = batch(256, template(256), RECORD * 2) + batch(257, template(257), RECORD * 3)
    found = {one.set_id: (one.rows, one.record_bytes) for one in read_records(two)}
    assert found == {256: (2, 16), 257: (3, 16)}
