"""`netsonde extcap`: puts the plug-in into Wireshark's folder, or removes it."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path

from ..errors import EXIT_OK, NetsondeError
from .output import put

PROGRAM = "netsonde-extcap"
MARK = "# Written by netsonde extcap install."
# The lines of `tshark -G folders`. Wireshark 4.0 has only "Extcap path".
FOLDER = re.compile(r"^(Personal |Global |)Extcap path:\s*(\S.*)$", re.MULTILINE | re.IGNORECASE)
TIMEOUT_SEC = 20.0


class ExtcapError(NetsondeError):
    """The plug-in cannot be put in place or removed."""


class ExtcapCommand:
    """Install the Wireshark plug-in, or remove it.

    `install` writes the program netsonde-extcap into Wireshark's extcap folder. Wireshark and
    tshark then have the interface `netsonde`, which captures live packets of hosts. The default is
    the system's folder for root, and the personal folder for other users. Wireshark 4.0 has no
    personal folder.
    """

    name = "extcap"

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("action", choices=["install", "remove"])
        parser.add_argument(
            "--dir", metavar="DIR", help="the folder (default: as `tshark -G folders` reports)"
        )

    def run(self, args: Namespace) -> int:
        path = (Path(args.dir) if args.dir else find_folder()) / PROGRAM
        try:
            if args.action == "install":
                install(path)
            else:
                remove(path)
        except OSError as error:
            hint = "; run it as root, or use --dir" if isinstance(error, PermissionError) else ""
            reason = os.strerror(error.errno or 5).lower()
            raise ExtcapError(f"{path}: {reason}{hint}") from None
        return EXIT_OK


def install(path: Path) -> None:
    check_owner(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f".{path.name}.new")
    try:
        new.write_text(program())
        new.chmod(0o755)
        new.replace(path)
    finally:
        new.unlink(missing_ok=True)
    put(f"installed {path}")


def remove(path: Path) -> None:
    check_owner(path)
    path.unlink()
    put(f"removed {path}")


def check_owner(path: Path) -> None:
    """Raises ExtcapError if the file is not the plug-in."""
    if path.exists() and MARK not in path.read_text(errors="replace"):
        raise ExtcapError(f"{path} is not netsonde's plug-in; move it away first.")


def program() -> str:
    """Returns a script that runs the plug-in with this Python and ignores the working directory."""
    flags = "-EsP" if sys.flags.no_user_site else "-P"
    python = shlex.quote(sys.executable)
    return f'#!/bin/sh\n{MARK}\nexec {python} {flags} -m netsonde.extcap "$@"\n'


def find_folder() -> Path:
    """Returns the system's folder for root, else the personal one if Wireshark has one."""
    tshark = shutil.which("tshark") or shutil.which("wireshark")
    if tshark is None:
        raise ExtcapError("Neither tshark nor wireshark is installed; use --dir.")
    done = subprocess.run(  # noqa: S603 - a list of words, no shell
        [tshark, "-G", "folders"], capture_output=True, text=True, timeout=TIMEOUT_SEC, check=False
    )
    folders = {kind.strip().lower(): Path(path) for kind, path in FOLDER.findall(done.stdout)}
    if not folders:
        raise ExtcapError(f"{tshark} -G folders reports no extcap folder; use --dir.")
    order = ("global", "", "personal") if os.geteuid() == 0 else ("personal", "", "global")
    return next(folders[kind] for kind in order if kind in folders)
