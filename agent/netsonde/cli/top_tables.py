"""The tables of `netsonde top` without the screen: no line is longer than the width.

Host names that do not fit are cut with `…`. Addresses stay whole, so that they can be copied: a
flow whose endpoints do not fit on one line has its destination on a second line.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from .flows import COLUMNS as FLOW_COLUMNS
from .metrics import COLUMNS as HOST_COLUMNS
from .tables import Cell, aligned_lines, cut, cut_endpoint, plain, scaled

WIDTH = 80  # without a terminal
GAP = "  "
ARROW = "→ "
HOST_MIN = 10
PROTOCOL_MAX = 9
IPV4_ENDPOINT = 21
HEADINGS = ("HOST", "PROTO", "PKTS", "BYTES", "SOURCE", "DESTINATION")
SHOWN = tuple(
    FLOW_COLUMNS.index(name)
    for name in ("HOST", "PROTOCOL", "PACKETS", "BYTES", "SOURCE", "DESTINATION")
)


def host_lines(rows: Sequence[Sequence[Cell]], width: int) -> list[str]:
    """Renders the rates of hosts, rows of `netsonde metrics`."""
    room = width - sum(
        len(GAP) + longest((name, *(plain(row[index]) for row in rows)))
        for index, name in enumerate(HOST_COLUMNS)
        if index > 0
    )
    kept = [(cut(plain(row[0]), max(HOST_MIN, room)), *row[1:]) for row in rows]
    return list(aligned_lines(HOST_COLUMNS, kept))


def flow_lines(rows: Sequence[Sequence[Cell]], width: int) -> list[str]:
    """Renders flows, rows of `netsonde flows`."""
    flows = [HEADINGS, *(flow_cells(row) for row in rows)]
    hosts, protocols, packets, totals, sources, dests = map(longest, zip(*flows, strict=True))
    fixed = protocols + packets + totals + 4 * len(GAP)
    pair = sources + len(GAP) + dests
    if fixed + min(hosts, HOST_MIN) + pair > width:  # some flows need two lines
        sources = IPV4_ENDPOINT
        pair = max(2 * IPV4_ENDPOINT + len(GAP), longest(cell for row in flows for cell in row[4:]))
    hosts = min(hosts, max(HOST_MIN, width - fixed - pair))
    room = width - fixed - hosts
    lines: list[str] = []
    for host, protocol, packet_count, byte_count, source, dest in flows:
        cells = (
            cut(host, hosts).ljust(hosts),
            protocol.ljust(protocols),
            packet_count.rjust(packets),
            byte_count.rjust(totals),
        )
        lines.extend(endpoint_lines(GAP.join(cells), source, dest, sources, room))
    return lines


def flow_cells(row: Sequence[Cell]) -> Sequence[str]:
    host, protocol, packets, totals, source, dest = (row[index] for index in SHOWN)
    counts = (scaled(float(packets)), scaled(float(totals)))
    return (plain(host), cut(plain(protocol), PROTOCOL_MAX), *counts, plain(source), plain(dest))


def endpoint_lines(head: str, source: str, dest: str, sources: int, room: int) -> Iterator[str]:
    """Yields the line of a flow, or two. sources: width of the column; room: of both columns."""
    if len(source) <= sources and len(dest) <= room - sources - len(GAP):
        yield f"{head}{GAP}{source.ljust(sources)}{GAP}{dest}"
        return
    yield f"{head}{GAP}{cut_endpoint(source, room)}"
    yield f"{' ' * len(head)}{ARROW}{cut_endpoint(dest, room)}"


def longest(texts: Iterable[str]) -> int:
    return max(map(len, texts), default=0)
