"""The DuckDB queries of examples/ over what `netsonde collect` wrote."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import duckdb
import pytest

from agents import COMMAND, Fleet, client_flags
from bus import Bus
from deadlines import eventually
from exports import conversations
from packets import Packet
from servers import NatsServer
from stored import drained

pytestmark = pytest.mark.jetstream

QUERIES = Path(__file__).resolve().parents[2] / "examples/duckdb/queries.sql"
FLOWS = 400


def collect(server: NatsServer, directory: Path) -> None:
    command = [str(COMMAND), "collect", "-o", str(directory), "--format", "parquet"]
    done = subprocess.run(
        [*command, "--until-idle", "2", *client_flags(server.url)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


async def test_queries_add_up(
    nats_server: NatsServer,
    fleet: Fleet,
    bus: Bus,
    tmp_path: Path,
    capture_file: Callable[[list[Packet]], Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fleet.start("alpha", flows={"jetstream": True, "spool_dir": str(tmp_path / "spool")})
    trace = str(capture_file(conversations(FLOWS)))
    await bus.ok("start", {"interface": trace, "backend": "file", "metering": {"enable": True}})

    async def finished() -> bool:
        return bool((await bus.ok("status"))["finished"])

    await eventually(finished, "the end of the file")
    stopped = await bus.ok("stop")
    await drained(bus)
    collect(nats_server, tmp_path / "flows")
    monkeypatch.chdir(tmp_path)
    with duckdb.connect() as database:
        statements = database.extract_statements(QUERIES.read_text())
        totals, pairs, talkers = (database.execute(one).fetchall() for one in statements)
    ((records, packets, octets),) = totals
    assert records == FLOWS
    assert packets + stopped["packets_non_flow"] == stopped["packets_captured"]
    assert len(pairs) == 10
    assert pairs[0][2] * FLOWS == octets  # every flow has one packet of the same size
    assert len(talkers) == FLOWS
