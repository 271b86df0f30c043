"""The ends of the stream fail: agent or collector is killed, the collector is slow or absent, the
spool's disk is full."""

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
SLOWLY = 0.25  # a quarter of the usual speed: the fault comes long before the end


def test_collector_killed_in_the_middle_of_a_file_loses_no_record(set_stage: SetStage) -> None:
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


def test_slow_and_late_collector_receives_every_record(set_stage: SetStage) -> None:
    stage = set_stage()
    stage.agent()
    stage.start()
    time.sleep(2)  # no collector runs
    process = stage.collect()
    for _ in range(3):
        time.sleep(0.5)
        os.kill(process.pid, signal.SIGSTOP)
        time.sleep(1.5)
        os.kill(process.pid, signal.SIGCONT)
    stage.settle("collector late, then slow", stage.finish())


# ---- the agent is killed -----------------------------------------------------------------


def test_agent_killed_between_two_batches_counts_its_losses(set_stage: SetStage) -> None:
    """Spooled records arrive; the next start counts the others as lost."""
    stage = set_stage()
    agent = stage.agent()
    stage.collect()
    stage.start(replay_speed=SLOWLY)
    stage.until(lambda status: status["records_sent"] > FLOWS // 4, "a quarter of the records")
    stage.servers[0].kill()  # so that much is only in the spool
    time.sleep(1.2)
    agent.kill()
    stage.servers[0].start()
    agent.start()
    spool = stage.spool()
    assert "alarm: unclean_end" in agent.log
    # Everything that was ever spooled is in the stream, and so in the files.
    eventually_now(stage.drained, "the collector to have read the whole stream")
    collected, doubled = stage.gather(1)
    collected_more = _stream_records(stage)
    assert doubled == 0
    assert collected.records == collected_more
    # Losses of the last second are unknown. Everything known a second earlier arrived or is
    # counted.
    at_mark = collected.packets + spool["packets_lost"]
    assert FLOWS // 4 < at_mark <= FLOWS
    assert spool["packets_lost"] > 0
    ROWS.append(
        Row("agent SIGKILL and restart (known to it)", at_mark, collected.records,
            spool["packets_lost"], doubled, 0, time.monotonic() - stage.began)
    )  # fmt: skip


def _stream_records(stage: Stage) -> int:
    """Checks that the stream holds every spooled record, according to the collector."""
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


def test_spool_disk_full_with_a_healthy_server_loses_nothing(
    tiny_disk: Path, set_stage: SetStage
) -> None:
    """The spool's limit exceeds the disk. Acks free space, so nothing is lost."""
    stage = set_stage()
    stage.agent(flows=spooled_on(tiny_disk, 64))
    stage.collect()
    stage.start()
    stage.settle("spool's disk full, server well", stage.finish())


def test_spool_disk_full_while_the_server_is_away_raises_an_alarm(
    tiny_disk: Path, set_stage: SetStage
) -> None:
    stage = set_stage()
    agent = stage.agent(flows=spooled_on(tiny_disk, 64))
    stage.collect()
    stage.start(replay_speed=SLOWLY)
    stage.until(lambda status: status["records_sent"] > 0, "the first records")
    stage.servers[0].kill()
    eventually_now(lambda: "alarm: records_lost" in agent.log, "the alarm")
    time.sleep(0.5)
    stage.servers[0].start()
    stopped = stage.finish()
    stage.settle("spool's disk full, server away", stopped, lost=stage.spool()["records_lost"])


def test_spool_limit_reached_while_the_server_is_away_drops_the_oldest(set_stage: SetStage) -> None:
    """The oldest records are dropped and counted exactly, an alarm is raised, and the stream
    recovers."""
    stage = set_stage()
    agent = stage.agent(flows={"spool_mb": 8})
    stage.collect()
    stage.start(replay_speed=SLOWLY)
    stage.until(lambda status: status["records_sent"] > 0, "the first records")
    stage.servers[0].kill()
    eventually_now(lambda: "alarm: records_lost" in agent.log, "the alarm")
    stage.servers[0].start()
    stopped = stage.finish()
    lost = stage.spool()["records_lost"]
    assert lost > 0
    stage.settle("spool of 8 MiB full, server away", stopped, lost=lost)
