"""`netsonde config check|show|schema`: works on the configuration without an agent."""

from __future__ import annotations

import re
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any

import msgspec

from ..config.file import DEFAULT_PATH, load
from ..config.masking import mask_all
from ..config.schema import json_schema
from ..errors import EXIT_OK
from .output import put, put_json, put_lines


class ConfigCommand:
    """Check or show the configuration, or print its schema.

    check   validates the file and the environment
    show    prints the resulting configuration with all defaults, without passwords
    schema  prints the JSON Schema of the configuration file
    """

    name = "config"

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("action", choices=["check", "show", "schema"])
        parser.add_argument("--config", metavar="FILE", help=f"default: {DEFAULT_PATH}")
        parser.add_argument("--json", action="store_true", help="show: print one JSON object")

    def run(self, args: Namespace) -> int:
        if args.action == "schema":
            put_lines(msgspec.json.format(msgspec.json.encode(json_schema())).decode())
            return EXIT_OK
        path = Path(args.config) if args.config else None
        loaded = load(path)
        if args.action == "check":
            source = path or DEFAULT_PATH
            put(f"{source}: valid" if source.exists() else f"{source}: missing, defaults apply")
        elif args.json:
            put_json(mask_all(msgspec.to_builtins(loaded)))
        else:
            put_lines(render_toml(mask_all(msgspec.to_builtins(loaded))))
        return EXIT_OK


def render_toml(sections: dict[str, Any]) -> str:
    """Renders a configuration as TOML. Strings, numbers and booleans are the same in JSON."""
    lines = []
    for section, keys in sections.items():
        lines.append(f"[{section}]")
        lines += [f"{key} = {render_value(value)}" for key, value in keys.items()]
        lines.append("")
    return "\n".join(lines[:-1]) + "\n"


def render_value(value: object) -> str:
    if isinstance(value, dict):
        pairs = (f"{render_key(key)} = {render_value(item)}" for key, item in value.items())
        return "{ " + ", ".join(pairs) + " }" if value else "{}"
    if isinstance(value, list):
        return "[" + ", ".join(map(render_value, value)) + "]"
    return msgspec.json.encode(value).decode()


def render_key(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else render_value(key)
