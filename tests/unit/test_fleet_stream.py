"""The gap counter of a followed stream: gaps and duplicates."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from netsonde.fleet.stream import WINDOW, GapCounter


def note(counter: GapCounter, seq: int, boot: str = "b1", host: str = "web1") -> bool:
    return counter.note(host, boot, seq)


def test_joining_late_or_a_restart_is_not_a_gap() -> None:
    counter = GapCounter()
    assert all(note(counter, seq) for seq in (7, 8))
    assert note(counter, 1, boot="b2")
    assert note(counter, 3, host="web2")
    assert (counter.missed, counter.repeated) == (0, 0)


def test_late_batches_fill_counted_gaps() -> None:
    counter = GapCounter()
    assert [note(counter, seq) for seq in (1, 2, 6)] == [True, True, True]
    assert counter.missed == 3
    assert note(counter, 4)
    assert not note(counter, 4)
    assert (counter.missed, counter.repeated) == (2, 1)


@given(st.permutations(range(2, 60)))
def test_batches_in_any_order_leave_no_gap(order: list[int]) -> None:
    counter = GapCounter()
    note(counter, 1)
    assert all(note(counter, seq) for seq in order)
    assert not any(note(counter, seq) for seq in order)
    assert counter.missed == 0


def test_huge_gap_uses_bounded_memory() -> None:
    counter = GapCounter()
    note(counter, 1)
    note(counter, 10**12)
    assert len(counter.pages["web1"].missing) <= WINDOW
