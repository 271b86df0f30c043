"""The ledger of a followed stream: gaps and duplicates."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from netsonde.fleet.stream import WINDOW, Ledger


def note(ledger: Ledger, seq: int, boot: str = "b1", host: str = "web1") -> bool:
    return ledger.note(host, boot, seq)


def test_joining_late_or_a_restart_is_not_a_gap() -> None:
    ledger = Ledger()
    assert all(note(ledger, seq) for seq in (7, 8))
    assert note(ledger, 1, boot="b2")
    assert note(ledger, 3, host="web2")
    assert (ledger.missed, ledger.repeated) == (0, 0)


def test_late_batches_fill_counted_gaps() -> None:
    ledger = Ledger()
    assert [note(ledger, seq) for seq in (1, 2, 6)] == [True, True, True]
    assert ledger.missed == 3
    assert note(ledger, 4)
    assert not note(ledger, 4)
    assert (ledger.missed, ledger.repeated) == (2, 1)


@given(st.permutations(range(2, 60)))
def test_batches_in_any_order_leave_no_gap(order: list[int]) -> None:
    ledger = Ledger()
    note(ledger, 1)
    assert all(note(ledger, seq) for seq in order)
    assert not any(note(ledger, seq) for seq in order)
    assert ledger.missed == 0


def test_huge_gap_uses_bounded_memory() -> None:
    ledger = Ledger()
    note(ledger, 1)
    note(ledger, 10**12)
    assert len(ledger.pages["web1"].missing) <= WINDOW
