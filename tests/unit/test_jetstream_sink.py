"""The spool's mark and recovery: what an unclean end costs, to the record. No server is needed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from netsonde.bus.connection import Connection
from netsonde.bus.publisher import Publisher
from netsonde.config.sections import FlowsSection, NatsSection
from netsonde.core.values import Batch, Stats
from netsonde.errors import ConfigError
from netsonde.sinks.jetstream import MARK_BYTES, JetStreamSink, read_mark, spool_directory

RECORDS, PACKETS = 4, 40


class Events:
    def __init__(self) -> None:
        self.emitted: list[tuple[str, str, dict[str, Any]]] = []

    def emit(self, kind: str, event: str, detail: str = "", **more: Any) -> None:
        self.emitted.append((kind, event, more["data"]))


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "spool"


def opened(directory: Path) -> tuple[JetStreamSink, Events]:
    events = Events()
    connection = Connection(NatsSection(), host="alpha", purpose="data")
    publisher = Publisher(connection, root="capture", host="alpha", boot="b")
    settings = FlowsSection(spool_dir=str(directory), spool_mb=4)
    sink = JetStreamSink(connection, publisher, cast(Any, events), settings)
    sink.open()
    return sink, events


@pytest.fixture
def sink(directory: Path) -> Iterator[JetStreamSink]:
    made, _ = opened(directory)
    yield made
    made.close()


def made_by(records: int, packets: int) -> Stats:
    """Counters of a core whose ring dropped 3 records with 7 packets."""
    return Stats(
        records=records + 3,
        records_dropped=3,
        packets_captured=packets + 5 + 6 + 7,
        packets_non_flow=5,
        packets_unmetered=6,
        packets_records_dropped=7,
    )


async def send(sink: JetStreamSink) -> None:
    assert await sink.send("s1", "json", Batch(b"[]", RECORDS, PACKETS, 1, 2))


async def test_unclean_end_counts_what_never_reached_the_spool(
    sink: JetStreamSink, directory: Path
) -> None:
    await send(sink)  # before the session
    sink.mark("s1", made_by(0, 0))
    await send(sink)
    sink.mark("s1", made_by(10, 100))
    sink.close()
    after, events = opened(directory)
    assert events.emitted == [
        (
            "lifecycle",
            "spool_recovered",
            {"records": 2 * RECORDS, "packets": 2 * PACKETS, "records_lost": 0, "torn": 0},
        ),
        (
            "alarm",
            "unclean_end",
            {"records_lost": 10 - RECORDS, "packets_lost": 100 - PACKETS},
        ),
    ]
    state = after.state()
    assert (state.records_lost, state.packets_lost) == (10 - RECORDS, 100 - PACKETS)
    assert state.records_waiting == 2 * RECORDS
    assert state.bytes_max == 4 << 20
    after.close()
    again, events = opened(directory)  # counted once
    assert [event for _, event, _ in events.emitted] == ["spool_recovered"]
    assert again.state().records_lost == 10 - RECORDS
    again.close()


async def test_spool_ahead_of_the_mark_loses_nothing(sink: JetStreamSink, directory: Path) -> None:
    """The mark is written every second, batches come in between."""
    sink.mark("s1", made_by(1, 10))
    await send(sink)
    sink.close()
    after, events = opened(directory)
    assert events.emitted[-1] == ("alarm", "unclean_end", {"records_lost": 0, "packets_lost": 0})
    after.close()


async def test_clean_end_raises_no_alarm(sink: JetStreamSink, directory: Path) -> None:
    sink.mark("s1", made_by(10, 100))
    sink.unmark()
    sink.close()
    after, events = opened(directory)
    assert events.emitted == []
    after.close()


def test_damaged_mark_is_no_mark(tmp_path: Path) -> None:
    made, _ = opened(tmp_path / "s")
    made.mark("s1", made_by(10, 100))
    made.close()
    good = (tmp_path / "s" / "mark").read_bytes()
    assert len(good) == MARK_BYTES
    file = os.open(tmp_path / "s" / "mark", os.O_RDWR)
    mark = read_mark(file)
    assert mark is not None
    assert (mark.session_id, mark.records, mark.packets) == ("s1", 10, 100)
    used = 8 + int.from_bytes(good[:4], "little")
    for position in range(used):
        os.pwrite(file, bytes([good[position] ^ 1]), position)
        assert read_mark(file) is None
        os.pwrite(file, good[position : position + 1], position)
    assert read_mark(file) == mark
    os.ftruncate(file, 0)
    assert read_mark(file) is None
    os.close(file)


def test_unusable_directory_is_named(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "mark").mkdir()
    with pytest.raises(ConfigError, match=r"flows.spool_dir: .*directory"):
        opened(tmp_path / "s")


@pytest.mark.parametrize(
    ("configured", "state", "expected"),
    [
        ("/a", "/b", "/a"),
        ("", "/b", "/b/spool"),
        ("", "/b:/c", "/b/spool"),
        ("", "", "/var/lib/netsonde/spool"),
    ],
)
def test_spool_directory(
    monkeypatch: pytest.MonkeyPatch, configured: str, state: str, expected: str
) -> None:
    monkeypatch.setenv("STATE_DIRECTORY", state)
    assert spool_directory(FlowsSection(spool_dir=configured)) == Path(expected)
