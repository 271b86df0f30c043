"""Batches as the collector reads them, and the ledger of batches received."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from netsonde.collect import ledger as ledger_module
from netsonde.collect.batches import UnreadableError, WrongHostError, read_batch
from netsonde.collect.ledger import BOOTS_MAX, Gap, Ledger
from netsonde.wire.subjects import stream_host

SUBJECT = "capture.stream.flows.alpha"


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
    runs = sum(seq - 1 not in seen for seq in seen)
    assert ledger.ranges == runs  # neighbours are joined, so the state stays small
    ledger = msgspec.json.decode(msgspec.json.encode(ledger), type=Ledger)
    assert ledger.ranges == runs
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


def test_boots_with_many_batches_survive_invented_ones() -> None:
    ledger = Ledger()
    for seq in range(1, 15):
        assert ledger.note("a", "real", seq)
    for number in range(10 * BOOTS_MAX):
        assert ledger.note("a", f"invented-{number}", 1)
    assert not any(ledger.note("a", "real", seq) for seq in range(1, 15))
    assert len(ledger.seen["a"]) == BOOTS_MAX
    assert ledger.forgotten.boots == 10 * BOOTS_MAX + 1 - BOOTS_MAX


def test_hosts_with_several_batches_survive_invented_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger_module, "HOSTS_MAX", 100)
    ledger = Ledger()
    real = [f"real-{number}" for number in range(60)]
    for host in real:
        for seq in (1, 2):
            assert ledger.note(host, "b", seq)
    for number in range(1000):
        assert ledger.note(f"invented-{number}", "b", 1)
    assert not any(ledger.note(host, "b", seq) for host in real for seq in (1, 2))
    assert len(ledger.seen) == 100
    assert ledger.forgotten.hosts == 1000 + 60 - 100


@given(
    notes=st.lists(
        st.tuples(st.integers(0, 30), st.integers(0, 80), st.integers(1, 300)), max_size=600
    )
)
def test_the_ledger_is_bounded_and_counts_what_it_forgets(
    notes: list[tuple[int, int, int]],
) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(ledger_module, "HOSTS_MAX", 10)
        patched.setattr(ledger_module, "RANGES_MAX", 40)
        ledger = Ledger()
        for host, boot, seq in notes:
            ledger.note(str(host), str(boot), seq)
            assert len(ledger.seen) <= 10
            assert ledger.ranges <= 40
        copied = msgspec.json.decode(msgspec.json.encode(ledger), type=Ledger)
        assert copied == ledger  # also the number of ranges, which is counted again


def test_missing_batches_of_forgotten_holes_stay_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger_module, "RANGES_MAX", 40)
    ledger, count = Ledger(), 500
    for number in range(count):
        ledger.note("a", "b", 3 * number + 1)  # two are missing after each
    missing = sum(gap.batches for gap in ledger.gaps()) + ledger.forgotten.batches
    assert missing == 2 * (count - 1)


def test_a_batch_is_of_the_host_in_its_subject() -> None:
    data = msgspec.json.encode(payload())
    for subject in ("capture.stream.flows.alpha", "a.stream.flows.b.stream.flows.alpha.3"):
        assert read_batch(subject, data, None).host == "alpha"
    for subject in ("capture.stream.flows.beta", "capture.stream.flows.beta.1", "alpha", ""):
        with pytest.raises(WrongHostError):
            read_batch(subject, data, None)
    assert stream_host("capture.stream.events.alpha.audit") == "alpha"
    assert stream_host("capture.stream.metrics.alpha") == "alpha"
    assert stream_host("capture.stream.flows.alpha.beta") is None


@pytest.mark.parametrize("field", ["host", "session_id"])
def test_a_record_cannot_name_a_host(field: str) -> None:
    whole = payload()
    whole["records"][1][field] = "beta"
    batch = read_batch(SUBJECT, msgspec.json.encode(whole), None)
    for read in (batch.objects, batch.lines_and_counts):
        with pytest.raises(WrongHostError):
            read()


@pytest.mark.parametrize(
    ("first", "last", "expected"),
    [
        ("2026-01-02T03:04:05.000000900Z", "2026-01-02T03:04:05.000001800Z", 0),
        ("2026-01-02T03:04:05.000000900Z", "2026-01-02T03:04:05.000001900Z", 1),
        ("2025-12-31T23:59:59.999999999Z", "2026-01-01T00:00:01.000000000Z", 1_000_000),
        ("2026-01-01T00:00:00Z", "2026-01-01T00:00:00.5Z", 500_000),
        ("2026-01-01T00:00:00Z", "never", None),
    ],
)
def test_lines_have_the_duration(first: str, last: str, expected: int | None) -> None:
    whole = payload()
    whole["records"] = [{"packets": 1, "first_seen": first, "last_seen": last}]
    lines, _ = read_batch(SUBJECT, msgspec.json.encode(whole), None).lines_and_counts()
    assert msgspec.json.decode(lines[0]).get("duration_us") == expected


def test_a_reply_of_jetstream_is_not_a_batch() -> None:
    """JetStream sends its replies to whatever subject a request names."""
    data = b'{"host":"alpha","boot":"b","seq":1,"session_id":"s","records":[]}'
    with pytest.raises(WrongHostError, match="JetStream"):
        read_batch("capture.stream.flows.alpha", data, {"Nats-Stream": "KV_capture-hosts"})


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
    packed = read_batch(SUBJECT, msgspec.msgpack.encode(whole), headers)
    times = [record["first_seen"] for record in packed.objects()]
    assert times[-1] == "2026-01-02T03:04:05.678901234Z"
    for record, time in zip(whole["records"], times, strict=True):
        record["first_seen"] = time
    plain = read_batch(SUBJECT, msgspec.json.encode(whole), None)
    assert plain.objects() == packed.objects() == whole["records"]
    assert plain.lines_and_counts() == packed.lines_and_counts()


@pytest.mark.parametrize("record", [1, [], None, {"first_seen": "never"}, {"first_seen": 0.5}])
def test_malformed_record_raises(record: Any) -> None:
    data = msgspec.msgpack.encode({**payload(), "records": [record]})
    batch = read_batch(SUBJECT, data, {"Content-Type": "application/msgpack"})
    with pytest.raises(UnreadableError):
        batch.objects()


def test_malformed_batch_raises() -> None:
    for data, headers in (
        (b"{", None),
        (b"{}", None),
        (b"", {"Content-Type": "text/plain"}),
        (b"", {"Content-Type": "application/ipfix"}),
        (msgspec.json.encode({**payload(), "seq": 0}), None),
        (msgspec.json.encode({**payload(), "boot": "b" * 65}), None),
        (msgspec.json.encode({**payload(), "session_id": "s" * 256}), None),
        (b"\xc1", {"Content-Type": "application/msgpack"}),
        (msgspec.json.encode({**payload(), "records": [msgspec.Raw(b"[" * 10**5)]}), None),
    ):
        with pytest.raises(UnreadableError):
            read_batch(SUBJECT, data, headers)
