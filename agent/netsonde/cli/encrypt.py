"""`netsonde encrypt on|off`: encrypts the capture buffer of running sessions."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..errors import EXIT_USAGE, NetsondeError
from .override import add_override_argument, override_body
from .requests import add_client_arguments, ask_fleet
from .tables import Cell

if TYPE_CHECKING:
    from ..fleet.scatter import Reply

CIPHER_SUITE = "AES-256-GCM"
COLUMNS = ("HOST", "ENCRYPTION", "CIPHER SUITE", "KEY FILE", "KEY")


class MissingKeyError(NetsondeError):
    exit_code = EXIT_USAGE


class EncryptCommand:
    """Encrypt the capture buffer of the running session, in memory and on disk.

    KEYFILE is a path on the hosts, below their [encryption] key_dirs: 32 bytes or 64
    hexadecimal digits, owned by root or the agent's user, with no access for others. Another
    key starts a new period. `off` stores later packets unencrypted.
    """

    name = "encrypt"

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("switch", choices=["on", "off"])
        parser.add_argument("--key-file", metavar="KEYFILE", default="", help="required for `on`")
        parser.add_argument("--cipher", default=CIPHER_SUITE, help=f"cipher suite ({CIPHER_SUITE})")
        add_override_argument(parser)
        add_client_arguments(parser)
        parser.set_defaults(timeout=30.0)

    def run(self, args: Namespace) -> int:
        enable = None if args.switch is None else args.switch == "on"
        if enable and not args.key_file:
            raise MissingKeyError("`encrypt on` needs --key-file.")
        body = encryption_body(args.key_file or None, args.cipher, enable=enable)
        if enable is False:
            body["key_file"] = args.key_file
        return ask_fleet(
            args, "encryption.enable", body | override_body(args), COLUMNS, describe_sealing
        )


def encryption_body(
    key_file: str | None, cipher_suite: str = CIPHER_SUITE, *, enable: bool | None = True
) -> dict[str, Any]:
    return {"cipher_suite": cipher_suite, "key_file": key_file, "enable": enable}


def describe_sealing(reply: Reply) -> Sequence[Sequence[Cell]]:
    body = reply.body
    return [
        (
            reply.host,
            body["status"],
            body["cipher_suite"],
            body["key_file"] or "-",
            body.get("key_id", "-"),
        )
    ]
