"""`netsonde config`: works on the configuration file without an agent."""

from __future__ import annotations

import argparse
import itertools
import os
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any

import msgspec

from ..config.edit import with_key
from ..config.file import DEFAULT_PATH, load, parse
from ..config.masking import mask_all
from ..config.schema import json_schema
from ..config.template import render_key, render_value, template
from ..errors import EXIT_OK, EXIT_USAGE, ConfigError, NetsondeError
from .files import replaced_file
from .output import notify, put, put_json, put_lines

FILE_MODE = 0o644


class FileExistsAlreadyError(NetsondeError):
    """`config init` does not overwrite a file."""


class AssignmentError(NetsondeError):
    """A key of `config set` without a value."""

    exit_code = EXIT_USAGE


class ConfigCommand:
    """Create, check, change or show the configuration, or print its schema.

    init    writes a commented file with all keys (to FILE, else to standard output)
    check   validates the file and the variables; --environment also checks the host
    set     changes keys in the file
    show    prints the resulting configuration with all defaults, without passwords
    schema  prints the JSON Schema of the configuration file

    `check --environment` makes the checks of `netsonde doctor` on directories, keys, interfaces,
    limits and NATS. Warnings do not change the exit code. Faults of interfaces and NATS are
    warnings, because an agent starts without them and waits.
    """

    name = "config"

    def add_arguments(self, parser: ArgumentParser) -> None:
        add_shared(parser, None)
        actions = parser.add_subparsers(
            dest="action", metavar="init|check|set|show|schema", required=True
        )
        init = actions.add_parser("init", help="write a commented file")
        init.add_argument("file", nargs="?", metavar="FILE", help="default: standard output")
        init.set_defaults(act=run_init)
        check = actions.add_parser("check", help="validate the file and the variables")
        check.add_argument(
            "--environment", action="store_true", help="also check this host and NATS"
        )
        check.set_defaults(act=run_check)
        change = actions.add_parser("set", help="change keys in the file")
        change.add_argument(
            "assignments",
            nargs="+",
            metavar="SECTION.KEY VALUE",
            help="a key and its value, as in an environment variable; can be repeated",
        )
        change.set_defaults(act=run_set)
        show = actions.add_parser("show", help="print the resulting configuration")
        show.set_defaults(act=run_show)
        schema = actions.add_parser("schema", help="print the JSON Schema")
        schema.set_defaults(act=run_schema)
        for action in (init, check, change, show, schema):
            add_shared(action, argparse.SUPPRESS)

    def run(self, args: Namespace) -> int:
        return int(args.act(args))


def add_shared(parser: ArgumentParser, default: Any) -> None:
    """Adds options that are accepted before and after the action."""
    parser.add_argument(
        "--config", metavar="FILE", default=default, help=f"default: {DEFAULT_PATH}"
    )
    parser.add_argument(
        "--json", action="store_true", default=default, help="check, show: print JSON"
    )


def chosen(args: Namespace) -> Path | None:
    return Path(args.config) if args.config else None


def run_init(args: Namespace) -> int:
    target = args.file or args.config
    if target is None or target == "-":
        put_lines(template())
        return EXIT_OK
    try:
        handle = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, FILE_MODE)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(template())
    except FileExistsError:
        raise FileExistsAlreadyError(
            f"{target} exists; name another file, or remove this one first"
        ) from None
    except OSError as error:
        raise ConfigError(f"{target}: {os.strerror(error.errno or 5).lower()}") from None
    notify(f"wrote {target}; every key in it is a comment with its default")
    return EXIT_OK


def run_check(args: Namespace) -> int:
    path = chosen(args)
    if args.environment:
        from .doctor.checks import ENVIRONMENT, examine
        from .doctor.finding import report

        return report(examine(path, ENVIRONMENT, for_start=True), as_json=bool(args.json))
    load(path)
    source = path or DEFAULT_PATH
    put(f"{source}: valid" if source.exists() else f"{source}: missing, defaults apply")
    return EXIT_OK


def run_set(args: Namespace) -> int:
    path = chosen(args) or DEFAULT_PATH
    try:
        before = path.read_text(encoding="utf-8") if path.exists() else ""
        mode = path.stat().st_mode & 0o777 if path.exists() else FILE_MODE
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: {error}") from None
    words = iter(args.assignments)
    after = before
    for key, value in itertools.zip_longest(words, words):
        if value is None:
            raise AssignmentError(f"{key} has no value")
        after = with_key(after, key, value)
    parse(after, origin=path)
    with replaced_file(path, mode) as file:
        file.write(after.encode())
    return EXIT_OK


def run_show(args: Namespace) -> int:
    sections = mask_all(without_none(msgspec.to_builtins(load(chosen(args)))))
    if args.json:
        put_json(sections)
    else:
        put_lines(render_toml(sections))
    return EXIT_OK


def run_schema(_: Namespace) -> int:
    put_lines(msgspec.json.format(msgspec.json.encode(json_schema())).decode())
    return EXIT_OK


def without_none(sections: dict[str, Any]) -> dict[str, Any]:
    """Leaves out an absent [session] and its absent tables, which TOML cannot write."""
    return {
        section: {key: value for key, value in keys.items() if value is not None}
        for section, keys in sections.items()
        if keys is not None
    }


def render_toml(sections: dict[str, Any]) -> str:
    """Renders a configuration as TOML. Strings, numbers and booleans are the same in JSON."""
    lines = []
    for section, keys in sections.items():
        lines.append(f"[{section}]")
        lines += [f"{render_key(key)} = {render_value(value)}" for key, value in keys.items()]
        lines.append("")
    return "\n".join(lines[:-1]) + "\n"
