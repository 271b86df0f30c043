"""`netsonde firmware FILE SIGNATURE`: verifies a firmware file's signature on hosts."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..errors import EXIT_OK, EXIT_REFUSED
from .requests import add_client_arguments, conclude, gather_outcome, print_outcome
from .tables import Cell

if TYPE_CHECKING:
    from ..fleet.scatter import Reply

COLUMNS = ("HOST", "VALID", "ALGORITHM", "KEY", "SHA-256", "MESSAGE")


class FirmwareCommand:
    """Verify a firmware file's signature on each targeted host.

    FILE and SIGNATURE are paths on those hosts, below their [firmware] dirs. The trusted keys
    are those in each host's [firmware] trusted_keys. The exit code is 0 only if every host
    replied and found the signature valid.
    """

    name = "firmware"

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("file", metavar="FILE", help="the firmware file on the hosts")
        parser.add_argument(
            "signature", metavar="SIGNATURE", help="the signature file on the hosts"
        )
        add_client_arguments(parser)
        parser.set_defaults(timeout=60.0)

    def run(self, args: Namespace) -> int:
        body = {"firmware_path": args.file, "signature_path": args.signature}
        outcome = gather_outcome(args, "firmware.verify", body)
        print_outcome(args, outcome, COLUMNS, describe_verification)
        good = all(reply.body.get("valid") is True for reply in outcome.replies)
        return max(conclude(args, outcome), EXIT_OK if good else EXIT_REFUSED)


def describe_verification(reply: Reply) -> Sequence[Sequence[Cell]]:
    body = reply.body
    return [
        (
            reply.host,
            "yes" if body["valid"] else "no",
            body.get("algorithm", "-"),
            body.get("key_id", "-"),
            body["firmware_hash"][:16] or "-",
            body["message"],
        )
    ]
