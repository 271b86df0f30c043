"""The ClickHouse tables of examples/, filled with batches from a real stream by chDB."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from nats.js.api import AckPolicy, ConsumerConfig

from agents import Fleet
from bus import Bus
from exports import conversations
from packets import Packet
from stored import batches, store_flows

if TYPE_CHECKING:
    from chdb.session import Session

pytestmark = pytest.mark.jetstream

TABLES = Path(__file__).resolve().parents[2] / "examples/clickhouse/tables.sql"
FLOWS = 2500


def rows(session: Session, query: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in str(session.query(query, "JSONEachRow")).splitlines()]


async def test_tables_hold_each_record_once(
    fleet: Fleet, bus: Bus, tmp_path: Path, capture_file: Callable[[list[Packet]], Path]
) -> None:
    from chdb.session import Session  # `make test` installs it: the other tests run without it

    stopped = await store_flows(fleet, bus, capture_file(conversations(FLOWS)))
    await bus.client.jetstream().add_consumer(
        "CAPTURE_FLOWS", ConsumerConfig(durable_name="clickhouse", ack_policy=AckPolicy.EXPLICIT)
    )
    found = await batches(bus, "CAPTURE_FLOWS", "clickhouse")
    file = tmp_path / "batches.ndjson"
    file.write_text("".join(json.dumps(batch) + "\n" for batch in found))
    assert len(found) > 1

    session = Session(str(tmp_path / "clickhouse"))
    try:
        session.query(TABLES.read_text())
        for _ in range(2):  # the second time, each batch is a duplicate
            session.query(
                f"INSERT INTO batches FROM INFILE '{file}' "
                "SETTINGS input_format_skip_unknown_fields = 1 FORMAT JSONEachRow"
            )
        (totals,) = rows(
            session,
            "SELECT toUInt32(count()) AS records, toUInt32(sum(packets)) AS packets, "
            "toUInt32(sum(bytes)) AS bytes, toUInt32(uniqExact(flow_id)) AS flows, "
            "toUInt32(countIf(last_seen < first_seen)) AS reversed FROM flows FINAL",
        )
        records = [record for batch in found for record in batch["records"]]
        assert totals["records"] == totals["flows"] == FLOWS == len(records)
        assert totals["packets"] + stopped["packets_non_flow"] == stopped["packets_captured"]
        assert totals["bytes"] == sum(record["bytes"] for record in records)
        assert totals["reversed"] == 0
        first = records[0]
        (row,) = rows(session, f"SELECT * FROM flows FINAL WHERE flow_id = '{first['flow_id']}'")
        assert row["community_id"] == first["community_id"]
        assert row["first_seen"].replace(" ", "T") + "Z" == first["first_seen"]
        summed = rows(session, "SELECT toUInt32(sum(packets)) AS packets FROM pairs")
        assert summed == [{"packets": totals["packets"]}]
    finally:
        session.close()
