"""IPFIX templates (RFC 7011 §3.4.1), and the offsets of a batch's columns in its data records.

All data records of a template have the same size: the only variable field, the interface's
name, is constant within a batch. So each field is mapped once per template. Every length is
checked against the message. Malformed sets are skipped.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache

from ..core.ipfix import (
    HEX,
    IPV4,
    IPV6,
    MAC,
    NUMBER_KINDS,
    SUM,
    Column,
    Field,
    RecordReader,
    ipfix_rows,
    ipfix_sets,
)
from .batches import Counts

REVERSE = 29305  # RFC 5103
VARIABLE = 65535
TEMPLATE_SET, DATA_SET_MIN = 2, 256

Element = tuple[int, int]  # enterprise, number

_1, _2, _4, _8 = (NUMBER_KINDS[size] for size in (1, 2, 4, 8))
# Column and kind of each element.
_COLUMNS: dict[Element, tuple[str, int]] = {
    (0, 2): ("packets", _8),
    (0, 1): ("bytes", _8),
    (0, 352): ("l2_bytes", _8),
    (REVERSE, 2): ("reverse_packets", _8),
    (REVERSE, 1): ("reverse_bytes", _8),
    (REVERSE, 352): ("reverse_l2_bytes", _8),
    (0, 4): ("protocol_number", _1),
    (0, 7): ("source_port", _2),
    (0, 11): ("dest_port", _2),
    (0, 60): ("ip_version", _1),
    (0, 6): ("tcp_flags", _1),
    (REVERSE, 6): ("reverse_tcp_flags", _1),
    (0, 5): ("tos", _1),
    (0, 52): ("ttl_min", _1),
    (0, 53): ("ttl_max", _1),
    (0, 152): ("first_seen", _8),
    (0, 153): ("last_seen", _8),
    (0, 136): ("end_reason", _1),
    (0, 61): ("direction", _1),
    (0, 10): ("ingress_ifindex", _4),
    (0, 14): ("egress_ifindex", _4),
    (0, 8): ("source_ip", IPV4),
    (0, 12): ("dest_ip", IPV4),
    (0, 27): ("source_ip", IPV6),
    (0, 28): ("dest_ip", IPV6),
    (0, 56): ("source_mac", MAC),
    (0, 80): ("dest_mac", MAC),
    (0, 148): ("flow_id", HEX),
}
# Elements that agents send and that have no column here.
_WITHOUT_COLUMN = frozenset(
    (0, number) for number in (31, 58, 64, 70, 82, 88, 197, 239, 243, 244, 245, 351)
)
_SUMMED = {
    element: name.removeprefix("reverse_")
    for element, (name, _) in _COLUMNS.items()
    if name.removeprefix("reverse_") in ("packets", "bytes")
}


@dataclass(frozen=True, eq=False)
class Template:
    fields: tuple[tuple[Element, int], ...]  # element, bytes

    @cached_property
    def fixed_bytes(self) -> int:
        return sum(size for _, size in self.fields if size != VARIABLE)

    @cached_property
    def variable(self) -> int:
        return sum(size == VARIABLE for _, size in self.fields)

    @cached_property
    def offsets(self) -> list[tuple[Element, int, int]]:
        """The fields of fixed size: element, offset, bytes."""
        found, at = [], 0
        for element, size in self.fields:
            if size == VARIABLE:
                break
            found.append((element, at, size))
            at += size
        return found

    @cached_property
    def columns(self) -> dict[str, Field]:
        """The known fields by column; those with a wrong size are skipped."""
        found = {}
        for element, at, size in self.offsets:
            if element in _COLUMNS:
                name, kind = _COLUMNS[element]
                field = Field(at, size, kind)
                if field.is_sound:
                    found[name] = field
        return found

    @cached_property
    def is_known(self) -> bool:
        return all(one in _COLUMNS or one in _WITHOUT_COLUMN for one, _ in self.fields)

    @cached_property
    def summed(self) -> list[tuple[str, Field]]:
        """The fields that are added up to packets and bytes."""
        fields = [
            (_SUMMED[element], Field(at, size, SUM))
            for element, at, size in self.offsets
            if element in _SUMMED
        ]
        return [(name, field) for name, field in fields if field.is_sound]


@dataclass(frozen=True, slots=True)
class Records:
    """The data records of one template in a batch."""

    data: bytes
    set_id: int
    template: Template
    record_bytes: int
    interface: bytes

    @property
    def rows(self) -> int:
        return ipfix_rows(self.data, self.set_id, self.record_bytes)


def read_records(data: bytes) -> Iterator[Records]:
    """Yields the data records of a batch, by template."""
    templates: dict[int, Template] = {}
    sets = ipfix_sets(data)
    for set_id, at, size in sets:
        if set_id == TEMPLATE_SET:
            templates |= _learn(data[at : at + size])
    for set_id, at, size in sets:
        template = templates.get(set_id)
        if template is None:
            continue
        found = _measure(data, at, size, template)
        if found is not None:
            yield Records(data, set_id, template, *found)


def has_unknown_elements(data: bytes) -> bool:
    return any(not records.template.is_known for records in read_records(data))


def count_records(data: bytes) -> Counts:
    """Counts the records, packets and bytes of a batch."""
    totals = {"packets": bytearray(8), "bytes": bytearray(8)}
    rows_all = 0
    for records in read_records(data):
        summed = [(field, Column(totals[name])) for name, field in records.template.summed]
        reader = RecordReader(records.record_bytes, summed)
        rows_all += reader.read(data, records.set_id, 0)
    packets, octets = (int.from_bytes(total, sys.byteorder) for total in totals.values())
    return rows_all, packets, octets


@lru_cache(256)
def _learn(body: bytes) -> dict[int, Template]:
    """Parses a template set. Cached, since each batch repeats it: do not modify the result."""
    at, templates = 0, dict[int, Template]()
    while at + 4 <= len(body):
        number, count = struct.unpack_from("!HH", body, at)
        at += 4
        if number < DATA_SET_MIN:
            break  # padding
        fields: list[tuple[Element, int]] = []
        for _ in range(count):
            if at + 4 > len(body):
                return templates
            element, size = struct.unpack_from("!HH", body, at)
            at += 4
            enterprise = 0
            if element & 0x8000:
                if at + 4 > len(body):
                    return templates
                (enterprise,) = struct.unpack_from("!I", body, at)
                at += 4
            fields.append(((enterprise, element & 0x7FFF), size))
        templates[number] = Template(tuple(fields))
    return templates


def _measure(data: bytes, at: int, size: int, template: Template) -> tuple[int, bytes] | None:
    """Returns the record size and the interface's name, from a template's first set. Returns
    None if the set is malformed."""
    record_bytes, name = template.fixed_bytes, b""
    if template.variable:
        # The variable field is last: one byte of length, then the name.
        last = template.fields[-1][1] == VARIABLE and template.variable == 1
        if not last or size <= record_bytes or data[at + record_bytes] == 255:
            return None
        name_bytes = data[at + record_bytes]
        name = data[at + record_bytes + 1 : at + min(record_bytes + 1 + name_bytes, size)]
        record_bytes += 1 + name_bytes
    if record_bytes == 0 or size < record_bytes:
        return None
    return record_bytes, name
