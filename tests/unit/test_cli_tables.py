"""Tables, plain in a pipe and drawn on a terminal, and the units in their cells."""

from __future__ import annotations

import io

import pytest

from netsonde.cli.tables import align_table, drawn_table, duration, endpoint, print_table

COLUMNS = ("HOST", "PACKETS", "FILTER")
ROWS = [("web1", 1234567, "tcp[13] == 2"), ("db-long-name", 8, "[red]")]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_pipe_gets_aligned_columns_and_bare_numbers() -> None:
    assert align_table(COLUMNS, ROWS) == (
        "HOST          PACKETS  FILTER\n"
        "web1          1234567  tcp[13] == 2\n"
        "db-long-name        8  [red]\n"
    )
    assert align_table(COLUMNS, []) == "HOST  PACKETS  FILTER\n"


def test_terminal_gets_grouped_numbers() -> None:
    terminal = Terminal()
    print_table(COLUMNS, ROWS, terminal)
    for text in ("web1", "1,234,567", "tcp[13] == 2", "[red]"):
        assert text in terminal.getvalue()


WIDE = ("HOST", "STATE", "SOURCE", "DESTINATION", "PACKETS")
FLOWS = [
    ("fra-edge-router-1", "running", "[2001:db8:10:4::beef:1001]:52044", "198.51.100.77:80", 12345),
    ("web1", "no session", "-", "-", 0),
]


@pytest.mark.parametrize(
    ("width", "lines"),
    [
        (
            80,
            [
                "HOST               STATE       SOURCE",
                "    DESTINATION       PACKETS",
                "─" * 63,
                "fra-edge-router-1  running     [2001:db8:10:4::beef:1001]:52044",
                "    198.51.100.77:80   12,345",
                "web1               no session  -",
                "    -                       0",
            ],
        ),
        (
            120,
            [
                f"HOST               STATE       SOURCE{' ' * 28}DESTINATION       PACKETS",
                "─" * 90,
                "fra-edge-router-1  running     [2001:db8:10:4::beef:1001]:52044  "
                "198.51.100.77:80   12,345",
                f"web1               no session  -{' ' * 33}-                       0",
            ],
        ),
    ],
)
def test_row_that_is_too_long_for_the_terminal_continues_on_a_line(
    width: int, lines: list[str]
) -> None:
    shown = drawn_table(WIDE, FLOWS, width).plain
    assert shown.splitlines() == lines


def test_cell_that_is_too_long_for_the_terminal_stays_whole() -> None:
    assert drawn_table(("A", "B"), [("x" * 30, 1)], 20).plain.splitlines()[3:] == [
        "x" * 30,
        "    1",
    ]


def test_pipe_gets_no_escape_sequences() -> None:
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
def test_show_duration_picks_the_unit(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_endpoint_brackets_ipv6() -> None:
    assert endpoint("198.18.0.1", 80) == "198.18.0.1:80"
    assert endpoint("fd00::1", 80) == "[fd00::1]:80"
    assert endpoint("198.18.0.1", 0) == "198.18.0.1"
