"""The option --override of commands that change a capture."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import Any

from .requests import whole

SECONDS_MAX = 604_800
_DEFAULT = 0  # the agent's


def add_override_argument(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--override",
        nargs="?",
        type=whole(1, SECONDS_MAX),
        const=_DEFAULT,
        metavar="SECONDS",
        help="also change a capture that [session] or a policy wants, for this time (3600)",
    )


def override_body(args: Namespace) -> dict[str, Any]:
    """Returns the fields of a request, none without the option."""
    if args.override is None:
        return {}
    return {"override": True} | ({"override_sec": args.override} if args.override else {})
