"""Where the spool's reader stands, kept in a file of two slots that are written in turn."""

from __future__ import annotations

import os
from pathlib import Path

from .format import POSITION_SLOT_BYTES, Position, pack_position, unpack_position


class PlaceFile:
    def __init__(self, path: Path) -> None:
        self.fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._turn = 0

    def read(self) -> Position:
        """The newer of the whole slots; the beginning if there is none."""
        data = os.pread(self.fd, 2 * POSITION_SLOT_BYTES, 0)
        slots = (data[:POSITION_SLOT_BYTES], data[POSITION_SLOT_BYTES:])
        whole = [found for slot in slots if (found := unpack_position(slot)) is not None]
        if not whole:
            return Position()
        self._turn, position = max(whole, key=lambda found: found[0])
        return position

    def write(self, position: Position) -> None:
        slot = pack_position(position, self._turn + 1)
        try:
            os.pwrite(self.fd, slot, ((self._turn + 1) % 2) * POSITION_SLOT_BYTES)
        except OSError:
            return  # after a crash more is sent again, under the same ids; better than to stop
        self._turn += 1

    def close(self) -> None:
        os.close(self.fd)
