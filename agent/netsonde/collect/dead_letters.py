"""Dead letters: the messages that cannot be read or believed, kept for a person.

    dead-letters.jsonl    {"subject", "reason", "time", "headers", "data": base64}, one per line

The file grows by whole commits like the files of records. A crash loses no letter, but the server
may deliver its message again, so a letter can be there twice. To settle the letters, move the
file away while the collector does not run: then they count no more.
"""

from __future__ import annotations

import os
import time
from base64 import b64encode
from pathlib import Path

import msgspec
from nats.aio.msg import Msg
from nats.errors import Error as NatsError

from ..wire.instant import rfc3339
from .files import append_durably
from .state import State, StateError

NAME = "dead-letters.jsonl"


class DeadLetters:
    """directory: None to keep nothing, for standard output."""

    def __init__(self, directory: Path | None) -> None:
        self._path = directory / NAME if directory else None
        self._fd = -1
        self._lines: list[bytes] = []

    def resume(self, state: State) -> None:
        """Removes letters that were written after the last commit."""
        if self._path is None:
            return
        try:
            size = self._path.stat().st_size
            if size > state.dead_letters_bytes:
                os.truncate(self._path, state.dead_letters_bytes)
            state.dead_letters_bytes = min(size, state.dead_letters_bytes)
        except FileNotFoundError:
            state.dead_letters_bytes = 0
            state.totals.dead_letters = state.totals.unreadable = 0
        except OSError as error:
            raise StateError(f"{self._path}: {error.strerror}") from None

    def add(self, message: Msg, reason: str) -> None:
        if self._path is None:
            return
        letter = {
            "subject": message.subject,
            "reason": reason,
            "time": rfc3339(_stored_ns(message)),
            "headers": message.headers or {},
            "data": b64encode(message.data).decode(),
        }
        self._lines.append(msgspec.json.encode(letter) + b"\n")

    def commit(self, state: State) -> None:
        """Returns when all letters are on disk. The caller saves the state."""
        if not self._lines or self._path is None:
            return
        if self._fd < 0:
            flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC
            self._fd = os.open(self._path, flags, 0o644)
            os.lseek(self._fd, 0, os.SEEK_END)
        data = b"".join(self._lines)
        append_durably(self._fd, state.dead_letters_bytes, data)
        self._lines.clear()
        state.dead_letters_bytes += len(data)


def _stored_ns(message: Msg) -> int:
    """Returns when the stream stored the message; without a stream, now."""
    try:
        return int(message.metadata.timestamp.timestamp() * 1e6) * 1000
    except (AttributeError, NatsError, ValueError):
        return time.time_ns()
