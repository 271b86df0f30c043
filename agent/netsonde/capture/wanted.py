"""Decides the step from the capture that runs to the capture that is wanted. No I/O.

Three sources can want a capture: a fleet policy, `[session]` and a persisted start. The first of
them that wants one decides. `decide` compares it with the session and returns one action.
"""

from __future__ import annotations

import enum
import random
from dataclasses import dataclass
from typing import Any

from ..wire.replies import WantedBy
from ..wire.requests import CaptureOptions

PRECEDENCE: tuple[WantedBy, ...] = ("policy", "config", "persist")
MANAGED: frozenset[WantedBy] = frozenset({"policy", "config"})  # a request needs an override

RETRY_MIN_SEC = 1.0
RETRY_MAX_SEC = 60.0
# Changed in the running session. Any other option needs a new session.
_LIVE_OPTIONS = frozenset({"metering", "export", "encryption", "record"})


@dataclass(frozen=True, slots=True)
class Wanted:
    by: WantedBy
    options: CaptureOptions

    @property
    def managed(self) -> bool:
        return self.by in MANAGED


@dataclass(frozen=True, slots=True)
class Running:
    """The session. options: those of the wanted capture that it was started for or last adjusted
    to; None for a session that a request started. changed: by an override since. ended: a live
    capture that ended by an error; a file that was read to its end has not ended."""

    options: CaptureOptions | None
    changed: bool = False
    ended: bool = False


class Action(enum.Enum):
    """ADJUST changes the running session without a gap. REPLACE stops it and starts another."""

    NOTHING = "nothing"
    START = "start"
    ADJUST = "adjust"
    REPLACE = "replace"
    STOP = "stop"


def decide(wanted: Wanted | None, running: Running | None, *, overridden: bool) -> Action:
    if overridden:
        return Action.NOTHING
    if wanted is None:
        unwanted = running is not None and running.options is not None
        return Action.STOP if unwanted else Action.NOTHING
    if running is None:
        return Action.START
    if running.ended or running.options is None:
        return Action.REPLACE
    if _fixed(running.options) != _fixed(wanted.options):
        return Action.REPLACE
    if running.changed or running.options != wanted.options:
        return Action.ADJUST
    return Action.NOTHING


def _fixed(options: CaptureOptions) -> dict[str, Any]:
    """Returns the options that stay as they are for the life of a session. Whether packets are
    recorded is one of them; encryption implies it."""
    fixed = {
        name: getattr(options, name)
        for name in CaptureOptions.__struct_fields__
        if name not in _LIVE_OPTIONS
    }
    sealed = options.encryption is not None and options.encryption.enable
    return fixed | {"recorded": options.record or sealed}


def capture_options(request: CaptureOptions) -> CaptureOptions:
    """Returns the capture that a `start` request describes, without the request's own fields."""
    return CaptureOptions(
        **{name: getattr(request, name) for name in CaptureOptions.__struct_fields__}
    )


class Backoff:
    """The waits between failed attempts: 1 s, doubled up to 60 s, with jitter."""

    def __init__(self) -> None:
        self._failures = 0

    def next_sec(self) -> float:
        longest = min(RETRY_MIN_SEC * 2.0**self._failures, RETRY_MAX_SEC)
        self._failures = min(self._failures + 1, 16)
        return max(RETRY_MIN_SEC, longest * random.uniform(0.5, 1.0))  # noqa: S311 - not a secret

    def reset(self) -> None:
        self._failures = 0
