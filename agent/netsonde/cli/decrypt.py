"""`netsonde decrypt FILE… --key K`: converts segment files to pcapng, without an agent."""

from __future__ import annotations

import contextlib
import os
import stat
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from io import FileIO
from typing import BinaryIO

from ..errors import EXIT_OK, EXIT_REFUSED, EXIT_USAGE, NetsondeError
from .files import replaced_file
from .output import say


class DecryptError(NetsondeError):
    """A file or the key cannot be read."""


class TerminalError(NetsondeError):
    exit_code = EXIT_USAGE


class DecryptCommand:
    """Convert segment files of a capture buffer to pcapng.

    Each FILE becomes a separate section, in the given order. A truncated file yields its
    complete frames; a modified file yields the frames before the change. Both are reported
    and give exit code 1. Unencrypted files need no key.
    """

    name = "decrypt"

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("files", nargs="+", metavar="FILE", help="*.segment, or .*.part")
        parser.add_argument("--key", metavar="K", help="key file: 32 bytes or 64 hex digits")
        parser.add_argument("-o", "--output", metavar="OUT", help="file (standard output)")

    def run(self, args: Namespace) -> int:
        if args.output is None and sys.stdout.isatty():
            raise TerminalError("cannot write pcapng to a terminal: use -o OUT or a pipe.")
        with encryption_key(args.key) as key, opened_output(args.output) as out:
            whole = [decrypt_file(path, key, out) for path in args.files]
            out.flush()
        return EXIT_OK if all(whole) else EXIT_REFUSED


@contextlib.contextmanager
def encryption_key(path: str | None) -> Iterator[bytearray | None]:
    from ..recorder.key_file import read_key_of, zeroise

    if path is None:
        yield None
        return
    try:
        with open_regular(path) as file:
            key = read_key_of(file.fileno())
    except OSError as error:
        raise DecryptError(f"{path}: {os.strerror(error.errno or 5).lower()}") from None
    if key is None:
        raise DecryptError(f"{path}: a key is 32 bytes or 64 hexadecimal digits")
    try:
        yield key
    finally:
        zeroise(key)


def open_regular(path: str) -> FileIO:
    """Opens a regular file without blocking on a FIFO. Raises DecryptError."""
    try:
        file = FileIO(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK))
    except OSError as error:
        raise DecryptError(f"{path}: {os.strerror(error.errno or 5).lower()}") from None
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise DecryptError(f"{path}: not a regular file")
    return file


@contextlib.contextmanager
def opened_output(path: str | None) -> Iterator[BinaryIO]:
    if path is None:
        yield sys.stdout.buffer
        return
    with replaced_file(path) as out:
        yield out


def decrypt_file(path: str, key: bytearray | None, out: BinaryIO) -> bool:
    """Converts one file. Prints an error and returns False if not all of it could be read."""
    from ..core.packets import SegmentError, read_segment

    try:
        with open_regular(path) as file:
            whole = read_segment(file.fileno(), key, "", out.write)
    except SegmentError as error:
        say(f"{path}: {error.detail}")
        return False
    except DecryptError as error:
        say(error.detail)
        return False
    except BrokenPipeError:
        raise
    except OSError as error:
        say(f"{path}: {os.strerror(error.errno or 5).lower()}")
        return False
    if not whole:
        say(f"{path}: the file is truncated; all complete frames were written")
    return whole
