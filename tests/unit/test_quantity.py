"""Numbers with their nouns."""

from __future__ import annotations

import pytest

from netsonde.wire.quantity import counted


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 batches"), (1, "1 batch"), (2, "2 batches"), (1000, "1000 batches")]
)
def test_counted(count: int, text: str) -> None:
    assert counted(count, "batch", "batches") == text


def test_an_s_is_the_default() -> None:
    assert [counted(count, "host") for count in (0, 1, 2)] == ["0 hosts", "1 host", "2 hosts"]
