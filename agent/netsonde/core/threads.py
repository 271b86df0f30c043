"""Blocking calls that must have ended before what they work on is taken away."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import TypeVar

_T = TypeVar("_T")


async def on_thread(function: Callable[[], _T], abandon: Callable[[], None] | None = None) -> _T:
    """Waits for its end also when cancelled; `abandon` is then called to make that soon."""
    call = asyncio.ensure_future(asyncio.to_thread(function))
    try:
        return await asyncio.shield(call)
    except asyncio.CancelledError:
        if abandon is not None:
            abandon()
        while not call.done():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait({call})
        call.exception()  # seen here: whoever wanted the result has gone
        raise
