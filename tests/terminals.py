"""A command on a pseudo-terminal of 80 columns and 24 lines."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import struct
import subprocess
import termios
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from deadlines import eventually_now


class Terminal:
    """The screen and the keyboard of a running command."""

    def __init__(self, process: subprocess.Popen[bytes], keyboard: int) -> None:
        self._process = process
        self._keyboard = keyboard
        self._drawn = bytearray()

    @property
    def drawn(self) -> str:
        """All output so far, with escape sequences. The last character may be incomplete."""
        return self._read().decode(errors="replace")

    def wait_for(self, text: str) -> None:
        eventually_now(lambda: text.encode() in self._read(), f"{text!r} on the screen")

    def press(self, keys: str) -> None:
        os.write(self._keyboard, keys.encode())

    def wait_for_end(self) -> None:
        """Waits until the command has ended, and checks that it ended with 0."""
        eventually_now(self._ended, "the command to end")
        assert self._process.returncode == 0, bytes(self._drawn)

    def _ended(self) -> bool:
        self._read()
        return self._process.poll() is not None

    def _read(self) -> bytearray:
        """Reads all there is: one read of a terminal returns a part of that."""
        with contextlib.suppress(OSError):  # nothing to read yet, or the command has ended
            while data := os.read(self._keyboard, 65536):
                self._drawn.extend(data)
        return self._drawn


@contextmanager
def on_terminal(command: Sequence[str | Path]) -> Iterator[Terminal]:
    """Starts a command, and kills it at the end if it still runs."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    process = subprocess.Popen(
        command,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={**os.environ, "TERM": "xterm-256color"},
        start_new_session=True,
    )
    os.close(theirs)
    os.set_blocking(ours, False)
    try:
        yield Terminal(process, ours)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        os.close(ours)
