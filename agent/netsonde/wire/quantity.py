"""Writes a number with its noun: `1 host`, `2 hosts`."""

from __future__ import annotations


def counted(count: int, one: str, many: str = "") -> str:
    """Returns the number and its noun. many: for a number other than 1; by default with an s."""
    return f"{count} {one if count == 1 else many or one + 's'}"
