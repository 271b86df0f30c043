"""`netsonde diagnostics`: writes one archive for a bug report, without secrets.

parts.py collects this host, asking.py the agent, masking.py finds and masks secrets. A part that
cannot be collected is named in MISSING.txt of the archive and on standard error.
"""

from __future__ import annotations

import io
import tarfile
import time
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import BinaryIO

from ...errors import EXIT_OK
from ..files import replaced_file
from ..output import notify, put
from ..requests import add_connection_arguments, positive_seconds, whole

ARCHIVE_MODE = 0o600


class DiagnosticsCommand:
    """Write one archive for a bug report: versions, doctor, configuration, status, metrics, log.

    Passwords, tokens, keys and nkeys are masked. Host names, addresses and interface names stay.
    Run it on the host of the agent, as root for the log and the network cards. Without NATS the
    archive has no status; what is missing is printed, and listed in MISSING.txt. Read the archive
    before you send it.
    """

    name = "diagnostics"

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "-o", "--output", metavar="FILE", help="(netsonde-diagnostics-HOST-TIME.tar.gz)"
        )
        parser.add_argument(
            "--host", action="append", metavar="H", help="also ask this host or glob (this host)"
        )
        parser.add_argument(
            "--log-lines", type=whole(0), default=2000, metavar="N", help="newest N lines (2000)"
        )
        parser.add_argument(
            "--timeout",
            type=positive_seconds,
            default=5.0,
            metavar="S",
            help="timeout for replies (%(default)g s)",
        )
        add_connection_arguments(parser)

    def run(self, args: Namespace) -> int:
        from .collection import collect  # loads the C core and nats-py

        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        host, files, missing = collect(args)
        name = f"netsonde-diagnostics-{host}-{stamp}"
        path = Path(args.output or f"{name}.tar.gz")
        with replaced_file(path, ARCHIVE_MODE) as out:
            write_archive(out, name, files)
        for one in missing:
            notify(f"missing: {one}")
        put(str(path))
        return EXIT_OK


def write_archive(out: BinaryIO, directory: str, files: dict[str, str]) -> None:
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        for name, text in files.items():
            content = text.encode()
            member = tarfile.TarInfo(f"{directory}/{name}")
            member.size, member.mtime, member.mode = len(content), int(time.time()), ARCHIVE_MODE
            archive.addfile(member, io.BytesIO(content))
