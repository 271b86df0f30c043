"""A start that is still in progress when the agent stops."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, cast

import pytest

from deadlines import TIMEOUT_SEC
from netsonde.capture.pump import Sink
from netsonde.capture.sessions import Sessions
from netsonde.config.sections import CaptureSection, Config
from netsonde.core.capture import Capture
from netsonde.errors import Draining
from netsonde.service.events import Events
from netsonde.wire.requests import StartRequest
from packets import write_pcap


async def no_metrics(reply: Any) -> None:
    pass


async def test_start_during_close_leaves_no_session(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opening, resume = asyncio.Event(), asyncio.Event()
    opened: list[Capture] = []
    really_open = Capture.open

    async def open_slowly(*arguments: Any) -> Capture:
        opening.set()
        await resume.wait()
        opened.append(await really_open(*arguments))
        return opened[0]

    monkeypatch.setattr(Capture, "open", open_slowly)
    write_pcap(tmp_path / "empty.pcap", [])
    config = Config(capture=CaptureSection(replay_dirs=[str(tmp_path)]))
    async with asyncio.timeout(TIMEOUT_SEC), asyncio.TaskGroup() as tasks:
        sessions = Sessions(
            config, cast(Sink, None), cast(Events, None), tasks, publish_metrics=no_metrics
        )
        request = StartRequest(interface=str(tmp_path / "empty.pcap"), backend="file")
        starting = asyncio.create_task(sessions.start(request))
        await opening.wait()
        closing = asyncio.create_task(sessions.close(0.0))
        await asyncio.sleep(0)
        resume.set()
        with pytest.raises(Draining):
            await starting
        await closing
        assert sessions.current is None
        assert opened[0].closing.is_set()
