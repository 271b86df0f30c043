"""Reads a sealing key: 32 bytes, or 64 hexadecimal digits.

The key is only in bytearrays, which the caller zeroises. No immutable copy is made. The reply
is the same for every invalid file, so that a requester learns nothing about the host's files.
The log has the reason.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import structlog

from ..config.paths import NotAFileError, access_fault, is_link_below, open_below
from ..errors import InvalidKey, PathNotAllowed

KEY_BYTES = 32
FILE_BYTES_MAX = 2 * KEY_BYTES + 2  # hexadecimal digits and a line end

_LINE_ENDS = (b"", b"\n", b"\r\n")

_log = structlog.get_logger()


def read_key(directories: Sequence[str], path: str) -> bytearray:
    """Raises PathNotAllowed or InvalidKey."""
    try:
        file = open_below(directories, path)
    except NotAFileError as error:
        raise _rejected(path, str(error)) from None
    except PathNotAllowed:
        if is_link_below(directories, path):
            raise _rejected(path, "a symbolic link") from None
        raise
    try:
        fault = access_fault(os.fstat(file))
        if fault:
            raise _rejected(path, fault)
        key = read_key_of(file)
    except OSError as error:
        raise _rejected(path, str(error)) from None
    finally:
        os.close(file)
    if key is None:
        raise _rejected(path, "expected 32 bytes or 64 hexadecimal digits")
    return key


def read_key_of(file: int) -> bytearray | None:
    """Returns the key in an open file. None if malformed. Does not check owner or mode."""
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


def _rejected(path: str, reason: str) -> InvalidKey:
    _log.warning("key file rejected", path=path, reason=reason)
    return InvalidKey()


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
        key[index // 2] = key[index // 2] << 4 | digit  # CPython shares small ints: no key copy
    return key


def _digit(letter: int) -> int:
    if 0x30 <= letter <= 0x39:
        return letter - 0x30
    if 0x61 <= letter | 0x20 <= 0x66:
        return (letter | 0x20) - 0x57
    return -1
