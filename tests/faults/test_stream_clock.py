"""The wall clock of agent and collector jumps forward by hours and back by more.

A preloaded library changes the time of day that both read; the machine's clock is unchanged. Flow
timing and file rotation use a monotonic clock, so every record arrives exactly once.
"""

from __future__ import annotations

import struct
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from stage import LIVE_FLOWS, METERING, Stage, live_frames

import netns
from deadlines import eventually_now
from packets import SECOND_NS

SetStage = Callable[..., Stage]
STEPS_SEC = (30 * 3600, -20 * 3600)


class SteppedClock:
    """The time of day that the processes behind `prefix` read."""

    def __init__(self, directory: Path) -> None:
        source = Path(__file__).with_name("stepped_clock.c")
        library, self._file = directory / "stepped_clock.so", directory / "stepped_clock"
        command = ["cc", "-O2", "-shared", "-fPIC", "-o", str(library), str(source)]
        subprocess.run(command, check=True)
        self.set(0)
        self.prefix = ("env", f"LD_PRELOAD={library}", f"STEPPED_CLOCK={self._file}")

    def set(self, seconds: int) -> None:
        """Sets the offset from the machine's clock. Writes in place, because the file is mapped."""
        with self._file.open("r+b" if self._file.exists() else "wb") as file:
            file.write(struct.pack("=q", seconds * SECOND_NS))


@pytest.fixture
def clock(tmp_path: Path) -> SteppedClock:
    return SteppedClock(tmp_path)


def wait_for_file(stage: Stage, now_sec: float) -> None:
    """Waits until the collector has started a file on that day, by its own clock."""
    name = time.strftime("flows-%Y%m%dT*", time.gmtime(now_sec))
    eventually_now(lambda: list(stage.output.glob(name)), f"the collector to start {name}")


def test_clock_set_forward_and_back_loses_no_record(
    wire: netns.Wire, clock: SteppedClock, set_stage: SetStage
) -> None:
    stage = set_stage()
    stage.fleet.prefix += clock.prefix
    agent = stage.agent()
    stage.collect()
    stage.ask("start", {"interface": "sonde0", "backend": "af_packet", "metering": METERING})
    sender = wire.sender()
    frames, part = live_frames(), LIVE_FLOWS // 3
    sender.send(frames[:part])
    for number, seconds in enumerate(STEPS_SEC, 1):
        clock.set(seconds)
        eventually_now(lambda: "alarm: clock_step" in agent.log, "the step to be reported")
        # The next records start a new file, named after the stepped clock.
        eventually_now(
            lambda: not list(stage.output.glob("*.part")), "the last file to be complete"
        )
        sender.send(frames[number * part :][:part])
        wait_for_file(stage, time.time() + seconds)
    sender.close()
    stage.until(lambda status: status["packets_captured"] >= LIVE_FLOWS, "every packet")
    stopped = stage.stop()
    assert stopped["packets_captured"] == LIVE_FLOWS
    stage.settle("clock 30 h forward, 50 h back, live capture", stopped)
