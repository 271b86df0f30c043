"""Opens files that a request names, only below the allowed directories. Checks secret files.

The kernel resolves the path (openat2 with RESOLVE_BENEATH, no symlinks, no magic links), so
there is no window between check and open. A path outside or through a link always gives the
same error: a caller cannot learn what exists there.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import struct
from collections.abc import Sequence
from pathlib import PurePosixPath

from ..errors import PathNotAllowed

_SYS_OPENAT2 = 437  # the same number on every architecture
_RESOLVE_NO_MAGICLINKS = 0x02
_RESOLVE_NO_SYMLINKS = 0x04
_RESOLVE_BENEATH = 0x08
_RESOLVE = _RESOLVE_BENEATH | _RESOLVE_NO_SYMLINKS | _RESOLVE_NO_MAGICLINKS
_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK
_TRIES = 16  # EAGAIN: a directory was renamed while `..` was resolved
_OUTSIDE = frozenset({errno.EXDEV, errno.ELOOP})

_libc = ctypes.CDLL(None, use_errno=True)


class NotAFileError(Exception):
    """The path is allowed but not a readable regular file."""


def open_below(directories: Sequence[str], path: str) -> int:
    """Returns a descriptor of the regular file `path`, which is relative to one of the
    directories or absolute below one. Raises PathNotAllowed or NotAFileError."""
    if "\0" in path:
        raise NotAFileError("a NUL character is not allowed in a path")
    candidates = [
        (directory, relative)
        for directory in directories
        if (relative := _below(directory, path)) is not None
    ]
    if not candidates:
        raise PathNotAllowed
    missing = "no such file"
    for directory, relative in candidates:
        try:
            return _open_regular(directory, relative)
        except OSError as error:
            if error.errno in _OUTSIDE:
                raise PathNotAllowed from None
            if error.errno not in (errno.ENOENT, errno.ENOTDIR):
                missing = os.strerror(error.errno or errno.EIO).lower()
    raise NotAFileError(missing)


def is_link_below(directories: Sequence[str], path: str) -> bool:
    """Returns whether `path` below one of the directories is itself a symbolic link, reached
    without links. The link's target is not followed."""
    flags = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
    for directory in directories:
        relative = None if "\0" in path else _below(directory, path)
        if relative is None:
            continue
        try:
            file = _open_in(directory, relative, flags)
        except (OSError, NotAFileError):
            continue
        try:
            if stat.S_ISLNK(os.fstat(file).st_mode):
                return True
        finally:
            os.close(file)
    return False


def access_fault(status: os.stat_result, *, any_owner: bool = False) -> str:
    """Returns why others could read or replace this file of a secret. Empty if they cannot.

    any_owner: accept the file of any user, for a root that reads another user's login."""
    if not stat.S_ISREG(status.st_mode):
        return "not a regular file"
    if not any_owner and status.st_uid not in (0, os.geteuid()):
        return f"owner is uid {status.st_uid}, expected root or uid {os.geteuid()}"
    if status.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        return f"mode {stat.S_IMODE(status.st_mode):04o}, expected 0600 or stricter"
    return ""


def _below(directory: str, path: str) -> str | None:
    """Returns `path` relative to the directory, or None if it is not below it."""
    if not path.startswith("/"):
        return path
    for base in (directory, os.path.realpath(directory)):
        try:
            return str(PurePosixPath(path).relative_to(base))
        except ValueError:
            continue
    return None


def _open_regular(directory: str, relative: str) -> int:
    file = _open_in(directory, relative, _FLAGS)
    if stat.S_ISREG(os.fstat(file).st_mode):
        return file
    os.close(file)
    raise NotAFileError("not a regular file")


def _open_in(directory: str, relative: str, flags: int) -> int:
    base = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return _openat2(base, relative, flags)
    finally:
        os.close(base)


def _openat2(base: int, relative: str, flags: int) -> int:
    how = ctypes.create_string_buffer(struct.pack("=QQQ", flags, 0, _RESOLVE), 24)
    try:
        name = ctypes.c_char_p(os.fsencode(relative))
    except UnicodeEncodeError:
        raise NotAFileError("no such file") from None
    number = errno.EAGAIN
    for _ in range(_TRIES):
        file = int(_libc.syscall(_SYS_OPENAT2, base, name, how, ctypes.c_size_t(24)))
        if file >= 0:
            return file
        number = ctypes.get_errno()
        if number != errno.EAGAIN:
            break
    raise OSError(number, os.strerror(number))
