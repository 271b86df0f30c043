"""The examples in the help of each command: each command has one, and each parses."""

from __future__ import annotations

import shlex
from argparse import ArgumentParser, _SubParsersAction
from collections.abc import Iterator

import pytest

from netsonde import cli
from netsonde.cli.examples import EXAMPLES
from netsonde.errors import ConfigError, NetsondeError, PrivilegeError, UnreachableError

WIDTH = 100


def parsers(parser: ArgumentParser, path: str = "") -> Iterator[tuple[str, ArgumentParser]]:
    for action in parser._actions:
        if isinstance(action, _SubParsersAction):
            for name, inner in action.choices.items():
                yield f"{path}{name}", inner
                yield from parsers(inner, f"{path}{name} ")


PARSERS = dict(parsers(cli.build_parser()))


@pytest.mark.parametrize("command", PARSERS)
def test_help_of_each_command_ends_with_examples(command: str) -> None:
    shown = PARSERS[command].format_help()
    lines = [f"  {example}\n" for example in EXAMPLES[command]]
    assert lines
    assert shown.endswith("".join(lines))
    assert max(map(len, lines)) <= WIDTH


@pytest.mark.parametrize(
    ("command", "example"),
    [(command, example) for command, examples in EXAMPLES.items() for example in examples],
)
def test_example_parses_as_its_command(command: str, example: str) -> None:
    words = shlex.split(example)
    assert words[: 1 + len(command.split())] == ["netsonde", *command.split()]
    args = cli.build_parser().parse_args(words[1:])
    assert args.chosen.name == command.split()[0]


def test_examples_name_no_command_that_is_gone() -> None:
    assert EXAMPLES.keys() <= PARSERS.keys()


@pytest.mark.parametrize(
    ("error", "repair"),
    [
        (ConfigError("x"), "config check"),
        (PrivilegeError("x"), "doctor"),
        (UnreachableError("x."), "doctor"),
    ],
)
def test_error_ends_with_the_next_command(
    error: NetsondeError, repair: str, capsys: pytest.CaptureFixture[str]
) -> None:
    cli.report(error, ["status"])
    assert capsys.readouterr().err == f"netsonde: x; run: netsonde {repair}\n"
    assert cli.build_parser().parse_args(repair.split()).chosen
    cli.report(error, repair.split())
    assert capsys.readouterr().err == f"netsonde: {error.detail}\n"
