"""Replays a capture file through the agent: start, read to the end, stop, collect all records.

`replay` also checks packet conservation and the sequence of each flow's records.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bus import Bus, Collector, settled
from deadlines import eventually
from oracle import ACTIVE_NEVER_SEC, Record


@dataclass(frozen=True)
class Replay:
    status: Mapping[str, Any]  # after the last packet, before stop
    listing: Mapping[str, Any]  # `flows` at that moment
    stopped: Mapping[str, Any]
    records: list[dict[str, Any]]

    @property
    def non_empty(self) -> list[dict[str, Any]]:
        return [record for record in self.records if record["packets"]]


async def replay(
    bus: Bus,
    path: Path,
    *,
    idle_sec: int = 300,
    active_sec: int = ACTIVE_NEVER_SEC,
    host: str = "alpha",
    **options: Any,
) -> Replay:
    collector = await Collector.listen(bus, host)
    metering = {"enable": True, "flow_timeout_sec": idle_sec, "active_timeout_sec": active_sec}
    request = {"interface": str(path), "backend": "file", "metering": metering, **options}
    started = await bus.ok("start", request, host=host)
    status = await finished(bus, host)
    listing = await bus.ok("flows", {"limit": 10000}, host=host)
    stopped = await bus.ok("stop", host=host)
    records = await records_of(collector, started["session_id"], stopped)
    await collector.close()
    check_conservation(status)
    check_lives(records)
    in_flows = stopped["packets_captured"] - stopped["packets_non_flow"]
    assert sum(record["packets"] for record in records) == in_flows
    return Replay(status, listing, stopped, records)


async def finished(bus: Bus, host: str = "alpha") -> dict[str, Any]:
    """Returns the status of a session whose file has been read to the end."""

    async def ask() -> dict[str, Any] | None:
        status = await bus.ok("status", host=host)
        return status if status["finished"] else None

    return await eventually(ask, "the file to be read")


async def records_of(
    collector: Collector, session_id: str, stopped: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Returns all records of a stopped session, exactly as many as its reply says."""
    assert stopped["records_unsent"] == 0
    assert stopped["records_dropped"] == 0
    expected = stopped["records_sent"]
    assert expected == stopped["records"]
    await eventually(
        lambda: len(collector.of_session(session_id)) >= expected, f"{expected} records"
    )
    await settled(collector.bus.client)
    records = collector.of_session(session_id)
    assert len(records) == expected
    assert collector.problems == []
    assert collector.gaps() == []
    return records


def check_conservation(status: Mapping[str, Any]) -> None:
    """Checks captured = Σ packets over records + packets in active flows + packets_non_flow +
    unmetered."""
    assert status["packets_captured"] == (
        status["packets_recorded"]
        + status["packets_active"]
        + status["packets_non_flow"]
        + status["packets_unmetered"]
    ), status
    assert sum(status["non_flow"].values()) == status["packets_non_flow"]
    assert sum(status["records_by_reason"].values()) == status["records"]


def check_lives(records: Sequence[Record]) -> None:
    """Checks each flow_id: segments 0, 1, …; only the last record is final; totals are sums of
    deltas; times never run backwards."""
    lives: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        lives[record["flow_id"]].append(record)
        assert record["first_seen"] <= record["last_seen"], record
        assert record["reverse_packets"] <= record["packets"]
        assert record["reverse_bytes"] <= record["bytes"] <= record["l2_bytes"]
    for life in lives.values():
        life.sort(key=lambda record: record["segment"])
        assert [record["segment"] for record in life] == list(range(len(life)))
        assert [record["final"] for record in life] == [False] * (len(life) - 1) + [True]
        assert len({record["flow_start"] for record in life}) == 1
        for name in ("packets", "bytes"):
            total = 0
            for record in life:
                total += record[name]
                assert record[f"total_{name}"] == total, record
        for record in life[:-1]:
            assert record["packets"] > 0, "only a flow's last record may be empty"
            assert record["end_reason"] in ("active", "forced")
