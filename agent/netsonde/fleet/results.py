"""The results of a request as an iterator: each reply, and each absence, as it becomes known.

The iterator and the outcome agree at the end: the last result of a host is the one in the outcome.
A host has a second result only if the first was overtaken: a reply came after the deadline, or a
second agent replied under the same name.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable
from typing import Any, TypeAlias

from .outcome import Outcome
from .request import Watcher
from .scatter import Absence, Reply

Result: TypeAlias = Reply | Absence


class _Feed:
    """A Watcher that queues the results, and passes everything on to another Watcher."""

    def __init__(self, inner: Watcher | None) -> None:
        self.queue: asyncio.Queue[Result | None] = asyncio.Queue()
        self._inner = inner

    def expect(self, hosts: Iterable[str]) -> None:
        if self._inner is not None:
            self._inner.expect(hosts)

    def asked(self, host: str) -> None:
        if self._inner is not None:
            self._inner.asked(host)

    def replied(self, reply: Reply) -> None:
        self.queue.put_nowait(reply)
        if self._inner is not None:
            self._inner.replied(reply)

    def absent(self, absence: Absence) -> None:
        self.queue.put_nowait(absence)
        if self._inner is not None:
            self._inner.absent(absence)


async def stream_results(
    ask: Callable[[Watcher], Coroutine[Any, Any, object]],
    outcome: Outcome,
    watcher: Watcher | None = None,
) -> AsyncGenerator[Result, None]:
    """Yields the results of a request. ask: sends the request and fills in the outcome. Raises its
    error after the results that were known before. The request ends with the iterator."""
    feed = _Feed(watcher)
    request = asyncio.ensure_future(ask(feed))
    request.add_done_callback(lambda _: feed.queue.put_nowait(None))
    last: dict[str, Result] = {}
    try:
        while (result := await feed.queue.get()) is not None:
            last[result.host] = result
            yield result
        settled: list[Result] = [*outcome.replies, *outcome.absences]
        for result in settled:
            if last.get(result.host) != result:
                yield result
        await request
    finally:
        request.cancel()
        await asyncio.gather(request, return_exceptions=True)
