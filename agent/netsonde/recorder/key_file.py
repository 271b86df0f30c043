"""Reading a sealing key: 32 bytes, or 64 hexadecimal digits.

The key is only ever in bytearrays, which whoever asked for it zeroises; no immutable copy is
made. What is wrong with a file is told in one sentence for all cases: a requester cannot
learn what lies on the host. Why, in particular, goes to the log.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence

import structlog

from ..config.paths import NotAFileError, is_link_below, open_below
from ..errors import InvalidKey, PathNotAllowed

KEY_BYTES = 32
FILE_BYTES_MAX = 2 * KEY_BYTES + 2  # hexadecimal, and the line's end that an editor leaves

_LINE_ENDS = (b"", b"\n", b"\r\n")

_log = structlog.get_logger()


def read_key(directories: Sequence[str], path: str) -> bytearray:
    """Raises PathNotAllowed or InvalidKey."""
    try:
        file = open_below(directories, path)
    except NotAFileError as error:
        raise _refused(path, str(error)) from None
    except PathNotAllowed:
        if is_link_below(directories, path):
            raise _refused(path, "a symbolic link") from None
        raise
    try:
        fault = _exposed(os.fstat(file))
        if fault:
            raise _refused(path, fault)
        key = read_key_of(file)
    except OSError as error:
        raise _refused(path, str(error)) from None
    finally:
        os.close(file)
    if key is None:
        raise _refused(path, "neither 32 bytes nor 64 hexadecimal digits")
    return key


def read_key_of(file: int) -> bytearray | None:
    """What the descriptor holds, whoever may access it; None if that is no key."""
    text = bytearray(FILE_BYTES_MAX + 1)
    size = 0
    while (count := os.readv(file, [memoryview(text)[size:]])) > 0:
        size += count
    try:
        return _parse(memoryview(text)[:size])
    finally:
        zeroise(text)


def zeroise(key: bytearray) -> None:
    key[:] = bytes(len(key))


def _refused(path: str, reason: str) -> InvalidKey:
    _log.warning("a key file is refused", path=path, reason=reason)
    return InvalidKey()


def _exposed(status: os.stat_result) -> str:
    if status.st_uid not in (0, os.geteuid()):
        return "it belongs to another user"
    if status.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        return "others than its owner may access it"
    return ""


def _parse(text: memoryview) -> bytearray | None:
    if len(text) == KEY_BYTES:
        return bytearray(text)
    if len(text) < 2 * KEY_BYTES or bytes(text[2 * KEY_BYTES :]) not in _LINE_ENDS:
        return None
    key = bytearray(KEY_BYTES)
    for index in range(2 * KEY_BYTES):
        digit = _digit(text[index])
        if digit < 0:
            zeroise(key)
            return None
        key[index // 2] = key[index // 2] << 4 | digit  # small integers: nothing to find later
    return key


def _digit(letter: int) -> int:
    if 0x30 <= letter <= 0x39:
        return letter - 0x30
    if 0x61 <= letter | 0x20 <= 0x66:
        return (letter | 0x20) - 0x57
    return -1
