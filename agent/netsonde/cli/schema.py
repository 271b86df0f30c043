"""`netsonde schema`: prints the AsyncAPI document of agents."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import Any

import msgspec

from .output import put_lines
from .requests import add_client_arguments, conclude, gather_outcome, print_json


class SchemaCommand:
    """Print the AsyncAPI document of hosts, identical documents once."""

    name = "schema"

    def add_arguments(self, parser: ArgumentParser) -> None:
        add_client_arguments(parser)

    def run(self, args: Namespace) -> int:
        outcome = gather_outcome(args, "schema", {})
        if args.json:
            print_json(outcome)
        else:
            documents = {
                msgspec.json.format(msgspec.json.encode(document_of(reply.body))).decode(): None
                for reply in outcome.replies
                if reply.accepted
            }
            for document in documents:
                put_lines(document)
        return conclude(args, outcome)


def document_of(body: dict[str, Any]) -> dict[str, Any]:
    """Removes the field `host` from the reply."""
    return {name: section for name, section in body.items() if name != "host"}
