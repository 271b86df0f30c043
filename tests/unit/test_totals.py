"""Counters over the agent's life."""

from __future__ import annotations

from netsonde.capture.totals import SERIES_MAX, Totals

LO = ("lo", "af_packet")


def test_counters_of_ended_sessions_stay() -> None:
    totals = Totals()
    assert totals.shown({LO: {"records": 5}})[LO]["records"] == 5
    totals.add(LO, {"records": 7})
    assert totals.shown({})[LO]["records"] == 7
    assert totals.shown({LO: {"records": 2}})[LO]["records"] == 9


def test_counters_never_decrease() -> None:
    totals = Totals()
    shown = [totals.shown({LO: {"sent": sent, "lost": 10 - sent}})[LO] for sent in (8, 7, 8, 9)]
    assert [one["sent"] for one in shown] == [8, 8, 8, 9]
    assert [one["lost"] for one in shown] == [2, 3, 3, 3]


def test_series_are_bounded() -> None:
    totals = Totals()
    for number in range(SERIES_MAX + 10):
        totals.add((str(number),), {"records": 1})
    assert len(totals.shown({})) == SERIES_MAX


def test_zeros_are_shown() -> None:
    totals = Totals()
    assert totals.shown({LO: {"dropped": 0}})[LO] == {"dropped": 0}
    totals.add(LO, {"dropped": 0})
    assert "dropped" in totals.shown({})[LO]
