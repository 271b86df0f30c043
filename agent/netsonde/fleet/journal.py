"""The journal of a request: $XDG_STATE_HOME/netsonde/runs/<request-id>.jsonl.

The first line holds the request. Each later line holds what has become known: the hosts that
should reply, a host that was asked, a host's reply, an absence. A run that was cut off can be
resumed: hosts with a reply are not asked again, and the others get the same Request-Id, so an
agent that has executed the request sends its first reply again. Agents remember replies for ten
minutes; a host that was asked longer ago and sent no reply is not asked again.
"""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from ..errors import EXIT_USAGE, NetsondeError
from .outcome import Outcome, Pace
from .scatter import Absence, Reply

REPLAY_SEC = 540.0  # agents keep replies for 600 s
RUNS_MAX = 1000
NOT_EXECUTED = ("too_many_requests", "draining")  # refusals that an agent does not remember
SUFFIX = ".jsonl"
BODY_BYTES_MAX = 64 << 10  # larger replies are journalled without their body


class ResumeError(NetsondeError):
    """The run is unknown, or was another request."""

    exit_code = EXIT_USAGE


class Run(msgspec.Struct, kw_only=True):
    """The first line of a journal."""

    request_id: str
    verb: str
    root: str
    body: dict[str, Any]
    time: float
    batch: int | None = None
    max_failures: int | None = None


class _Line(msgspec.Struct, kw_only=True, omit_defaults=True):
    time: float
    expected: list[str] = []
    asked: str = ""
    host: str = ""
    code: int = 0
    absent: str = ""
    body: dict[str, Any] = {}


class Earlier:
    """The earlier part of a run that is resumed, from its journal."""

    def __init__(self, run: Run, lines: Iterable[_Line]) -> None:
        self.run = run
        self.expected: dict[str, None] = {}
        self.replies: dict[str, Reply] = {}
        self._asked: dict[str, float] = {}
        for line in lines:
            self.expected.update(dict.fromkeys(line.expected))
            if line.asked:
                self._asked[line.asked] = line.time
            if line.code and line.body.get("error") not in NOT_EXECUTED:
                self.replies[line.host] = Reply(line.host, line.code, line.body)

    def left(self) -> list[str]:
        """Returns the hosts to ask."""
        done = {*self.replies, *self.forgotten()}
        return [host for host in self.expected if host not in done]

    def forgotten(self) -> list[str]:
        """Returns hosts that may have executed the request and no longer know the reply."""
        return [
            host
            for host in self.expected
            if host not in self.replies
            and 0 < self._asked.get(host, 0.0) < time.time() - REPLAY_SEC
        ]


def runs_directory() -> Path:
    state = os.environ.get("XDG_STATE_HOME", "")
    base = Path(state) if state.startswith("/") else Path.home() / ".local" / "state"
    return base / "netsonde" / "runs"


def journal_path(request_id: str) -> Path:
    """A request id from --request-id may not be a file name."""
    name = request_id
    if not re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}", request_id):
        name = hashlib.sha256(request_id.encode(errors="replace")).hexdigest()
    return runs_directory() / f"{name}{SUFFIX}"


class Journal:
    """A Watcher that writes lines as things happen. A line is written at once."""

    def __init__(self, run: Run, pace: Pace, *, brief: bool = False) -> None:
        """brief: without the replies' bodies, for requests that change nothing. Raises OSError."""
        self._brief = brief
        path = journal_path(run.request_id)
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _prune(path.parent)
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        self._file = os.open(path, flags, 0o600)
        run.batch, run.max_failures = pace.batch, pace.failures_max
        if os.fstat(self._file).st_size == 0:
            self._write(run)

    def _write(self, line: msgspec.Struct) -> None:
        # A full disk must not end a rollout; the summary still shows each outcome.
        with suppress(OSError):
            os.write(self._file, msgspec.json.encode(line) + b"\n")

    def expect(self, hosts: Iterable[str]) -> None:
        self._write(_Line(time=time.time(), expected=list(hosts)))

    def asked(self, host: str) -> None:
        self._write(_Line(time=time.time(), asked=host))

    def replied(self, reply: Reply) -> None:
        body = {} if self._brief else reply.body
        if len(msgspec.json.encode(body)) > BODY_BYTES_MAX:
            body = {}
        self._write(_Line(time=time.time(), host=reply.host, code=reply.code, body=body))

    def absent(self, absence: Absence) -> None:
        """The absences are written at the end: a late reply may still replace one."""

    def close(self, outcome: Outcome) -> None:
        """Adds the absences."""
        for absence in outcome.absences:
            self._write(_Line(time=time.time(), host=absence.host, absent=absence.reason))
        with suppress(OSError):
            os.fsync(self._file)
        os.close(self._file)


def _prune(directory: Path) -> None:
    """Keeps the newest RUNS_MAX journals."""
    names = [entry for entry in os.scandir(directory) if entry.name.endswith(SUFFIX)]
    if len(names) < RUNS_MAX:
        return
    with suppress(OSError):
        names.sort(key=lambda entry: entry.stat().st_mtime)
        for entry in names[: len(names) - RUNS_MAX + 1]:
            os.unlink(entry.path)


def load(request_id: str) -> Earlier:
    """Reads a journal; a last line that was cut off is ignored. Raises ResumeError."""
    path = journal_path(request_id)
    try:
        data = path.read_bytes().splitlines()
    except OSError as error:
        reason = os.strerror(error.errno or 5).lower()
        raise ResumeError(f"There is no run {request_id} to resume: {path}: {reason}.") from None
    try:
        run = msgspec.json.decode(data[0] if data else b"", type=Run)
    except msgspec.DecodeError as error:
        raise ResumeError(f"The journal {path} cannot be read: {error}.") from None
    lines = []
    for text in data[1:]:
        with suppress(msgspec.DecodeError):
            lines.append(msgspec.json.decode(text, type=_Line))
    return Earlier(run, lines)
