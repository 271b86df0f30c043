"""The result of one check, and the facts that all checks share."""

from __future__ import annotations

import contextlib
import os
import pwd
import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from ...config.sections import Config
from ...errors import EXIT_OK, EXIT_REFUSED
from ..output import put_json
from ..tables import print_table

UNIT_USER = "netsonde"  # deploy/systemd/netsonde.service

State: TypeAlias = Literal["ok", "note", "missing", "warning", "bad"]


@dataclass(frozen=True, slots=True)
class Finding:
    """Result of one check. Only `bad` is a failure. `exit_code` is used only then.

    repair: the command that corrects the fault. Empty if there is nothing to correct."""

    check: str
    state: State
    detail: str
    exit_code: int = EXIT_REFUSED
    repair: str = ""

    @property
    def sentence(self) -> str:
        detail = self.detail.rstrip(".")
        return f"{detail}; run: {self.repair}" if self.repair else self.detail


@dataclass(frozen=True, slots=True)
class Subject:
    """The examined settings, the file that repairs change, and the capture."""

    settings: Config
    path: Path
    interfaces: tuple[str, ...] = ()
    backend: str = ""
    buffer_mb: int | None = None
    dedicated: bool = False

    def set_key(self, key: str, value: object) -> str:
        """Returns the command that sets a key in the configuration file."""
        return command("netsonde", "config", "set", key, value, "--config", self.path)


def command(*words: object) -> str:
    return shlex.join(str(word) for word in words)


def owner() -> str:
    """Returns user and group of the agent, as `chown` accepts them: the unit's user if root runs
    this program and that user exists, else this user."""
    if os.geteuid() == 0:
        with contextlib.suppress(KeyError):
            entry = pwd.getpwnam(UNIT_USER)
            return f"{entry.pw_uid}:{entry.pw_gid}"
    return f"{os.geteuid()}:{os.getegid()}"


def report(findings: Iterable[Finding], *, as_json: bool) -> int:
    """Prints the findings. Returns the exit code."""
    found = list(findings)
    if as_json:
        for finding in found:
            put_json(finding)
    else:
        rows = [(one.check, one.state, one.sentence) for one in found]
        print_table(("CHECK", "STATE", "DETAIL"), rows)
    return max((one.exit_code for one in found if one.state == "bad"), default=EXIT_OK)
