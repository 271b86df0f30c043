"""The only place that prints text. Text from hosts may hold terminal escapes.

Control characters, invisible characters and characters that change the reading direction are
replaced; in JSON they are escaped, so no byte is lost. tests/style/test_output.py checks that
nothing else in the package prints.
"""

from __future__ import annotations

import sys
from typing import Any, TextIO

import msgspec

from ..fleet.packed import Packed

REPLACEMENT = "\ufffd"


def visible(text: str) -> str:
    """Replaces each character that a terminal does not show as itself, line ends included."""
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else REPLACEMENT for one in text)


def json_text(value: Any) -> str:
    """Returns one line of JSON with only printable characters."""
    return escape_json(msgspec.json.encode(value, enc_hook=_unpack).decode())


def _unpack(value: object) -> msgspec.Raw:
    """A hook of msgspec, which asks for NotImplementedError if a type is not known."""
    if isinstance(value, Packed):
        return msgspec.Raw(value.text)
    raise NotImplementedError(f"{type(value).__name__} is not JSON")


def escape_json(text: str) -> str:
    """Escapes unprintable characters of JSON text. They occur only inside strings."""
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else _escape(one) for one in text)


def _escape(one: str) -> str:
    units = one.encode("utf-16-be")
    return "".join(f"\\u{units[i]:02x}{units[i + 1]:02x}" for i in range(0, len(units), 2))


def put(text: str = "", *, flush: bool = False) -> None:
    """Prints one line on standard output."""
    _write(sys.stdout, visible(text), flush=flush)


def put_json(value: Any) -> None:
    """Prints one line of JSON on standard output."""
    _write(sys.stdout, json_text(value))


def put_lines(text: str, *, flush: bool = False, out: TextIO | None = None) -> None:
    """Prints a text with several lines on standard output."""
    for line in text.removesuffix("\n").split("\n"):
        _write(out or sys.stdout, visible(line))
    if flush:
        (out or sys.stdout).flush()


def say(text: str) -> None:
    """Prints one line on standard error."""
    _write(sys.stderr, visible(text), flush=True)


def notify(text: str) -> None:
    """Prints one line about the command itself on standard error."""
    say(f"netsonde: {text}")


def _write(out: TextIO, line: str, *, flush: bool = False) -> None:
    out.write(f"{line}\n")
    if flush:
        out.flush()
