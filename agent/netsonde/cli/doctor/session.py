"""Checks of the files that `[session]` names: the sealing key and the capture file."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

from ...config.paths import NotAFileError, open_below
from ...errors import PathNotAllowed
from .finding import Finding, Subject, command
from .secrets import new_key


def examine_session(subject: Subject) -> Iterator[Finding]:
    settings, session = subject.settings, subject.settings.session
    if session is None:
        return
    if session.encryption is not None and session.encryption.enable:
        check, path = "session.encryption", session.encryption.key_file
        directories = settings.encryption.key_dirs
        key = "encryption.key_dirs"
        fault = _fault(directories, path)
        repair = new_key(_located(directories, path))
        yield _finding(subject, check, key, path, fault, repair)
    if session.backend == "file":
        directories, path = settings.capture.replay_dirs, session.interface
        fault = _fault(directories, path)
        repair = command("cp", "CAPTURE.pcap", _located(directories, path))
        yield _finding(subject, "session.interface", "capture.replay_dirs", path, fault, repair)


def _finding(subject: Subject, check: str, key: str, path: str, fault: str, repair: str) -> Finding:
    if not fault:
        return Finding(check, "ok", path)
    if fault == OUTSIDE:
        parent = os.path.dirname(path) if os.path.isabs(path) else "/etc/netsonde/keys"
        repair = subject.set_key(key, parent)
    return Finding(check, "bad", f"{path}: {fault}", repair=repair)


OUTSIDE = "not below an allowed directory"


def _fault(directories: Sequence[str], path: str) -> str:
    try:
        os.close(open_below(directories, path))
    except PathNotAllowed:
        return OUTSIDE
    except NotAFileError as error:
        return str(error)
    except OSError as error:
        return os.strerror(error.errno or 5).lower()
    return ""


def _located(directories: Sequence[str], path: str) -> str:
    return os.path.join(directories[0], path) if directories else path
