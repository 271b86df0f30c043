"""The JavaScript collector of examples/, run by node against a real agent and a real stream."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agents import Fleet
from bus import Bus
from deadlines import eventually
from exports import conversations
from packets import Packet
from servers import NatsServer

pytestmark = pytest.mark.jetstream

EXAMPLE = Path(__file__).resolve().parents[2] / "examples/collector-js"
FILES = ("collector.js", "package.json", "package-lock.json")
FLOWS = 2500


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a copy of the example with the packages that its lock file names."""
    directory = tmp_path_factory.mktemp("collector")
    for name in FILES:
        shutil.copy(EXAMPLE / name, directory)
    command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return directory


def collect(installed: Path, url: str) -> tuple[int, list[dict[str, Any]], dict[str, int]]:
    """Returns the exit code, the records and the summary."""
    command = ["node", "collector.js", url, "2"]
    done = subprocess.run(command, cwd=installed, capture_output=True, text=True, check=False)
    assert done.stderr, "no summary"
    records = [json.loads(line) for line in done.stdout.splitlines()]
    return done.returncode, records, json.loads(done.stderr.splitlines()[-1])


async def test_each_record_is_collected_once_and_lies_are_refused(
    installed: Path,
    nats_server: NatsServer,
    fleet: Fleet,
    bus: Bus,
    capture_file: Callable[[list[Packet]], Path],
) -> None:
    spool = str(fleet.directory / "spool")
    fleet.start("alpha", flows={"jetstream": True, "spool_dir": spool})
    trace = str(capture_file(conversations(FLOWS)))
    await bus.ok("start", {"interface": trace, "backend": "file", "metering": {"enable": True}})

    async def finished() -> bool:
        return bool((await bus.ok("status"))["finished"])

    await eventually(finished, "the end of the file")
    stopped = await bus.ok("stop")

    async def stored() -> bool:
        return bool((await bus.request("status")).body["spool"]["records_waiting"] == 0)

    await eventually(stored, "the stream to have every record")
    code, records, summary = collect(installed, nats_server.url)
    assert summary == {"records": FLOWS, "duplicates": 0, "missing": 0, "refused": 0}
    assert code == 0
    assert len({record["flow_id"] for record in records}) == FLOWS
    packets = sum(record["packets"] for record in records)
    assert packets + stopped["packets_non_flow"] == stopped["packets_captured"] == FLOWS

    lie = {"host": "beta", "boot": "1", "seq": 1, "records": [records[0]]}
    await bus.client.jetstream().publish(
        "capture.stream.flows.alpha",
        json.dumps(lie).encode(),
        headers={"Content-Type": "application/json"},
    )
    code, records, summary = collect(installed, nats_server.url)
    assert (code, records, summary["refused"]) == (1, [], 1)
