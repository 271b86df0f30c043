"""Batches as the collector reads them, and the ledger of batches received."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from netsonde.collect.batches import UnreadableError, read_batch
from netsonde.collect.ledger import BOOTS_MAX, Gap, Ledger


def payload() -> dict[str, Any]:
    records = [
        {"flow_id": f"{number:016x}", "packets": 2, "bytes": 80, "protocol": "UDP"}
        for number in range(3)
    ]
    return {"host": "alpha", "boot": "b", "seq": 1, "session_id": "s", "records": records}


@given(seqs=st.lists(st.integers(1, 60), max_size=120))
def test_ledger_is_a_set_of_sequence_numbers(seqs: list[int]) -> None:
    ledger, seen = Ledger(), set[int]()
    for seq in seqs:
        assert ledger.note("a", "b", seq) == (seq not in seen)
        seen.add(seq)
    ledger = msgspec.json.decode(msgspec.json.encode(ledger), type=Ledger)
    missing = {seq for gap in ledger.gaps() for seq in range(gap.first, gap.last + 1)}
    assert missing == set(range(1, max(seen, default=0))) - seen


def test_ledger_forgets_the_oldest_boots_in_order_of_arrival() -> None:
    """A host whose clock was set back returns with a boot name that sorts before the others."""
    ledger = Ledger()
    boots = [f"{number:04x}" for number in range(BOOTS_MAX, -1, -1)]
    for boot in boots:
        assert ledger.note("a", boot, 1)
    assert not ledger.note("a", boots[-1], 1)
    assert list(ledger.seen["a"]) == boots[1:]


def test_joining_late_is_not_a_gap() -> None:
    ledger = Ledger(from_one=False)
    for seq in (7, 8, 11):
        ledger.note("a", "b", seq)
    assert list(ledger.gaps()) == [Gap("a", "b", 9, 10)]


def test_json_and_messagepack_records_are_equal() -> None:
    whole = payload()
    headers = {"Content-Type": "application/msgpack"}
    for record, time_ns in zip(whole["records"], (0, 1, 1_767_323_045_678_901_234), strict=True):
        record["first_seen"] = time_ns
    packed = read_batch(msgspec.msgpack.encode(whole), headers)
    times = [record["first_seen"] for record in packed.objects()]
    assert times[-1] == "2026-01-02T03:04:05.678901234Z"
    for record, time in zip(whole["records"], times, strict=True):
        record["first_seen"] = time
    plain = read_batch(msgspec.json.encode(whole), None)
    assert plain.objects() == packed.objects() == whole["records"]
    assert plain.lines_and_counts() == packed.lines_and_counts()


@pytest.mark.parametrize("record", [1, [], None, {"first_seen": "never"}, {"first_seen": 0.5}])
def test_malformed_record_raises(record: Any) -> None:
    data = msgspec.msgpack.encode({**payload(), "records": [record]})
    batch = read_batch(data, {"Content-Type": "application/msgpack"})
    with pytest.raises(UnreadableError):
        batch.objects()


def test_malformed_batch_raises() -> None:
    for data, headers in (
        (b"{", None),
        (b"{}", None),
        (b"", {"Content-Type": "text/plain"}),
        (b"", {"Content-Type": "application/ipfix"}),
        (b"\xc1", {"Content-Type": "application/msgpack"}),
        (msgspec.json.encode({**payload(), "records": [msgspec.Raw(b"[" * 10**5)]}), None),
    ):
        with pytest.raises(UnreadableError):
            read_batch(data, headers)
