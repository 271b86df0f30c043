"""IPFIX batches rendered by the core and read back as columns by the core's decoder."""

from __future__ import annotations

import ipaddress
import json
import random
import struct
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netsonde.collect.batches import IPFIX, Batch, UnreadableError
from netsonde.collect.columns import NULLS, SCHEMA, WORDS, IpfixRows
from netsonde.collect.fields import fit_lines
from netsonde.collect.parquet import ParquetFiles, lines_tables
from netsonde.collect.state import State
from netsonde.collect.templates import count_records
from netsonde.core.capture import FIELD_NAMES, field_bits
from netsonde.core.capture import IPFIX as CODE
from netsonde.core.library import ffi, lib
from netsonde.wire.records import FlowRecord

RECORDS = 200
COMPARED = (
    "source_ip", "dest_ip", "source_port", "dest_port", "protocol_number", "packets", "bytes",
    "reverse_packets", "reverse_bytes", "end_reason", "tcp_flags",
)  # fmt: skip


def render(names: tuple[str, ...] = ()) -> bytes:
    chance = random.Random(5)
    records = ffi.new("struct sonde_record[]", RECORDS)
    for number, record in enumerate(records):
        record.flow_id = chance.getrandbits(64) | 1
        record.first_ns = 1_767_225_600_000_000_000 + number * 1_000_000
        record.last_ns = record.first_ns + chance.randrange(10_000) * 1_000_000
        record.flow_start_ns = record.first_ns
        record.ip_version = chance.choice((4, 4, 6))
        record.protocol = chance.choice((6, 17))
        record.source_port, record.dest_port = chance.randrange(65536), chance.randrange(65536)
        record.end_reason = chance.randrange(1, 6)
        record.has_mac = 1
        record.ifindex, record.direction = chance.randrange(1, 9), chance.choice((1, 2))
        for way in range(2 if number % 3 else 1):
            record.packets[way] = chance.randrange(1, 1 << 40)
            record.bytes[way] = chance.randrange(1, 1 << 50)
            record.l2_bytes[way] = record.bytes[way] + 14 * record.packets[way]
            record.tcp_flags[way] = chance.randrange(256)
        record.tos, record.ttl_min = chance.randrange(256), chance.randrange(100)
        record.ttl_max, record.direction = chance.randrange(100, 256), chance.choice((1, 2))
        for place in range(6):
            record.source_mac[place] = chance.randrange(256)
            record.dest_mac[place] = chance.randrange(256)
        for place in range(16 if record.ip_version == 6 else 4):
            record.source_ip[place] = chance.randrange(256)
            record.dest_ip[place] = chance.randrange(256)
    buffer, batch = ffi.new("uint8_t[]", 262144), ffi.new("struct sonde_batch *")
    status = lib.sonde_records_render_fields(
        records, RECORDS, CODE, field_bits(names), b"eth0", buffer, 262144, batch
    )
    assert status == 0
    assert batch.records == RECORDS
    return bytes(ffi.buffer(buffer, batch.bytes))


@pytest.mark.parametrize("names", [(), COMPARED])
def test_columns_equal_json_lines(names: tuple[str, ...]) -> None:
    data = render(names)
    rows = IpfixRows()
    rows.add(data, "alpha", "s")
    counts = count_records(data)
    found = [row for table in rows.take_tables() for row in table.to_pylist()]
    lines, line_counts = Batch("alpha", "b", 1, "s", IPFIX, [], data).lines_and_counts()
    expected = [json.loads(line) for line in lines]
    assert counts == line_counts
    assert counts[0] == RECORDS
    assert {row["host"] for row in found} == {"alpha"}
    for row in (*found, *expected):
        row["source_ip"] = ipaddress.ip_address(row["source_ip"])

    def key(row: dict[str, object]) -> tuple[str, ...]:
        return tuple(str(row.get(name)) for name in COMPARED)

    assert sorted(map(key, found)) == sorted(map(key, expected))


# Columns that IPFIX batches have no element for; the template's interface is constant.
WITHOUT_ELEMENT = {
    "community_id", "protocol", "vlan", "mpls_label", "icmp_type", "icmp_code", "fragments",
    "retransmissions", "out_of_order", "handshake_rtt_us", "flow_start", "segment", "final",
    "total_packets", "total_bytes", "tunnel", "sampling_interval", "timestamps_late", "more",
    "app", "name", "name_source", "alpn", "tls_version", "ech", "label_state",
    "process", "peer_process",
}  # fmt: skip


def test_each_column_equals_that_of_json_lines() -> None:
    """A table of batches of two hosts, whose rows keep their host and session."""
    data, rows, lines = render(), IpfixRows(), list[bytes]()
    for host, session_id in (("alpha", "s"), ("beta", "t"), ("alpha", "u")):
        rows.add(data, host, session_id)
        batch = Batch(host, "b", 1, session_id, IPFIX, [], data)
        lines += fit_lines(batch.lines_and_counts()[0])
    assert rows.records == 3 * RECORDS
    found = pyarrow.concat_tables(rows.take_tables())
    (expected,) = lines_tables(lines)
    order = [(name, "ascending") for name in ("host", "session_id", "flow_id")]
    plain = [name for name in SCHEMA.names if name != "tunnel"]
    decoded = [table.select(plain).cast(_without_dictionaries(plain)).sort_by(order)
               for table in (found, expected)]  # fmt: skip
    for name in plain:
        ours, theirs = (table.column(name).to_pylist() for table in decoded)
        if name in WITHOUT_ELEMENT:
            assert ours == [None] * 3 * RECORDS, name
        elif name in ("source_ip", "dest_ip"):
            assert list(map(ipaddress.ip_address, ours)) == list(map(ipaddress.ip_address, theirs))
        else:
            assert ours == theirs, name
            assert any(one is not None for one in ours), name
    assert rows.take_tables() == []
    assert rows.records == 0


def _without_dictionaries(names: list[str]) -> pyarrow.Schema:
    return pyarrow.schema(
        [(name, pyarrow.string() if name in WORDS else SCHEMA.field(name).type) for name in names]
    )


def test_missing_elements_are_null_or_zero() -> None:
    """The reverse counters of records without them are 0, other columns are null."""
    rows = IpfixRows()
    elements = [(148, 8), (2, 8), (152, 8)]  # flow_id, packets, first_seen
    rows.add(message(elements, [struct.pack("!QQQ", 1, 7, 1_767_225_600_001)] * 3), "alpha", "s")
    (table,) = rows.take_tables()
    assert table.schema.equals(SCHEMA)
    (row,) = {tuple(one.items()) for one in table.to_pylist()}
    known = {name: value for name, value in row if value is not None}
    assert known.pop("first_seen").isoformat() == "2026-01-01T00:00:00.001000+00:00"
    assert known == {"host": "alpha", "session_id": "s", "flow_id": f"{1:016x}", "packets": 7,
                     "reverse_packets": 0}  # fmt: skip


def test_unknown_end_reasons_are_null() -> None:
    reasons = (0, 1, 5, 6, 255)
    rows = IpfixRows()
    rows.add(
        message([(136, 1), (8, 4)], [bytes((one, 198, 18, 0, 1)) for one in reasons]), "a", "s"
    )
    (table,) = rows.take_tables()
    assert table.column("end_reason").to_pylist() == [None, "idle", "resources", None, None]


def test_table_of_more_rows_than_cached_nulls() -> None:
    rows, data = IpfixRows(), message([(8, 4)], [bytes((198, 18, 0, 1))] * 3000)
    for _ in range(NULLS // 3000 + 1):
        rows.add(data, "alpha", "s")
    (table,) = rows.take_tables()
    assert table.num_rows == (NULLS // 3000 + 1) * 3000 > NULLS
    assert table.column("dest_port").null_count == table.num_rows
    assert set(table.column("source_ip").to_pylist()) == {"198.18.0.1"}


def message(elements: list[tuple[int, int]], records: list[bytes]) -> bytes:
    """Returns an IPFIX message with a template of (element, bytes) and data records."""
    template = struct.pack("!HH", 256, len(elements))
    template += b"".join(struct.pack("!HH", *one) for one in elements)
    sets = struct.pack("!HH", 2, 4 + len(template)) + template
    body = b"".join(records)
    sets += struct.pack("!HH", 256, 4 + len(body)) + body
    return struct.pack("!HHIII", 10, 16 + len(sets), 1_767_225_600, 0, 0) + sets


@settings(deadline=None)
@given(data=st.data())
def test_damaged_messages_do_not_crash_the_reader(data: st.DataObject) -> None:
    whole = bytearray(render()[:4000])
    for _ in range(data.draw(st.integers(0, 20))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    rows = IpfixRows()
    rows.add(bytes(whole), "alpha", "s")
    records = rows.records
    assert count_records(bytes(whole))[0] == records
    assert sum(table.num_rows for table in rows.take_tables()) == records


def test_columns_and_record_type_have_each_field_of_the_core() -> None:
    assert SCHEMA.names == ["host", "session_id", *FIELD_NAMES, "duration_us", "more"]
    assert list(FlowRecord.__struct_fields__) == list(FIELD_NAMES)


def test_field_names_match_the_core() -> None:
    assert FIELD_NAMES[0] == "flow_id"
    assert field_bits([]) == 0
    assert field_bits(["flow_id", "source_ip"]) == 0b101


def test_unknown_elements_are_kept(tmp_path: Path) -> None:
    """A template with an enterprise element, as a newer agent might send it."""
    template = struct.pack("!HH", 256, 2) + struct.pack("!HH", 8, 4)
    template += struct.pack("!HHI", 0x8000 | 77, 4, 999_999)
    sets = struct.pack("!HH", 2, 4 + len(template)) + template
    sets += struct.pack("!HH", 256, 4 + 8) + bytes((198, 18, 0, 1)) + b"\x01\x02\x03\x04"
    data = struct.pack("!HHIII", 10, 16 + len(sets), 1_767_225_600, 0, 0) + sets
    batch = Batch("alpha", "b", 1, "s", IPFIX, [], data, 1)
    files, state = ParquetFiles(tmp_path), State(format="parquet", stream="")
    assert files.add(batch)[0] == 1
    files.commit(state)
    files.rotate(state)
    files.drain(state)
    (row,) = pyarrow.parquet.read_table(next(tmp_path.glob("*.parquet"))).to_pylist()
    assert row["source_ip"] == "198.18.0.1"
    assert json.loads(row["more"])["enterprise_999999_element_77"] == "01020304"


@pytest.mark.parametrize("number", [0, (1 << 63) - 1])
def test_the_largest_counter_fits_its_column(number: int) -> None:
    line = b'{"bytes":%d}' % number
    assert fit_lines([line]) == [line]


def test_a_counter_beyond_its_column_is_malformed() -> None:
    with pytest.raises(UnreadableError):
        fit_lines([b'{"bytes":%d}' % (1 << 63)])
