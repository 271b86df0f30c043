"""`netsonde config check|show|schema`: the agent's configuration, without running it."""

from __future__ import annotations

import re
from argparse import ArgumentParser, Namespace
from pathlib import Path

import msgspec

from ..config.file import DEFAULT_PATH, load
from ..config.schema import json_schema
from ..config.sections import Config
from ..errors import EXIT_OK


class ConfigCommand:
    """Check or show the configuration, or print its schema.

    check   reads the file and the environment and says whether an agent would take them
    show    prints what they come to, with all defaults (--json: as one JSON object)
    schema  prints the JSON Schema of the configuration file
    """

    name = "config"

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("action", choices=["check", "show", "schema"])
        parser.add_argument("--config", metavar="FILE", help=f"default: {DEFAULT_PATH}")
        parser.add_argument("--json", action="store_true", help="show: one JSON object")

    def run(self, args: Namespace) -> int:
        if args.action == "schema":
            print(msgspec.json.format(msgspec.json.encode(json_schema())).decode())
            return EXIT_OK
        path = Path(args.config) if args.config else None
        loaded = load(path)
        if args.action == "check":
            source = path or DEFAULT_PATH
            print(f"{source}: good" if source.exists() else f"{source}: absent, defaults apply")
        elif args.json:
            print(msgspec.json.encode(loaded).decode())
        else:
            print(render_toml(loaded), end="")
        return EXIT_OK


def render_toml(loaded: Config) -> str:
    """The configuration as TOML. JSON's strings, numbers and booleans are TOML's too."""
    lines = []
    for section, keys in msgspec.to_builtins(loaded).items():
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
