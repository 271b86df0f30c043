"""The collector: new records, complete files, and a crash between any two steps."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import shutil
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pyarrow.parquet
import pytest
from nats.aio.msg import Msg

from netsonde.collect import collector as collector_module
from netsonde.collect import parquet as parquet_module
from netsonde.collect.batches import read_batch
from netsonde.collect.collector import Collector, Rotation
from netsonde.collect.dead_letters import DeadLetters
from netsonde.collect.files import Files, JsonlFiles, Lines
from netsonde.collect.parquet import ParquetFiles
from netsonde.collect.state import State, StateError, StateFile, write_all

SUBJECT = "capture.stream.flows.alpha"
BATCHES = 12
PER_BATCH = 3


NO_RECORDS = (
    b"1",
    b"{}",
    b"{ }",
    b'{"packets": "many"}',
    b'{"packets": 99999999999999999999999}',
    b'{"flow_id": 7, "packets": 1, "bytes": 1, "vlan": "none"}',  # invalid for Parquet only
)


class ImmediateExecutor(Executor):
    """Converts before submit returns, so the directory is stable while a test copies it."""

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


KINDS: dict[str, Callable[[Path], Files]] = {
    "jsonl": JsonlFiles,
    "parquet": lambda directory: ParquetFiles(directory, ImmediateExecutor()),
}


def payload(seq: int) -> dict[str, Any]:
    records = [
        {"flow_id": f"{seq * 100 + n:016x}", "packets": 2, "bytes": 80, "protocol": "UDP"}
        for n in range(PER_BATCH)
    ]
    return {"host": "alpha", "boot": "b", "seq": seq, "session_id": "s", "records": records}


def message(seq: int) -> Msg:
    found = SimpleNamespace(
        subject=SUBJECT,
        data=msgspec.json.encode(payload(seq)),
        headers={"Content-Type": "application/json"},
        seq=seq,
    )
    return cast(Msg, found)


@pytest.fixture(autouse=True)
def commit_every_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collector_module, "COMMIT_SEC", 0.0)


class Stream:
    """A durable consumer: delivers unacknowledged messages again."""

    window = 1024

    def __init__(self) -> None:
        self.waiting = [message(seq) for seq in range(1, BATCHES + 1)]
        self.delivered: list[Msg] = []

    async def open(self) -> None:
        self.delivered = []

    async def fetch(self) -> list[Msg]:
        left = [one for one in self.waiting if one not in self.delivered]
        found = left[:2]
        self.delivered += found
        return found

    async def acknowledge(self, messages: Sequence[Msg]) -> None:
        self.waiting = [one for one in self.waiting if one not in messages]

    async def drained(self) -> bool:
        return not self.waiting


def collector_on(
    directory: Path, kind: str, *, bytes_max: int = 1000, files: Files | None = None
) -> Collector:
    files = files or KINDS[kind](directory)
    state_file = StateFile(directory)
    state = state_file.load(format=kind, stream="CAPTURE_FLOWS")
    files.resume(state)
    rotation = Rotation(bytes_max, 3600)
    return Collector(files, state_file, state, rotation=rotation, notify=print)


def read(directory: Path, kind: str) -> list[str]:
    """Returns the flow_ids of all complete files."""
    found: list[str] = []
    for path in sorted(directory.glob(f"flows-*.{kind}")):
        if kind == "jsonl":
            found += [json.loads(line).get("flow_id") for line in path.read_text().splitlines()]
        else:
            found += pyarrow.parquet.read_table(path).column("flow_id").to_pylist()
    return found


def names(directory: Path, pattern: str) -> list[str]:
    return sorted(path.name for path in directory.glob(pattern))


EXPECTED = [f"{seq * 100 + n:016x}" for seq in range(1, BATCHES + 1) for n in range(PER_BATCH)]


async def finish(collector: Collector, stream: Stream) -> None:
    await collector.run(stream, idle_sec=0)
    await collector.finish()
    assert collector._state_file is not None
    collector._state_file.close()


@pytest.mark.parametrize("kind", KINDS)
async def test_each_record_is_written_once_to_complete_files(tmp_path: Path, kind: str) -> None:
    stream = Stream()
    collector = collector_on(tmp_path, kind)
    await finish(collector, stream)
    assert read(tmp_path, kind) == EXPECTED
    assert len(names(tmp_path, f"flows-*.{kind}")) > 1  # it was rotated
    assert names(tmp_path, "*.part") == []
    totals = collector.state.totals
    assert (totals.records, totals.packets, totals.bytes) == (36, 72, 2880)
    assert stream.waiting == []


@pytest.mark.parametrize("kind", KINDS)
async def test_malformed_records_do_not_stop_the_collector(tmp_path: Path, kind: str) -> None:
    """A publisher of one host's stream must not end the collection of all hosts."""
    stream = Stream()
    for seq, text in enumerate(NO_RECORDS, 1000):
        one = message(seq)
        one.data = msgspec.json.encode({**payload(seq), "records": [msgspec.Raw(text)]})
        stream.waiting.insert(0, one)
    garbage = message(2000)
    garbage.data = random.Random(1).randbytes(1000)
    garbage.headers = {"Content-Type": "application/ipfix", "Host": "alpha", "Boot": "b",
                       "Seq": "2000", "Session-Id": "s"}  # fmt: skip
    stream.waiting.insert(0, garbage)
    collector = collector_on(tmp_path, kind)
    await finish(collector, stream)
    assert [one for one in read(tmp_path, kind) if one in EXPECTED] == EXPECTED
    assert collector.state.totals.unreadable >= len(NO_RECORDS) - 1
    assert stream.waiting == []


async def test_parquet_keeps_unknown_fields(tmp_path: Path) -> None:
    """A newer agent sends them in the record and in its tunnel. Arrow refuses the last record."""
    stream, one = Stream(), message(1)
    records = [
        {"flow_id": "1", "weather": {"rain": 7}, "tunnel": {"type": "gre", "key": 5}, "more": "x"},
        {"flow_id": "2", "first_seen": "2026-01-02T03:04:05.000000001Z",
         "last_seen": "2026-01-02T03:04:06.000000000Z"},
        {"flow_id": "3", "first_seen": "2026-13-02T03:04:05Z"},
    ]  # fmt: skip
    one.data = msgspec.json.encode({**payload(1), "records": records})
    stream.waiting = [one]
    await finish(collector_on(tmp_path, "parquet"), stream)
    (path,) = names(tmp_path, "*.parquet")
    columns = ["host", "tunnel", "duration_us", "more"]
    table = pyarrow.parquet.read_table(tmp_path / path, columns=columns)
    first, second, third = table.to_pylist()
    assert json.loads(first["more"]) == {"weather": {"rain": 7}, "tunnel": {"key": 5}, "more": "x"}
    assert (first["host"], first["tunnel"]["type"]) == ("alpha", "gre")
    assert (second["duration_us"], second["more"]) == (999_999, None)
    assert json.loads(third["more"])["flow_id"] == "3"


async def test_half_a_window_is_committed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A consumer stops at its window, long before the next commit by time."""
    monkeypatch.setattr(collector_module, "COMMIT_SEC", 3600.0)

    class WindowedStream(Stream):
        window = 8

        async def fetch(self) -> list[Msg]:
            held = [one for one in self.delivered if one in self.waiting]
            assert len(held) < self.window, "the server would send nothing"
            return await super().fetch()

    stream, collector = WindowedStream(), collector_on(tmp_path, "jsonl")
    await finish(collector, stream)
    assert read(tmp_path, "jsonl") == EXPECTED


async def test_dead_letters_after_a_crash_are_cut_to_the_commit(tmp_path: Path) -> None:
    state = State(format="jsonl", stream="")
    letters = DeadLetters(tmp_path)
    letters.resume(state)
    letters.add(message(1), "malformed")
    letters.commit(state)
    path = tmp_path / "dead-letters.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"subject')
    again = DeadLetters(tmp_path)
    again.resume(state)
    again.add(message(2), "malformed")
    again.commit(state)
    assert [json.loads(line)["reason"] for line in path.read_text().splitlines()] == [
        "malformed", "malformed",
    ]  # fmt: skip
    assert path.read_bytes().startswith(whole)


async def test_files_are_converted_while_the_next_one_is_written(tmp_path: Path) -> None:
    collector = collector_on(tmp_path, "parquet", files=ParquetFiles(tmp_path))
    await finish(collector, Stream())
    assert read(tmp_path, "parquet") == EXPECTED
    assert names(tmp_path, "*.part") == []
    assert collector.state.closing == []


async def test_failed_conversion_is_retried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(part: Path, path: Path) -> None:
        raise OSError(28, "No space left on device")

    stream, collector = Stream(), collector_on(tmp_path, "parquet")
    with monkeypatch.context() as patched:
        patched.setattr(parquet_module, "convert", fail)
        with pytest.raises(OSError, match="No space left"):
            await collector.run(stream, idle_sec=0)
    await finish(collector, stream)
    assert read(tmp_path, "parquet") == EXPECTED


class Crash(BaseException):
    """kill -9: nothing after it runs."""


STEPS = ("files.commit", "write_half", "state.save", "acknowledge", "rename", "rotate")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("turn", [1, 3])
async def test_crash_at_any_step_loses_and_duplicates_nothing(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    step: str,
    when: str,
    turn: int,
) -> None:
    """Copies the directory at the moment of the crash. The next run gets the copy and the
    messages that were unacknowledged then."""
    directory, next_directory = tmp_path / "one", tmp_path / "two"
    stream = Stream()
    collector = collector_on(directory, kind)
    target, name = {
        "files.commit": (collector.files, "commit"),
        "write_half": (__import__("netsonde.collect.files", fromlist=["x"]), "write_all"),
        "state.save": (collector._state_file, "save"),
        "acknowledge": (stream, "acknowledge"),
        "rename": (__import__("os"), "rename"),
        "rotate": (collector.files, "rotate"),
    }[step]
    original = getattr(target, name)
    turns = 0

    def crash_now() -> bool:
        nonlocal turns
        turns += 1
        return turns == turn

    def synchronous(*arguments: Any) -> Any:
        if not crash_now():
            return original(*arguments)
        if step == "write_half":
            original(arguments[0], arguments[1][: len(arguments[1]) // 2])
        elif when == "after":
            original(*arguments)
        shutil.copytree(directory, next_directory)
        raise Crash

    async def asynchronous(*arguments: Any) -> None:
        if not crash_now():
            await original(*arguments)
            return
        if when == "after":
            await original(*arguments)
        shutil.copytree(directory, next_directory)
        raise Crash

    with monkeypatch.context() as patched:
        patched.setattr(target, name, asynchronous if step == "acknowledge" else synchronous)
        with pytest.raises(Crash):
            await finish(collector, stream)
    await finish(collector_on(next_directory, kind), stream)
    assert sorted(read(next_directory, kind)) == EXPECTED
    assert names(next_directory, "*.part") == []


ERRORS_AT = ("files.commit", "write_all", "open", "fdatasync", "fsync", "rename", "state.save")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("step", ERRORS_AT)
@pytest.mark.parametrize("turn", [1, 2, 5])
@pytest.mark.parametrize("then", ["continues", "ends", "ends with another error"])
async def test_disk_error_at_any_step_loses_and_duplicates_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, step: str, turn: int, then: str
) -> None:
    """After the error the collector retries, or is stopped before it can."""
    stream, collector = Stream(), collector_on(tmp_path, kind)
    files_module = sys.modules["netsonde.collect.files"]
    target, name = {
        "files.commit": (collector.files, "commit"),
        "write_all": (files_module, "write_all"),
        "state.save": (collector._state_file, "save"),
    }.get(step, (os, step))
    original, turns = getattr(target, name), 0

    def fail(*arguments: Any, **named: Any) -> Any:
        nonlocal turns
        turns += 1
        if turns == turn:
            raise OSError(28, "No space left on device")
        return original(*arguments, **named)

    with monkeypatch.context() as patched:
        patched.setattr(target, name, fail)
        with contextlib.suppress(OSError):
            await collector.run(stream, idle_sec=0)
            await collector.finish()
        if then == "continues":
            await collector.run(stream, idle_sec=0)
            await collector.finish()
        else:
            turns = turn - 1 if then.endswith("error") else turns
            with contextlib.suppress(OSError):
                await collector.finish()
    assert collector._state_file is not None
    collector._state_file.close()
    await finish(collector_on(tmp_path, kind), stream)
    assert sorted(read(tmp_path, kind)) == EXPECTED
    assert names(tmp_path, "*.part") == []


async def test_full_disk_is_retried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from netsonde.collect import files as files_module

    stream = Stream()
    collector = collector_on(tmp_path, "jsonl")

    def full(fd: int, data: bytes) -> None:
        write_all(fd, data[:10])
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(files_module, "write_all", full)
        with pytest.raises(OSError, match="No space left"):
            await collector.run(stream, idle_sec=0)
    await finish(collector, stream)
    assert read(tmp_path, "jsonl") == EXPECTED


@pytest.mark.parametrize("kind", KINDS)
async def test_failed_file_creation_is_retried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    stream, collector = Stream(), collector_on(tmp_path, kind)

    def full(path: Path, flags: int, mode: int) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "open", full)
        with pytest.raises(OSError, match="No space left"):
            await collector.run(stream, idle_sec=0)
    await finish(collector, stream)
    assert read(tmp_path, kind) == EXPECTED


async def test_full_standard_output_is_retried(tmp_path: Path) -> None:
    stream, path = Stream(), tmp_path / "out"
    fd = os.open("/dev/full", os.O_WRONLY)
    state, rotation = State(format="stdout", stream=""), Rotation(1 << 20, 3600)
    collector = Collector(Lines(fd), None, state, rotation=rotation, notify=print)
    with pytest.raises(OSError, match="No space left"):
        await collector.run(stream, idle_sec=0)
    file = os.open(path, os.O_WRONLY | os.O_CREAT)
    os.dup2(file, fd)
    await collector.run(stream, idle_sec=0)
    await collector.finish()
    os.close(file)
    os.close(fd)
    assert [json.loads(line)["flow_id"] for line in path.read_text().splitlines()] == EXPECTED


@pytest.mark.parametrize("kind", KINDS)
async def test_stop_without_a_server_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """The last messages were fetched, but neither written nor acknowledged."""

    class DisconnectingStream(Stream):
        async def fetch(self) -> list[Msg]:
            if len(self.delivered) == 4:
                raise ConnectionResetError
            return await super().fetch()

        async def acknowledge(self, messages: Sequence[Msg]) -> None:
            monkeypatch.setattr(collector_module, "COMMIT_SEC", 3600.0)
            await super().acknowledge(messages)

    stream = DisconnectingStream()
    collector = collector_on(tmp_path, kind, bytes_max=1 << 20)
    with pytest.raises(ConnectionResetError):
        await collector.run(stream, idle_sec=0)
    await collector.finish()
    assert collector._state_file is not None
    collector._state_file.close()
    again = Stream()
    again.waiting = stream.waiting
    assert len(again.waiting) == BATCHES - 2
    await finish(collector_on(tmp_path, kind), again)
    assert read(tmp_path, kind) == EXPECTED


async def test_stdout_prints_each_record_once_and_complete() -> None:
    """The pipe takes any number of bytes at a time, and the disk below is full for a while."""
    reader, writer = os.pipe2(os.O_NONBLOCK)
    lines, state = Lines(writer), State(format="stdout", stream="")
    long = payload(2)
    long["records"][0]["pad"] = "x" * 200_000  # more than a pipe holds
    lines.add(read_batch(SUBJECT, msgspec.json.encode(payload(1)), None))
    lines._fd = full = os.open("/dev/full", os.O_WRONLY)
    with pytest.raises(OSError, match="No space left"):
        lines.commit(state)
    lines._fd = writer
    lines.add(read_batch(SUBJECT, msgspec.json.encode(long), None))
    committing = asyncio.create_task(asyncio.to_thread(lines.commit, state))
    printed = b""
    while not committing.done() or printed.count(b"\n") < 2 * PER_BATCH:
        await asyncio.sleep(0.001)
        with contextlib.suppress(BlockingIOError):
            printed += os.read(reader, 1 << 16)
    await committing
    for fd in (reader, writer, full):
        os.close(fd)
    found = [json.loads(line)["flow_id"] for line in printed.splitlines()]
    assert found == EXPECTED[: 2 * PER_BATCH]


def test_second_collector_in_a_directory_is_rejected(tmp_path: Path) -> None:
    collector_on(tmp_path, "jsonl")
    with pytest.raises(StateError, match="another collector"):
        StateFile(tmp_path)


async def test_directory_of_another_format_is_rejected(tmp_path: Path) -> None:
    await finish(collector_on(tmp_path, "jsonl"), Stream())
    with pytest.raises(StateError, match="contains jsonl"):
        collector_on(tmp_path, "parquet")


async def test_modified_part_file_is_rejected(tmp_path: Path) -> None:
    collector = collector_on(tmp_path, "jsonl", bytes_max=1 << 20)
    await collector.run(Stream(), idle_sec=0)
    assert collector._state_file is not None
    collector._state_file.close()
    part = tmp_path / names(tmp_path, "*.part")[0]
    part.write_bytes(part.read_bytes()[:-1])
    with pytest.raises(StateError, match="was changed"):
        collector_on(tmp_path, "jsonl")
