"""Tables: plain when piped, drawn on a terminal; and the units in them."""

from __future__ import annotations

import io

import pytest

from netsonde.cli.tables import align_table, duration, endpoint, print_table

COLUMNS = ("HOST", "PACKETS", "FILTER")
ROWS = [("web1", 1234567, "tcp[13] == 2"), ("db-long-name", 8, "[red]")]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_pipe_gets_aligned_columns_and_bare_numbers() -> None:
    assert align_table(COLUMNS, ROWS) == (
        "HOST          PACKETS  FILTER\n"
        "web1          1234567  tcp[13] == 2\n"
        "db-long-name        8  [red]\n"
    )
    assert align_table(COLUMNS, []) == "HOST  PACKETS  FILTER\n"


def test_a_terminal_gets_the_same_cells_with_grouped_numbers() -> None:
    terminal = Terminal()
    print_table(COLUMNS, ROWS, terminal)
    for text in ("web1", "1,234,567", "tcp[13] == 2", "[red]"):
        assert text in terminal.getvalue()


def test_without_a_terminal_there_is_no_escape_sequence() -> None:
    out = io.StringIO()
    print_table(COLUMNS, ROWS, out)
    assert out.getvalue() == align_table(COLUMNS, ROWS)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (59.9, "59s"),
        (60, "1m00s"),
        (3599, "59m59s"),
        (18120, "5h02m"),
        (792000, "9d04h"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_endpoints() -> None:
    assert endpoint("198.18.0.1", 80) == "198.18.0.1:80"
    assert endpoint("fd00::1", 80) == "[fd00::1]:80"
    assert endpoint("198.18.0.1", 0) == "198.18.0.1"
