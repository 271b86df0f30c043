"""Reasons that end a `packets` reply early, and the cleanup after each."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable, Coroutine, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import pytest

from deadlines import TIMEOUT_SEC, eventually
from netsonde.config.sections import BufferSection
from netsonde.core.capture import Capture
from netsonde.core.values import PacketQuery, PacketSummary
from netsonde.errors import Draining, NoSession, RequestError, RequestExpired, TooManyRequests
from netsonde.recorder import retrieval
from netsonde.recorder.export_file import ExportFile
from netsonde.recorder.retrieval import RUNNING_MAX, Retrievals

QUERY = PacketQuery("", 0, 0, 0, 0)


class FakeCapture:
    def __init__(self) -> None:
        self.closing = asyncio.Event()
        self.holders = 0

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        self.holders += 1
        try:
            yield
        finally:
            self.holders -= 1


class EndlessAnswer:
    """Returns blocks without limit."""

    open_now = 0

    def open(self, handle: Any, query: PacketQuery) -> None:
        type(self).open_now += 1

    def read(self) -> memoryview:
        return memoryview(bytes(1000))

    def abandon(self) -> None:
        pass

    def summary(self) -> PacketSummary:
        raise AssertionError("it has no end")

    def close(self) -> None:
        type(self).open_now -= 1


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    directory = tmp_path / "export"
    directory.mkdir()
    return directory


@pytest.fixture
def retrievals(directory: Path, monkeypatch: pytest.MonkeyPatch) -> Retrievals:
    monkeypatch.setattr(retrieval, "PacketReader", EndlessAnswer)
    settings = BufferSection(export_dir=str(directory))
    return Retrievals(settings, "alpha", lambda _: pytest.fail("no bucket was asked for"))


Work = Coroutine[Any, Any, Any]


async def begun(directory: Path) -> None:
    await eventually(lambda: os.listdir(directory), "a file that is being written")


def close_session(retrievals: Retrievals, capture: FakeCapture) -> None:
    capture.closing.set()


def close_agent(retrievals: Retrievals, capture: FakeCapture) -> None:
    retrievals.close()


@pytest.mark.parametrize(
    ("end", "error"), [(close_session, NoSession), (close_agent, Draining), (None, RequestExpired)]
)
async def test_early_end_leaves_no_file(
    retrievals: Retrievals,
    directory: Path,
    end: Callable[[Retrievals, FakeCapture], None] | None,
    error: type[RequestError],
) -> None:
    capture = FakeCapture()
    expires_at = None if end else datetime.now(UTC) + timedelta(seconds=0.2)
    work = retrievals.retrieve(cast(Capture, capture), QUERY, "file", expires_at)
    task = asyncio.create_task(work)
    if end is not None:  # the deadline may pass before the file exists
        await begun(directory)
        end(retrievals, capture)
    with pytest.raises(error):
        await asyncio.wait_for(task, TIMEOUT_SEC)
    assert os.listdir(directory) == []
    assert (capture.holders, EndlessAnswer.open_now) == (0, 0)


async def test_cancelled_caller_leaves_no_file(retrievals: Retrievals, directory: Path) -> None:
    capture = FakeCapture()
    work = retrievals.retrieve(cast(Capture, capture), QUERY, "file", None)
    task = asyncio.create_task(work)
    await begun(directory)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert os.listdir(directory) == []
    assert (capture.holders, EndlessAnswer.open_now) == (0, 0)


@pytest.mark.parametrize("step", ["open", "commit"])
async def test_cancelled_export_file_leaves_no_file(directory: Path, step: str) -> None:
    file = ExportFile(str(directory), "answer", bytes_max=1)

    async def cancelled(work: Work) -> None:
        task = asyncio.create_task(work)
        await asyncio.sleep(0)  # its thread runs now
        task.cancel()
        await task

    async def write_file() -> None:
        if step == "open":
            await cancelled(file.__aenter__())
        async with file:
            await cancelled(file.commit())

    with pytest.raises(asyncio.CancelledError):
        await write_file()
    assert os.listdir(directory) == []


async def test_concurrent_retrievals_are_limited(retrievals: Retrievals, directory: Path) -> None:
    capture = cast(Capture, FakeCapture())
    tasks = [
        asyncio.create_task(retrievals.retrieve(capture, QUERY, "file", None))
        for _ in range(RUNNING_MAX)
    ]
    await asyncio.sleep(0)
    with pytest.raises(TooManyRequests):
        await retrievals.retrieve(capture, QUERY, "file", None)
    retrievals.close()
    await asyncio.gather(*tasks, return_exceptions=True)
    with pytest.raises(Draining):
        await retrievals.retrieve(capture, QUERY, "file", None)


async def test_files_stay_within_the_limit(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retrieval, "PacketReader", EndlessAnswer)
    (directory / "earlier.pcapng").write_bytes(bytes(1_000_000))
    settings = BufferSection(export_dir=str(directory), export_mb=1)
    retrievals = Retrievals(settings, "alpha", lambda _: pytest.fail("no bucket was asked for"))
    with pytest.raises(RequestError) as caught:
        await retrievals.retrieve(cast(Capture, FakeCapture()), QUERY, "file", None)
    assert (caught.value.code, caught.value.error) == (503, "export_file_unavailable")
    assert os.listdir(directory) == ["earlier.pcapng"]
