"""Limits of `firmware.verify`: how many run at a time, and exact file sizes."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest

from deadlines import TIMEOUT_SEC, eventually
from netsonde.config.sections import FirmwareSection
from netsonde.errors import Draining, TooManyRequests
from netsonde.firmware import verify as module
from netsonde.firmware.verdict import AbandonedError
from netsonde.firmware.verify import RUNNING_MAX, SIGNATURE_BYTES_MAX, Firmware
from netsonde.wire.replies import FirmwareReply
from netsonde.wire.requests import FirmwareRequest

REQUEST = FirmwareRequest(firmware_path="a", signature_path="b")
ACCEPTED = FirmwareReply(valid=True, signature_valid=True, firmware_hash="", message="")


class Verifications:
    """Replaces the blocking verification by one that waits for `go`."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.abandoned: list[threading.Event] = []

    def __call__(
        self, settings: FirmwareSection, request: FirmwareRequest, abandoned: threading.Event
    ) -> FirmwareReply:
        self.abandoned.append(abandoned)
        while not self.go.wait(0.01):
            if abandoned.is_set():
                raise AbandonedError
        return ACCEPTED


@pytest.fixture
def running(monkeypatch: pytest.MonkeyPatch) -> Verifications:
    verifications = Verifications()
    monkeypatch.setattr(module, "verify", verifications)
    return verifications


async def full(firmware: Firmware, running: Verifications) -> list[asyncio.Task[FirmwareReply]]:
    tasks = [asyncio.create_task(firmware.verify(REQUEST)) for _ in range(RUNNING_MAX)]
    await eventually(lambda: len(running.abandoned) == RUNNING_MAX, "every slot in use")
    with pytest.raises(TooManyRequests):
        await firmware.verify(REQUEST)
    return tasks


async def test_slots_are_free_again_after_each_end(running: Verifications) -> None:
    firmware = Firmware(FirmwareSection())
    async with asyncio.timeout(TIMEOUT_SEC):
        cancelled = await full(firmware, running)
        for task in cancelled:
            task.cancel()
        assert all(
            isinstance(end, asyncio.CancelledError)
            for end in await asyncio.gather(*cancelled, return_exceptions=True)
        )
        assert all(abandoned.is_set() for abandoned in running.abandoned)
        running.abandoned.clear()
        finished = await full(firmware, running)
        running.go.set()
        assert await asyncio.gather(*finished) == [ACCEPTED] * RUNNING_MAX
        assert await firmware.verify(REQUEST) == ACCEPTED


async def test_close_ends_running_verifications_and_rejects_new_ones(
    running: Verifications,
) -> None:
    firmware = Firmware(FirmwareSection())
    async with asyncio.timeout(TIMEOUT_SEC):
        tasks = await full(firmware, running)
        firmware.close()
        ends = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(end) for end in ends] == [Draining] * RUNNING_MAX
    with pytest.raises(Draining):
        await firmware.verify(REQUEST)


@pytest.mark.parametrize(("more", "read"), [(0, 0), (1, 1)])
def test_a_signature_file_is_read_up_to_one_byte_above_the_limit(
    tmp_path: Path, more: int, read: int
) -> None:
    file = tmp_path / "signature"
    file.write_bytes(bytes(SIGNATURE_BYTES_MAX + more))
    with file.open("rb") as opened:
        assert len(module._read_small(opened.fileno())) == SIGNATURE_BYTES_MAX + read


@pytest.mark.parametrize("size", [0, 1, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, 2 << 20])
def test_firmware_is_read_up_to_the_limit(tmp_path: Path, size: int) -> None:
    file = tmp_path / "firmware"
    file.write_bytes(b"x" * size)
    limit = 1 << 20
    with file.open("rb") as opened:
        head = module._feed(opened.fileno(), {}, limit, threading.Event())
    assert head == (b"x" * size if size <= limit else None)


def test_an_abandoned_pass_stops(tmp_path: Path) -> None:
    file = tmp_path / "firmware"
    file.write_bytes(b"x")
    abandoned = threading.Event()
    abandoned.set()
    with file.open("rb") as opened, pytest.raises(AbandonedError):
        module._feed(opened.fileno(), {}, 1, abandoned)
