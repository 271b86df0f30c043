"""A blocking call that is cancelled: its data is released only after it has ended."""

from __future__ import annotations

import asyncio
import threading

import pytest

from deadlines import TIMEOUT_SEC, eventually
from netsonde.core.threads import on_thread


@pytest.mark.parametrize("abandons", [False, True])
async def test_cancelled_caller_waits_for_the_call(abandons: bool) -> None:
    begun, go, abandoned = threading.Event(), threading.Event(), threading.Event()

    def work() -> str:
        begun.set()
        assert go.wait(TIMEOUT_SEC)
        return "done"

    call = on_thread(work, abandoned.set) if abandons else on_thread(work)
    task = asyncio.create_task(call)
    async with asyncio.timeout(TIMEOUT_SEC):
        await eventually(begun.is_set, "the call")
        task.cancel()
        await asyncio.sleep(0.02)
        assert not task.done()
        assert abandoned.is_set() is abandons
        task.cancel()  # a second time
        await asyncio.sleep(0.02)
        assert not task.done()
        go.set()
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_result_and_error_are_passed_on() -> None:
    assert await on_thread(lambda: 7) == 7
    with pytest.raises(ZeroDivisionError):
        await on_thread(lambda: 1 // 0)
