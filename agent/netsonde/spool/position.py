"""The spool's position file: two slots, written alternately."""

from __future__ import annotations

import os
from pathlib import Path

from .format import POSITION_SLOT_BYTES, Position, pack_position, unpack_position


class PositionFile:
    def __init__(self, path: Path) -> None:
        self.fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._sequence = 0

    def read(self) -> Position:
        """Returns the newer valid slot, else the start of the spool."""
        data = os.pread(self.fd, 2 * POSITION_SLOT_BYTES, 0)
        slots = (data[:POSITION_SLOT_BYTES], data[POSITION_SLOT_BYTES:])
        valid = [found for slot in slots if (found := unpack_position(slot)) is not None]
        if not valid:
            return Position()
        self._sequence, position = max(valid, key=lambda found: found[0])
        return position

    def write(self, position: Position) -> None:
        sequence = self._sequence + 1
        slot = pack_position(position, sequence)
        try:
            os.pwrite(self.fd, slot, (sequence % 2) * POSITION_SLOT_BYTES)
        except OSError:
            return  # after a crash more messages are resent, with the same ids
        self._sequence = sequence

    def close(self) -> None:
        os.close(self.fd)
