"""Tables: drawn on a terminal, aligned plain text in a pipe.

Cells are strings or numbers. Numbers are aligned right and have thousands separators only on a
terminal. Also formats durations and endpoints, and shortens texts.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from typing import TYPE_CHECKING, TextIO, TypeAlias

from .output import put_lines
from .output import visible as visible

if TYPE_CHECKING:
    from rich.text import Text

Cell: TypeAlias = str | int | float

UNITS = ("", "k", "M", "G", "T", "P")
GAP = "  "
INDENT = "    "
RULE = "─"
DRAWN_MAX = 5000  # rows


def print_table(
    columns: Sequence[str], rows: Iterable[Sequence[Cell]], out: TextIO | None = None
) -> None:
    """rows: can be iterated more than once. A table of more than DRAWN_MAX rows is plain text also
    on a terminal."""
    out = sys.stdout if out is None else out
    if out.isatty() and len(first := list(islice(rows, DRAWN_MAX + 1))) <= DRAWN_MAX:
        from rich.console import Console

        console = Console(file=out, highlight=False)
        console.print(drawn_table(columns, first, console.width), soft_wrap=True)
    else:
        for line in aligned_lines(columns, rows):
            put_lines(line, out=out)


def align_table(columns: Sequence[str], rows: Iterable[Sequence[Cell]]) -> str:
    """Renders plain text with two spaces between columns."""
    return "".join(f"{line}\n" for line in aligned_lines(columns, rows))


def aligned_lines(columns: Sequence[str], rows: Iterable[Sequence[Cell]]) -> Iterator[str]:
    """Yields the lines of align_table. The text of a large table is never whole in memory. Iterates
    over the rows twice."""
    right = [True] * len(columns)
    widths = [len(column) for column in columns]
    for row in rows:
        for index, cell in enumerate(row):
            widths[index] = max(widths[index], len(plain(cell)))
            if isinstance(cell, str):
                right[index] = False
    for row in chain([columns], rows):
        cells = [
            plain(cell).rjust(width) if is_number else plain(cell).ljust(width)
            for cell, width, is_number in zip(row, widths, right, strict=True)
        ]
        yield "  ".join(cells).rstrip()


def drawn_table(columns: Sequence[str], rows: Sequence[Sequence[Cell]], width: int) -> Text:
    """Renders a table for a terminal. If it is too wide, each row continues on further lines, which
    are indented: a cell is never broken."""
    from rich.text import Text

    right = [all(not isinstance(row[at], str) for row in rows) for at in range(len(columns))]
    table = [columns, *([grouped(cell) for cell in row] for row in rows)]
    widths = [max(len(row[at]) for row in table) for at in range(len(columns))]
    groups = line_groups(widths, width)
    lines: list[str] = []
    for row in table:
        for number, group in enumerate(groups):
            cells = (
                row[at].rjust(widths[at]) if right[at] else row[at].ljust(widths[at])
                for at in group
            )
            lines.append((INDENT * (number > 0) + GAP.join(cells)).rstrip())
    lines.insert(len(groups), RULE * min(width, max(map(len, lines))))
    text = Text("\n".join(lines))
    text.stylize("bold", 0, sum(len(line) + 1 for line in lines[: len(groups)]))
    return text


def line_groups(widths: Sequence[int], width: int) -> list[list[int]]:
    """Distributes columns over as few lines as possible."""
    groups: list[list[int]] = [[]]
    used = 0
    for column, needed in enumerate(widths):
        if groups[-1] and used + len(GAP) + needed > width:
            groups.append([])
            used = len(INDENT) - len(GAP)
        groups[-1].append(column)
        used += needed + len(GAP) * (used > 0)
    return groups


def plain(cell: Cell) -> str:
    return f"{cell:.2f}" if isinstance(cell, float) else visible(str(cell))


def grouped(cell: Cell) -> str:
    if isinstance(cell, float):
        return f"{cell:,.2f}"
    return f"{cell:,}" if isinstance(cell, int) else visible(cell)


def duration(seconds: float) -> str:
    """Formats seconds: `42s`, `3m07s`, `5h02m`, `9d04h`."""
    whole = int(seconds)
    for unit, size, rest_unit, rest_size in (
        ("d", 86_400, "h", 3_600),
        ("h", 3_600, "m", 60),
        ("m", 60, "s", 1),
    ):
        if whole >= size:
            return f"{whole // size}{unit}{whole % size // rest_size:02d}{rest_unit}"
    return f"{whole}s"


def endpoint(ip: str, port: int) -> str:
    """Formats `198.18.0.1:80` or `[fd00::1]:80`; for port 0 only the address."""
    if port == 0:
        return ip
    return f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}"


def scaled(value: float | None) -> str:
    """Formats a number with a decimal unit: `950`, `1.2k`, `34M`; `-` without a value."""
    if value is None:
        return "-"
    size = 0
    while value >= 999.5 and size < len(UNITS) - 1:
        value, size = value / 1000, size + 1
    digits = 1 if size and value < 9.95 else 0
    return f"{value:.{digits}f}{UNITS[size]}"


def cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"


def cut_endpoint(text: str, width: int) -> str:
    """Shortens the address and keeps the port: `[2001:db8:0:7…]:443`."""
    if len(text) <= width:
        return text
    head, bracket, port = text.rpartition("]:") if text.startswith("[") else (text, "", "")
    tail = f"…{bracket}{port}"
    return head[: max(0, width - len(tail))] + tail
