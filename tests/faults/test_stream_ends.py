"""The ends of the stream fail: the agent and the collector are killed, the collector is slow
or not there, the spool's disk is full."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from stage import FLOWS, ROWS, Row, Stage

from deadlines import eventually_now

SetStage = Callable[..., Stage]


def test_collector_killed_in_the_middle_of_a_file(set_stage: SetStage) -> None:
    stage = set_stage()
    stage.agent()
    stage.collect()
    stage.start()
    for _ in range(3):
        time.sleep(1.5)
        stage.collectors[-1].kill()
        stage.collectors[-1].wait()
        stage.collect()
    stage.settle("collector SIGKILL, three times", stage.finish())


def test_collector_slow_and_late(set_stage: SetStage) -> None:
    stage = set_stage()
    stage.agent()
    stage.start()
    time.sleep(2)  # nobody collects
    process = stage.collect()
    for _ in range(3):
        time.sleep(0.5)
        os.kill(process.pid, signal.SIGSTOP)
        time.sleep(1.5)
        os.kill(process.pid, signal.SIGCONT)
    stage.settle("collector late, then slow", stage.finish())


# ---- the agent is killed -----------------------------------------------------------------


def test_agent_killed_between_two_batches(set_stage: SetStage) -> None:
    """What had reached the spool arrives; what had not is counted at the next start."""
    stage = set_stage()
    agent = stage.agent()
    stage.collect()
    stage.start()
    stage.until(lambda status: status["records_sent"] > FLOWS // 4, "a quarter of the records")
    stage.servers[0].kill()  # so that much lies in the spool alone
    time.sleep(1.2)
    agent.kill()
    stage.servers[0].start()
    agent.start()
    spool = stage.spool()
    assert "alarm: unclean_end" in agent.log
    # In the stream and with it in the files: everything that ever was in the spool.
    eventually_now(stage.drained, "the collector to have all that the stream has")
    collected, doubled = stage.gather(1)
    collected_more = _stream_records(stage)
    assert doubled == 0
    assert collected.records == collected_more
    # Nobody can know of the last second; but everything known a second before is either here
    # or counted.
    at_mark = collected.packets + spool["packets_lost"]
    assert FLOWS // 4 < at_mark <= FLOWS
    assert spool["packets_lost"] > 0
    ROWS.append(
        Row("agent SIGKILL and restart (known to it)", at_mark, collected.records,
            spool["packets_lost"], doubled, 0, time.monotonic() - stage.began)
    )  # fmt: skip


def _stream_records(stage: Stage) -> int:
    """What the stream holds: every spooled record, by the collector's own account."""
    state = json.loads((stage.output / "state.json").read_bytes())
    assert not any(
        len(ranges) > 1 for boots in state["ledger"]["seen"].values() for ranges in boots.values()
    ), "a gap"
    return int(state["totals"]["records"])


# ---- the spool's disk is full ------------------------------------------------------------


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    directory = tmp_path / "tiny"
    directory.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(directory)], check=True)
    yield directory
    subprocess.run(["umount", "-l", str(directory)], check=True)


def spooled_on(directory: Path, spool_mb: int) -> dict[str, Any]:
    return {"spool_dir": directory / "spool", "spool_mb": spool_mb}


def test_spool_disk_full_with_a_healthy_server(tiny_disk: Path, set_stage: SetStage) -> None:
    """The bound is above what the disk has; acknowledgements make room, so nothing is lost."""
    stage = set_stage()
    stage.agent(flows=spooled_on(tiny_disk, 64))
    stage.collect()
    stage.start()
    stage.settle("spool's disk full, server well", stage.finish())


def test_spool_disk_full_while_the_server_is_away(tiny_disk: Path, set_stage: SetStage) -> None:
    stage = set_stage()
    agent = stage.agent(flows=spooled_on(tiny_disk, 64))
    stage.collect()
    stage.start()
    time.sleep(1.2)
    stage.servers[0].kill()
    eventually_now(lambda: "alarm: records_lost" in agent.log, "the alarm")
    time.sleep(0.5)
    stage.servers[0].start()
    stopped = stage.finish()
    stage.settle("spool's disk full, server away", stopped, lost=stage.spool()["records_lost"])


def test_spool_bound_reached_while_the_server_is_away(set_stage: SetStage) -> None:
    """Oldest dropped, the loss exact, an alarm, and recovery by itself."""
    stage = set_stage()
    agent = stage.agent(flows={"spool_mb": 8})
    stage.collect()
    stage.start()
    time.sleep(1.2)
    stage.servers[0].kill()
    eventually_now(lambda: "alarm: records_lost" in agent.log, "the alarm")
    stage.servers[0].start()
    stopped = stage.finish()
    lost = stage.spool()["records_lost"]
    assert lost > 0
    stage.settle("spool of 8 MiB full, server away", stopped, lost=lost)
