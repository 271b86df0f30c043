"""`netsonde run`: runs the agent in the foreground."""

from __future__ import annotations

from argparse import ArgumentParser, ArgumentTypeError, Namespace
from pathlib import Path

from ..config.file import DEFAULT_PATH
from ..config.sections import TOKEN
from .output import notify


class RunCommand:
    """Run the agent of this host until SIGTERM or Ctrl-C.

    Environment variables NETSONDE__SECTION__KEY override the configuration file, and flags
    override both. SIGHUP reloads the configuration. --embedded-nats starts a nats-server on
    loopback, for a setup with one host. Only commands of the same user can log in to it.
    """

    name = "run"

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--config", metavar="FILE", help=f"default: {DEFAULT_PATH}")
        parser.add_argument(
            "--embedded-nats", action="store_true", help="start a nats-server for this host"
        )
        parser.add_argument("--nats", metavar="URL", help="[nats] servers, separated by commas")
        parser.add_argument("--host", metavar="H", help="[agent] host, the name in subjects")
        parser.add_argument(
            "--label",
            action="append",
            default=[],
            type=label,
            metavar="K=V",
            help="one of [agent.labels]; can be repeated",
        )
        parser.add_argument(
            "--log-level", choices=["debug", "info", "warning", "error"], help="[log] level"
        )

    def run(self, args: Namespace) -> int:
        from ..daemon.app import serve  # loads the C core

        path = Path(args.config) if args.config else None
        return serve(
            path,
            overrides=make_overrides(args),
            embedded_nats=args.embedded_nats,
            ready=print_server if args.embedded_nats else None,
        )


def print_server(url: str) -> None:
    """Prints the address of the embedded nats-server for other programs."""
    notify(f"the embedded nats-server is at {url}")


def make_overrides(args: Namespace) -> dict[str, object]:
    """Converts the flags to configuration keys."""
    overrides: dict[str, object] = {
        "agent.host": args.host,
        "nats.servers": [url.strip() for url in args.nats.split(",")] if args.nats else None,
        "log.level": args.log_level,
    }
    overrides |= {f"agent.labels.{key}": value for key, value in args.label}
    return {key: value for key, value in overrides.items() if value is not None}


def label(text: str) -> tuple[str, str]:
    key, separator, value = text.partition("=")
    if not separator or not TOKEN.fullmatch(key) or not TOKEN.fullmatch(value):
        raise ArgumentTypeError(f"{text!r} is not key=value of a-z, 0-9, '_' and '-'")
    return key, value
