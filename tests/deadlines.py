"""Waits for a condition instead of a fixed time.

`eventually` repeats a question until the answer is true or the deadline has passed. The deadline
allows for a slow machine; a test normally takes far less.
"""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable, Sized
from typing import Protocol, TypeVar, overload


class _Boolean(Protocol):
    def __bool__(self) -> bool: ...


Answer = TypeVar("Answer")
# A type that can be false. A coroutine cannot, so mypy does not mistake one for an answer.
Plain = TypeVar("Plain", bound=_Boolean | Sized)

TIMEOUT_SEC = 60.0
INTERVAL_SEC = 0.01


@overload
async def eventually(
    ask: Callable[[], Awaitable[Answer | None]],
    what: str,
    *,
    within_sec: float = ...,
    interval_sec: float = ...,
) -> Answer: ...
@overload
async def eventually(
    ask: Callable[[], Plain | None],
    what: str,
    *,
    within_sec: float = ...,
    interval_sec: float = ...,
) -> Plain: ...
async def eventually(
    ask: Callable[[], Answer | Awaitable[Answer | None] | None],
    what: str,
    *,
    within_sec: float = TIMEOUT_SEC,
    interval_sec: float = INTERVAL_SEC,
) -> Answer:
    """Returns the first true answer. `what` completes "timed out waiting for …". The last question
    begins after the deadline, so a pause of the machine during a question does not end the wait."""
    deadline = time.monotonic() + within_sec
    while True:
        last = time.monotonic() > deadline
        answer = ask()
        if inspect.isawaitable(answer):
            answer = await answer
        if answer:
            return answer
        if last:
            raise AssertionError(f"timed out after {within_sec} s waiting for {what}: {answer!r}")
        await asyncio.sleep(interval_sec)


def eventually_now(
    ask: Callable[[], Answer | None], what: str, *, within_sec: float = TIMEOUT_SEC
) -> Answer:
    """The blocking variant, for code without an event loop."""
    deadline = time.monotonic() + within_sec
    while True:
        last = time.monotonic() > deadline
        if answer := ask():
            return answer
        if last:
            raise AssertionError(f"timed out after {within_sec} s waiting for {what}")
        time.sleep(INTERVAL_SEC)
