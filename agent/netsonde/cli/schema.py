"""`netsonde schema`: prints the AsyncAPI document of agents."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import Any

import msgspec

from ..errors import EXIT_OK, EXIT_REFUSED
from .requests import add_client_arguments, gather_outcome, print_failures, print_json, read_target


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
                print(document)
        print_failures(outcome, read_target(args), with_refusals=not args.json)
        return EXIT_OK if outcome.complete else EXIT_REFUSED


def document_of(body: dict[str, Any]) -> dict[str, Any]:
    """Removes the field `host` from the reply."""
    return {name: section for name, section in body.items() if name != "host"}
