"""Parquet files: what the part file holds, how many rows a group has, when files are converted."""

from __future__ import annotations

import json
import struct
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any

import msgspec
import pyarrow
import pyarrow.parquet
import pytest

from netsonde.collect import parquet as parquet_module
from netsonde.collect.batches import JSON, Batch
from netsonde.collect.columns import SCHEMA, WORDS
from netsonde.collect.files import PART
from netsonde.collect.parquet import ParquetFiles, complete, lines_tables
from netsonde.collect.state import State, StateError

FRAME = struct.Struct("<BxHHI")
LINES, IPFIX_FRAME = 1, 2


def batch(first: int, count: int) -> Batch:
    """Returns a JSON batch with the flows `first` and following."""
    records = [
        msgspec.Raw(b'{"flow_id":"%d","packets":1,"bytes":60}' % one)
        for one in range(first, first + count)
    ]
    return Batch("alpha", "b", first, "s", JSON, records, b"")


def ipfix(packets: list[int]) -> bytes:
    """Returns an IPFIX message with a template and one record per number of packets."""
    template = struct.pack("!HHHHHH", 256, 2, 8, 4, 2, 8)
    body = b"".join(bytes((198, 18, 0, 1)) + count.to_bytes(8, "big") for count in packets)
    sets = struct.pack("!HH", 2, 4 + len(template)) + template
    sets += struct.pack("!HH", 256, 4 + len(body)) + body
    return struct.pack("!HHIII", 10, 16 + len(sets), 1_767_225_600, 0, 0) + sets


def frame(kind: int, payload: bytes, host: bytes = b"", session_id: bytes = b"") -> bytes:
    return FRAME.pack(kind, len(host), len(session_id), len(payload)) + host + session_id + payload


def flows(path: Path) -> list[str]:
    found: list[str] = pyarrow.parquet.read_table(path).column("flow_id").to_pylist()
    return found


class HeldExecutor(Executor):
    """Converts when asked for the result, so that a test sees which files were waited for."""

    def __init__(self) -> None:
        self.submitted: list[Path] = []

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        self.submitted.append(args[0])

        class Held(Future[Any]):
            def result(self, timeout: float | None = None) -> Any:
                if not self.done():
                    self.set_result(fn(*args, **kwargs))
                return super().result(timeout)

        return Held()


def test_part_file_of_an_earlier_version_is_converted(tmp_path: Path) -> None:
    """The bytes on disk are a format: an upgrade continues with the file that it finds."""
    path = tmp_path / "flows-1.parquet"
    part = path.with_name(path.name + PART)
    part.write_bytes(
        frame(IPFIX_FRAME, ipfix([3, 4]), b"alpha", "sitz\u00fcng".encode())
        + frame(LINES, b'{"host":"beta","packets":5}\n{"host":"beta","packets":6}')
        + frame(LINES, b"")
        + frame(IPFIX_FRAME, ipfix([7]), b"gamma", b"s")
    )
    complete(path)
    table = pyarrow.parquet.read_table(path)
    rows = sorted(
        zip(*(table.column(name).to_pylist() for name in ("packets", "host")), strict=True)
    )
    assert rows == [(3, "alpha"), (4, "alpha"), (5, "beta"), (6, "beta"), (7, "gamma")]
    assert set(table.column("session_id").to_pylist()) == {"sitz\u00fcng", None, "s"}
    assert not part.exists()
    assert list(tmp_path.iterdir()) == [path]


def test_written_part_file_has_this_format(tmp_path: Path) -> None:
    files, state = ParquetFiles(tmp_path, HeldExecutor()), State(format="parquet", stream="")
    files.add(batch(1, 2))
    data = ipfix([1])
    files.add(Batch("alpha", "b", 2, "s", "application/ipfix", [], data, 1))
    assert list(tmp_path.iterdir()) == []
    files.commit(state)
    assert state.file is not None
    part = tmp_path / (state.file.name + PART)
    whole = part.read_bytes()
    assert whole.endswith(frame(IPFIX_FRAME, data, b"alpha", b"s"))
    lines = whole[FRAME.size : -len(frame(IPFIX_FRAME, data, b"alpha", b"s"))].split(b"\n")
    assert FRAME.unpack(whole[: FRAME.size]) == (LINES, 0, 0, len(b"\n".join(lines)))
    assert [json.loads(line)["flow_id"] for line in lines] == ["1", "2"]
    assert (state.file.bytes, state.file.records) == (len(whole), 3)
    files.commit(state)  # nothing new
    assert part.read_bytes() == whole
    files.add(batch(3, 1))
    files.commit(state)
    assert state.file.records == 4
    assert state.file.bytes == part.stat().st_size > len(whole)


def test_empty_part_file_becomes_an_empty_table(tmp_path: Path) -> None:
    path = tmp_path / "flows-1.parquet"
    path.with_name(path.name + PART).write_bytes(frame(LINES, b""))
    complete(path)
    table = pyarrow.parquet.read_table(path)
    assert (table.num_rows, table.schema.names) == (0, SCHEMA.names)


@pytest.mark.parametrize(("rows", "groups"), [(10, [10, 4]), (11, [12, 2]), (14, [14]), (15, [14])])
def test_row_groups_are_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: int, groups: list[int]
) -> None:
    """Batches are read until a group has `rows` rows, whatever their encoding."""
    monkeypatch.setattr(parquet_module, "ROW_GROUP_ROWS", rows)
    path = tmp_path / "flows-1.parquet"
    line = b'{"host":"beta","packets":2}'
    frames = [
        frame(IPFIX_FRAME, ipfix([1] * 2), b"alpha", b"s"),
        frame(LINES, b"\n".join([line] * 2)),
    ]
    path.with_name(path.name + PART).write_bytes(b"".join((frames * 4)[:7]))
    complete(path)
    metadata = pyarrow.parquet.ParquetFile(path).metadata
    found = [metadata.row_group(place).num_rows for place in range(metadata.num_row_groups)]
    assert found == groups
    table = pyarrow.parquet.read_table(path)
    assert sorted(table.column("host").to_pylist()) == ["alpha"] * 8 + ["beta"] * 6


def test_reader_finds_times_by_statistics_and_words_by_dictionary(tmp_path: Path) -> None:
    path = tmp_path / "flows-1.parquet"
    line = (b'{"host":"beta","flow_id":"1","packets":2,"first_seen":"2026-01-02T03:04:05Z",'
            b'"last_seen":"2026-01-02T03:04:05Z","flow_start":"2026-01-02T03:04:05Z"}')  # fmt: skip
    path.with_name(path.name + PART).write_bytes(frame(LINES, b"\n".join([line] * 100)))
    complete(path)
    file = pyarrow.parquet.ParquetFile(path)
    group = file.metadata.row_group(0)
    columns = {one.path_in_schema: one for one in map(group.column, range(group.num_columns))}
    searched = {name for name, one in columns.items() if one.is_stats_set}
    assert searched == {"first_seen", "last_seen", "flow_start"}
    coded = {name for name, one in columns.items() if one.has_dictionary_page}
    assert {*WORDS, "dest_port"} <= coded
    assert not {"flow_id", "packets", "first_seen", "more"} & coded
    assert {one.compression for one in columns.values()} == {"SNAPPY"}
    assert file.metadata.metadata is None  # plain types for every reader, no Arrow schema


def test_line_that_arrow_refuses_costs_no_other_line() -> None:
    good = [b'{"flow_id":"%d","packets":1}' % number for number in range(5)]
    bad = b'{"flow_id":"x","first_seen":"2026-13-01T00:00:00Z"}'
    for place in range(5):
        lines = [*good[:place], bad, *good[place:]]
        for payloads in (
            lines,
            [b"\n".join(lines)],
            [b"\n".join(lines[:2]), b"\n".join(lines[2:])],
        ):
            table = pyarrow.concat_tables(lines_tables(payloads))
            found = table.column("flow_id").to_pylist()
            assert found == [*"01234"[:place], None, *"01234"[place:]]
            more = [one for one in table.column("more").to_pylist() if one is not None]
            assert more == [bad.decode()]


def test_collector_waits_only_beyond_three_unconverted_files(tmp_path: Path) -> None:
    executor = HeldExecutor()
    files, state = ParquetFiles(tmp_path, executor), State(format="parquet", stream="")
    for number in range(1, 5):
        files.add(batch(number, 1))
        files.commit(state)
        files.rotate(state)
        assert state.file is None
        assert len(executor.submitted) == number
        assert len(state.closing) == min(number, 3)
    assert [flows(path) for path in tmp_path.glob("*.parquet")] == [["1"]]
    files.rotate(state)  # no file
    files.poll(state)  # none is ready
    assert len(state.closing) == 3
    files._converting[state.closing[1]].result()
    files.poll(state)
    assert len(state.closing) == 2
    files.drain(state)
    assert state.closing == []
    assert sorted(flow for path in tmp_path.glob("*.parquet") for flow in flows(path)) == [*"1234"]
    assert len(executor.submitted) == 4
    assert list(tmp_path.glob(f"*{PART}")) == []


def test_resume_converts_closing_files_and_continues_the_growing_one(tmp_path: Path) -> None:
    files, state = ParquetFiles(tmp_path, HeldExecutor()), State(format="parquet", stream="")
    for number in (1, 2):
        files.add(batch(number, 1))
        files.commit(state)
        if number == 1:
            files.rotate(state)
    assert state.file is not None
    growing = tmp_path / (state.file.name + PART)
    with growing.open("ab") as file:
        file.write(b"not committed")
    unknown = tmp_path / f"flows-0.parquet{PART}"
    unknown.write_bytes(b"of a run before its first commit")
    again = ParquetFiles(tmp_path, executor := HeldExecutor())
    again.resume(state)
    assert growing.stat().st_size == state.file.bytes
    assert not unknown.exists()
    assert [path.name for path in executor.submitted] == state.closing
    again.add(batch(3, 1))
    again.commit(state)
    again.rotate(state)
    again.drain(state)
    assert sorted(flow for path in tmp_path.glob("*.parquet") for flow in flows(path)) == [*"123"]


def test_resume_after_a_crash_between_conversion_and_state(tmp_path: Path) -> None:
    files, state = ParquetFiles(tmp_path, HeldExecutor()), State(format="parquet", stream="")
    files.add(batch(1, 1))
    files.commit(state)
    assert state.file is not None
    path = tmp_path / state.file.name
    part = path.with_name(path.name + PART)
    parquet_module.convert(part, path)
    ParquetFiles(tmp_path, HeldExecutor()).resume(state)
    assert state.file is None
    assert list(tmp_path.iterdir()) == [path]


def test_resume_without_the_part_file_names_it(tmp_path: Path) -> None:
    files, state = ParquetFiles(tmp_path, HeldExecutor()), State(format="parquet", stream="")
    files.add(batch(1, 1))
    files.commit(state)
    (part,) = tmp_path.iterdir()
    part.unlink()
    with pytest.raises(StateError, match=f"{part.name}: No such file"):
        ParquetFiles(tmp_path, HeldExecutor()).resume(state)
