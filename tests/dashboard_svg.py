"""Draws panels of a Grafana dashboard as SVG, without Grafana: values and time series on the
dashboard's grid, with its titles, units and legends."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any, NamedTuple

COLUMN, ROW = 50, 30  # pixels of the grid
GAP = 8
TEXT, MUTED, GRID, EDGE, BACK = "#24292e", "#6a737d", "#e3e5e8", "#d5d8dc", "#f4f5f7"
COLOURS = ("#3274d9", "#e0752d", "#2f9e5b", "#a352cc", "#c4162a", "#0f8a9d")
UNITS = {"pps": "p/s", "bps": "b/s", "cps": "c/s", "bytes": "B", "s": "s"}
FONT = "font-family='Helvetica, Arial, sans-serif'"


class Series(NamedTuple):
    """legend: its text below the panel; points: time in seconds and value."""

    legend: str
    points: Sequence[tuple[float, float]]


def number(value: float, unit: str) -> str:
    if unit == "percentunit":
        return f"{value * 100:.3g}%"
    if unit == "s" and value >= 120:
        return f"{value / 60:.3g} min"
    prefix = ""
    for factor, name in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= factor:
            value, prefix = value / factor, name
            break
    return f"{value:.3g} {prefix}{UNITS.get(unit, '')}".rstrip()


def round_step(span: float, steps: int) -> float:
    """Returns the smallest of 1, 2, 2.5, 5 times a power of ten that needs at most `steps`."""
    power = 10.0 ** math.floor(math.log10(span / steps))
    return next(one for factor in (1, 2, 2.5, 5, 10) if (one := factor * power) * steps >= span)


def write(
    x: float, y: float, text: str, size: int = 11, colour: str = MUTED, more: str = ""
) -> str:
    place = f"x='{x:.0f}' y='{y:.0f}' font-size='{size}' fill='{colour}'"
    return f"<text {place} {more}>{escape(text)}</text>"


def draw(panels: Sequence[Mapping[str, Any]], found: Mapping[int, Sequence[Series]]) -> str:
    """Returns the picture. found: the series of each panel by its id."""
    height = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in panels) * ROW
    lines = [
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {24 * COLUMN} {height}' {FONT}>",
        f"<rect width='100%' height='100%' fill='{BACK}'/>",
    ]
    for panel in panels:
        place = panel["gridPos"]
        x, y = place["x"] * COLUMN, place["y"] * ROW
        if panel["type"] == "row":
            lines.append(write(x + GAP, y + 20, panel["title"], 14, TEXT, "font-weight='bold'"))
            continue
        wide, high = place["w"] * COLUMN - GAP, place["h"] * ROW - GAP
        lines.append(f"<g transform='translate({x + GAP / 2:.0f} {y + GAP / 2:.0f})'>")
        lines.append(f"<rect width='{wide}' height='{high}' rx='3' fill='white' stroke='{EDGE}'/>")
        lines.append(write(8, 17, panel["title"], 11, TEXT, "font-weight='bold'"))
        unit = panel["fieldConfig"]["defaults"].get("unit", "short")
        series = found[panel["id"]]
        if panel["type"] == "stat":
            lines.extend(draw_value(series, unit, wide, high))
        else:
            lines.extend(draw_series(series, unit, wide, high))
        lines.append("</g>")
    return "\n".join([*lines, "</svg>", ""])


def draw_value(series: Sequence[Series], unit: str, wide: int, high: int) -> Iterator[str]:
    text = number(series[0].points[-1][1], unit) if series else "No data"
    yield write(wide / 2, high * 0.68, text, 26, COLOURS[2], "text-anchor='middle'")


def draw_series(series: Sequence[Series], unit: str, wide: int, high: int) -> Iterator[str]:
    left, right, top, bottom = 58, wide - 10, 30, high - 44
    points = [point for one in series for point in one.points]
    if not points:
        yield write(wide / 2, high / 2, "No data", 14, MUTED, "text-anchor='middle'")
        return
    lowest = min(0.0, *(value for _, value in points))
    step = round_step((max(value for _, value in points) - lowest) or 1.0, 4)
    lowest = math.floor(lowest / step) * step
    span = 4 * step
    first, last = min(time for time, _ in points), max(time for time, _ in points)

    def place(time: float, value: float) -> tuple[float, float]:
        x = left + (right - left) * (time - first) / ((last - first) or 1.0)
        return x, bottom - (bottom - top) * (value - lowest) / span

    for value in (lowest + step * index for index in range(5)):
        _, y = place(first, value)
        yield f"<path d='M{left} {y:.1f}H{right}' stroke='{GRID}'/>"
        yield write(left - 6, y + 4, number(value, unit), 10, MUTED, "text-anchor='end'")
    for index, anchor in enumerate(("start", "middle", "end")):
        x = left + (right - left) * index / 2
        ago = round((last - first) * (2 - index) / 2)
        label = f"-{ago} s" if ago else "now"
        yield write(x, bottom + 15, label, 10, MUTED, f"text-anchor='{anchor}'")
    at = left
    for index, one in enumerate(series):
        colour = COLOURS[index % len(COLOURS)]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in (place(*point) for point in one.points))
        yield f"<polyline points='{path}' fill='none' stroke='{colour}' stroke-width='1.5'/>"
        if at + 14 + 6 * len(one.legend) <= wide:
            yield f"<rect x='{at}' y='{high - 16}' width='10' height='3' fill='{colour}'/>"
            yield write(at + 14, high - 11, one.legend, 10, TEXT)
        at += 28 + 6 * len(one.legend)
