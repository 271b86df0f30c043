"""Blocking calls that must end before their data is released."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import TypeVar

_T = TypeVar("_T")


async def on_thread(function: Callable[[], _T], abandon: Callable[[], None] | None = None) -> _T:
    """Waits for the end of the call, also when cancelled; calls `abandon` then."""
    call = asyncio.ensure_future(asyncio.to_thread(function))
    try:
        return await asyncio.shield(call)
    except asyncio.CancelledError:
        if abandon is not None:
            abandon()
        while not call.done():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait({call})
        call.exception()  # retrieved, so that asyncio does not log it
        raise
