"""Sets one key in a configuration file's text. Comments and other lines stay as they are."""

from __future__ import annotations

import re
import tomllib
from typing import Any

from ..errors import ConfigError
from .environment import typed_value
from .sections import Config
from .template import render_key, render_value

_HEADER = re.compile(r"^\s*\[")


def with_key(text: str, dotted: str, value: str) -> str:
    """Returns the text with `section.key = value`. The type of the key converts the value, as for
    an environment variable. Raises ConfigError."""
    words = dotted.split(".")
    if len(words) < 2:
        raise ConfigError(f"{dotted}: write it as section.key")
    converted = typed_value(dotted, tuple(words), value, Config)
    expected = _parsed(text)
    table: Any = expected
    for word in words[:-1]:
        table = table.setdefault(word, {})
        if not isinstance(table, dict):
            raise ConfigError(f"{dotted}: {word} is not a table")
    table[words[-1]] = converted
    line = f"{render_key(words[-1])} = {render_value(converted)}"
    for section, key, entry in (
        (words[:-1], words[-1], line),
        (words[:1], ".".join(words[1:]), ".".join([*words[1:-1], line])),
    ):
        edited = _edited(text.splitlines(), ".".join(section), key, entry)
        if _parsed_or_none(edited) == expected:
            return edited
    raise ConfigError(f"{dotted}: cannot change this key in the file; edit it by hand")


def _edited(lines: list[str], section: str, key: str, entry: str) -> str:
    """Replaces the key, or its comment, or adds it below the header, or adds the section."""
    header = re.compile(rf"^\s*(#?)\[\s*{re.escape(section)}\s*\]\s*(#.*)?$")
    begin = next((n for n, line in enumerate(lines) if header.match(line)), None)
    if begin is None:
        return "\n".join([*lines, *([""] if lines else []), f"[{section}]", entry, ""])
    if lines[begin].startswith("#"):
        lines = [*lines[:begin], f"[{section}]", *lines[begin + 1 :]]
    rest = range(begin + 1, len(lines))
    end = next((n for n in rest if _HEADER.match(lines[n])), len(lines))
    for mark in (r"\s*", r"#"):
        assigned = re.compile(rf"^{mark}{re.escape(key)}\s*=")
        for number in range(begin + 1, end):
            if assigned.match(lines[number]):
                return "\n".join([*lines[:number], entry, *lines[number + 1 :], ""])
    return "\n".join([*lines[: begin + 1], entry, *lines[begin + 1 :], ""])


def _parsed(text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"not valid TOML: {error}") from None


def _parsed_or_none(text: str) -> dict[str, Any] | None:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return None
