"""Checks BPF filters in a child process that can be killed.

libpcap may take minutes for one expression and cannot be interrupted. The program
`filter-compiler` compiles it for the link types of the source and resolves no names. An expression
that passed compiles in the core without DNS, in the time that was measured here.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import OrderedDict
from collections.abc import Sequence

from ..errors import Draining, InvalidFilter, TooManyRequests
from .library import PLUGIN_DIR, string_of

COMPILER = PLUGIN_DIR / "filter-compiler"
TIMEOUT_SEC = 2.0
RUNNING_MAX = 2
WAITING_MAX = 16
VERDICTS_MAX = 256

_Key = tuple[str, tuple[int, ...], bool]


class FilterChecks:
    def __init__(self) -> None:
        self._running = asyncio.Semaphore(RUNNING_MAX)
        self._waiting = 0
        self._verdicts: OrderedDict[_Key, str] = OrderedDict()  # "": valid
        self._checks: set[asyncio.Task[str]] = set()
        self._closed = False

    async def check(self, expression: str, link_types: Sequence[int], *, kernel: bool) -> None:
        """Raises InvalidFilter if it compiles for none of the link types within TIMEOUT_SEC, and
        TooManyRequests or Draining. kernel: the kernel runs the filter."""
        if not expression:
            return
        key = (expression, tuple(link_types), kernel)
        verdict = self._verdicts.get(key)
        if verdict is None:
            verdict = await self._compile_in_turn(key)
        if verdict:
            raise InvalidFilter(verdict)

    def close(self) -> None:
        """Kills the running checks and rejects new ones."""
        self._closed = True
        for check in self._checks:
            check.cancel()

    async def _compile_in_turn(self, key: _Key) -> str:
        if self._closed:
            raise Draining
        if self._waiting >= WAITING_MAX:
            raise TooManyRequests("Too many filters are being compiled; try again in a moment.")
        self._waiting += 1
        check = asyncio.create_task(self._compile(key))
        self._checks.add(check)
        try:
            return await check
        except asyncio.CancelledError:
            if self._closed and check.cancelled():
                raise Draining from None
            check.cancel()
            raise
        finally:
            self._checks.discard(check)
            self._waiting -= 1

    async def _compile(self, key: _Key) -> str:
        expression, link_types, kernel = key
        source = string_of(expression, InvalidFilter)
        async with self._running:
            verdict = await _run(source, link_types, "kernel" if kernel else "user")
        if verdict is None:
            return f"the filter did not compile within {TIMEOUT_SEC:g} s: write a simpler one"
        self._verdicts[key] = verdict
        while len(self._verdicts) > VERDICTS_MAX:
            self._verdicts.popitem(last=False)
        return verdict


async def _run(source: bytes, link_types: tuple[int, ...], place: str) -> str | None:
    """Returns the reason for an invalid filter, "" for a valid one, or None on timeout."""
    compiler = await asyncio.create_subprocess_exec(
        COMPILER,
        place,
        *map(str, link_types),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        env={},
    )
    try:
        async with asyncio.timeout(TIMEOUT_SEC):
            reason, _ = await compiler.communicate(source)
    except TimeoutError:
        return None
    finally:
        if compiler.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                compiler.kill()
            await asyncio.shield(compiler.wait())
    if compiler.returncode == 0:
        return ""
    text = reason.decode(errors="replace")
    return text or "the compiler of filters failed: write a simpler one"
