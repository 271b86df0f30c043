"""Runs the netsonde command in argv with a capture whose stop blocks a thread for an hour."""

from __future__ import annotations

import sys
import time

from netsonde.cli import main
from netsonde.core.capture import Capture


async def block(self: Capture) -> None:
    await self.lend(lambda _: time.sleep(3600))


if __name__ == "__main__":
    Capture.stop = block  # type: ignore[method-assign]
    sys.exit(main(sys.argv[2:]))
