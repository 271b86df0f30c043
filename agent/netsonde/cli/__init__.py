"""The command line: one file per command, the list of commands, and error output."""

from __future__ import annotations

import argparse
import difflib
import errno
import inspect
import io
import os
import re
import sys
from collections.abc import Collection, Iterator, Sequence
from typing import NoReturn

from .. import __version__
from ..errors import (
    EXIT_USAGE,
    ConfigError,
    NetsondeError,
    PrivilegeError,
    RequestError,
    UnreachableError,
)
from .backends import BackendsCommand
from .collect import CollectCommand
from .command import Command
from .config import ConfigCommand
from .decode import DecodeCommand
from .decrypt import DecryptCommand
from .demo import DemoCommand
from .diagnostics import DiagnosticsCommand
from .doctor import DoctorCommand
from .encrypt import EncryptCommand
from .events import EventsCommand
from .examples import add_examples
from .export import ExportCommand
from .extcap import ExtcapCommand
from .firmware import FirmwareCommand
from .flows import FlowsCommand
from .forget import ForgetCommand
from .meter import MeterCommand
from .metrics import MetricsCommand
from .nats import NatsCommand
from .output import notify, put_lines, say
from .packets import PacketsCommand
from .policies import ApplyCommand, DriftCommand, PlanCommand, RollbackCommand
from .ps import PsCommand
from .requests import RESUME, relax
from .run import RunCommand
from .schema import SchemaCommand
from .start import StartCommand
from .status import StatusCommand
from .stop import StopCommand
from .top import TopCommand

COMMANDS: list[Command] = [
    RunCommand(),
    DemoCommand(),
    DoctorCommand(),
    DiagnosticsCommand(),
    ConfigCommand(),
    PsCommand(),
    BackendsCommand(),
    StartCommand(),
    StopCommand(),
    StatusCommand(),
    MetricsCommand(),
    TopCommand(),
    MeterCommand(),
    ExportCommand(),
    FlowsCommand(),
    EventsCommand(),
    PacketsCommand(),
    ExtcapCommand(),
    EncryptCommand(),
    DecryptCommand(),
    CollectCommand(),
    PlanCommand(),
    ApplyCommand(),
    DriftCommand(),
    RollbackCommand(),
    ForgetCommand(),
    FirmwareCommand(),
    SchemaCommand(),
    NatsCommand(),
    DecodeCommand(),
]

DESCRIPTION = "Packet capture and flow metering on every host, controlled over NATS."
EPILOG = """\
Exit codes: 0 every targeted host accepted the request; 1 some did not; 2 usage;
69 NATS is unreachable; 77 a privilege is missing; 78 the configuration is invalid.
"""
# Errors whose message ends with the command to run next.
REPAIRS: tuple[tuple[type[NetsondeError], str], ...] = (
    (ConfigError, "config check"),
    (PrivilegeError, "doctor"),
    (UnreachableError, "doctor"),
)
OTHER_NAMES = {"console": "top"}  # they are not listed in the help
COMPLETION = "--print-completion"
SHELLS = ("bash", "zsh", "tcsh", "fish", "powershell")  # those of shtab
EXIT_INTERRUPTED = 130
EXIT_PIPE_CLOSED = 141  # a shell's code for a program ended by SIGPIPE
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


_INVALID_CHOICE = re.compile(r"(.*invalid choice: '(.*)') \(choose from (.*)\)")


def with_suggestion(message: str, options: Collection[str]) -> str:
    """Replaces the list of choices by the nearest ones, if a word looks like one of them or is an
    option without its dashes."""
    found = _INVALID_CHOICE.fullmatch(message)
    if found is None:
        return message
    choices = [choice.strip("'") for choice in found[3].split(", ")]
    option = f"--{found[2]}"
    near = [option] if option in options else difflib.get_close_matches(found[2], choices)
    return f"{found[1]}; did you mean {' or '.join(near)}?" if near else message


class Parser(argparse.ArgumentParser):
    """Reports a usage error with the message first, and then only the required arguments."""

    def error(self, message: str) -> NoReturn:
        formatter = self._get_formatter()
        needed = [one for one in self._actions if one.required]
        formatter.add_usage(None, needed, [], "usage: ")
        usage = formatter.format_help().strip()
        say(f"{self.prog}: {with_suggestion(message, self._option_string_actions)}")
        put_lines(f"{usage} …\nSee '{self.prog} --help'.", out=sys.stderr)
        sys.exit(EXIT_USAGE)


def build_parser(
    commands: Sequence[Command] = COMMANDS,
    *,
    resumed: bool = False,
    completing: bool = False,
) -> argparse.ArgumentParser:
    parser = Parser(
        prog="netsonde",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"netsonde {__version__}")
    if completing:
        import shtab  # here, because the import takes 60 ms

        shtab.add_argument_to(parser, [COMPLETION])
    else:
        parser.add_argument(COMPLETION, choices=SHELLS, help="print shell completion script")
    subparsers = parser.add_subparsers(dest="command", metavar="command", required=True)
    for command in commands:
        text = inspect.getdoc(command) or ""
        subparser = subparsers.add_parser(
            command.name,
            help=text.partition("\n")[0].replace("%", "%%"),
            description=text,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.add_arguments(subparser)
        add_examples(subparser, command.name)
        if resumed:
            relax(subparser)
        subparser.set_defaults(chosen=command)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    words = list(sys.argv[1:] if argv is None else argv)
    words[:1] = [OTHER_NAMES.get(word, word) for word in words[:1]]
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # print "→" as "?" in a Latin-1 locale
    try:
        resumed = any(word.partition("=")[0] == RESUME for word in words)
        completing = any(word.startswith(COMPLETION[:3]) for word in words)
        args = build_parser(resumed=resumed, completing=completing).parse_args(words)
        command: Command = args.chosen
        code = command.run(args)
        sys.stdout.flush()
    except NetsondeError as error:
        return report(error, words)
    except BaseExceptionGroup as group:
        # From a TaskGroup. Report only expected errors; others are bugs and get a traceback.
        if group.split(NetsondeError)[1] is not None:
            raise
        return max(report(error, words) for error in flatten(group))
    except BrokenPipeError:
        close_output()
        return EXIT_PIPE_CLOSED
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise
        close_output()
        reason = os.strerror(error.errno).lower()
        return report(NetsondeError(f"cannot write all of the output: {reason}"))
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    return code


def close_output() -> None:
    """Replaces standard output with /dev/null: Python would report the error again at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def report(error: NetsondeError, words: Sequence[str] = ()) -> int:
    """Prints an error for the user, with the next command. Returns its exit code."""
    name = f"{error.error}: " if isinstance(error, RequestError) else ""
    lines = f"{name}{with_repair(error, words)}".split("\n")
    notify(lines[0])
    for line in lines[1:]:
        say(line)
    return error.exit_code


def with_repair(error: NetsondeError, words: Sequence[str]) -> str:
    """Adds the command that shows more about the error, unless that command reports it."""
    for kind, repair in REPAIRS:
        if isinstance(error, kind) and list(words[:1]) != repair.split()[:1]:
            return f"{error.detail.removesuffix('.')}; run: netsonde {repair}"
    return error.detail


def flatten(group: BaseExceptionGroup[BaseException]) -> Iterator[NetsondeError]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from flatten(error)
        elif isinstance(error, NetsondeError):
            yield error
