"""The result table: each measurement, its reference, and whether it meets its limit."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

HEADS = ("measure", "netsonde", "reference", "ratio", "limit", "")
KEPT, MISSED, UNMEASURED, BELOW_GOAL = "ok", "MISSED", "NOT MEASURED", "below goal"


@dataclass(frozen=True)
class Row:
    measure: str
    ours: str
    reference: str = ""
    ratio: str = ""
    limit: str = ""
    verdict: str = ""


def show_rate(per_second: Sequence[float]) -> str:
    """Returns the median in millions and the range."""
    low, middle, high = min(per_second), statistics.median(per_second), max(per_second)
    return f"{middle / 1e6:.2f} ({low / 1e6:.2f}–{high / 1e6:.2f})"


def compare_rates(
    measure: str, ours: Sequence[float], peer: Sequence[float], name: str, limit: float | None
) -> Row:
    """Rates, of which more is better. Without a limit the row is for information."""
    ratio = statistics.median(ours) / statistics.median(peer)
    verdict = "" if limit is None else KEPT if ratio >= limit else MISSED
    return Row(
        measure,
        show_rate(ours),
        f"{name} {show_rate(peer)}",
        f"{ratio:.1f}×",
        "" if limit is None else f"≥ {limit:g}×",
        verdict,
    )


def rate_row(measure: str, ours: Sequence[float], goal: float | None = None) -> Row:
    """A rate without a reference. Missing a goal is shown but is no failure."""
    if goal is None:
        return Row(measure, show_rate(ours))
    verdict = KEPT if statistics.median(ours) >= goal else BELOW_GOAL
    return Row(measure, show_rate(ours), limit=f"goal {goal / 1e6:g}", verdict=verdict)


def memory_row(measure: str, mebibytes: float, limit: float) -> Row:
    verdict = KEPT if mebibytes <= limit else MISSED
    return Row(measure, f"{mebibytes:.1f} MiB", limit=f"≤ {limit:g} MiB", verdict=verdict)


def compare_costs(
    measure: str,
    unit: str,
    ours: Sequence[float],
    other: Sequence[float],
    name: str,
    limit: float,
    *,
    goal: bool = False,
) -> Row:
    """A cost that must not exceed a reference by more than `limit`. Missing a goal is shown but is
    no failure."""
    ratio = statistics.median(ours) / statistics.median(other)
    shown = [
        f"{statistics.median(values):.1f} ({min(values):.1f}–{max(values):.1f}) {unit}"
        for values in (ours, other)
    ]
    verdict = KEPT if ratio <= limit else BELOW_GOAL if goal else MISSED
    bound = f"{'goal' if goal else '≤'} {limit:g}×"
    return Row(measure, shown[0], f"{name} {shown[1]}", f"{ratio:.2f}×", bound, verdict)


def latency_row(
    measure: str,
    seconds: Sequence[float],
    limit_ms: float,
    *,
    reference: str = "",
    miss: str = MISSED,
) -> Row:
    """The 99th percentile of times. miss: BELOW_GOAL if the limit is only a goal."""
    reached_ms = p99_ms(seconds)
    verdict = KEPT if reached_ms <= limit_ms else miss
    shown, limit = f"{reached_ms:.1f} ms", f"≤ {limit_ms:g} ms"
    return Row(f"{measure}, p99", shown, reference, limit=limit, verdict=verdict)


def p99_ms(seconds: Sequence[float]) -> float:
    return statistics.quantiles(seconds, n=100)[98] * 1000


def unmeasured_row(measure: str, reason: str) -> Row:
    return Row(measure, "–", reason, verdict=UNMEASURED)


def render(rows: Sequence[Row]) -> str:
    cells = [
        HEADS,
        *[(r.measure, r.ours, r.reference, r.ratio, r.limit, r.verdict) for r in rows],
    ]
    widths = [max(len(row[i]) for row in cells) for i in range(len(HEADS))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in cells
    ]
    lines.insert(1, "  ".join("─" * width for width in widths))
    return "\n".join(lines)
