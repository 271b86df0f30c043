"""The end of the agent's tasks."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from netsonde.daemon import drain
from netsonde.daemon.drain import cancel_tasks


def test_tasks_that_end_are_cancelled() -> None:
    async def run() -> None:
        assert await cancel_tasks()  # without a task
        sleeping = asyncio.create_task(asyncio.sleep(3600))
        await asyncio.sleep(0)
        assert await cancel_tasks()
        assert sleeping.cancelled()

    asyncio.run(run())


def test_a_task_that_does_not_end_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drain, "TASKS_SEC", 0.05)

    async def run() -> None:
        ends = asyncio.Event()

        async def stubborn() -> None:
            while not ends.is_set():
                with contextlib.suppress(asyncio.CancelledError):
                    await ends.wait()

        task = asyncio.create_task(stubborn())
        await asyncio.sleep(0)
        assert not await cancel_tasks()
        ends.set()
        await task

    asyncio.run(run())
