"""Parquet files, converted from part files when they are complete.

A Parquet file has its index at the end, so a growing one cannot be truncated after a crash.
Therefore each commit appends the batches to a `.part` file: IPFIX unchanged, other encodings as
JSON lines. `rotate` starts a thread that converts the part file while the next one grows. Until
then the state lists the file as closing, and after a crash the conversion starts again. Needs
the extra `collect` (pyarrow: the only library that writes Parquet by column in C++; numpy:
arithmetic on columns).

    frame of a part file   u8 kind │ u8 0 │ u16, u16 bytes of host and session │ u32 of payload,
                           then these three; little-endian
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from ..errors import NetsondeError
from .batches import IPFIX, Batch, Counts
from .files import PART, append_durably, begin_file, create, reopen, sweep
from .state import State, StateError
from .templates import count_records, has_unknown_elements

try:
    import pyarrow as pa
    import pyarrow.json
    import pyarrow.parquet

    from .columns import SCHEMA, WORDS, IpfixRows
    from .fields import MORE, fit_lines
except ImportError as error:
    raise NetsondeError(f"format parquet needs the extra netsonde[collect]: {error}") from None

# malloc reuses a table's memory for the next one. Arrow's own pools return it to the kernel:
# clearing the pages again took a fifth of a conversion.
pa.set_memory_pool(pa.system_memory_pool())

ROW_GROUP_ROWS = 1 << 16  # malloc does not reuse the memory of larger columns
CONVERTERS = 2  # one converter is slower than the collector
CLOSING_MAX = 3  # unconverted files; beyond this collecting blocks
LINES_KIND, IPFIX_KIND = 1, 2
_FRAME = struct.Struct("<BxHHI")
# Columns with few different values. For others a dictionary costs more than it saves.
_DICTIONARIES = [
    *WORDS, "protocol_number", "ip_version", "dest_port", "tcp_flags", "reverse_tcp_flags", "tos",
    "ttl_min", "ttl_max", "source_mac", "dest_mac", "segment", "final", "sampling_interval",
    "timestamps_late", "ifindex",
]  # fmt: skip


class ParquetFiles:
    """Writes Parquet files. `converters` convert the part files; default: CONVERTERS threads."""

    format = "parquet"

    def __init__(self, directory: Path, converters: Executor | None = None) -> None:
        self._directory = directory
        self._fd = -1
        self._frames: list[bytes] = []
        self._records = 0
        self._converters = converters or ThreadPoolExecutor(CONVERTERS, "parquet")
        self._converting: dict[str, Future[None]] = {}

    def resume(self, state: State) -> None:
        growing = [state.file.name] if state.file else []
        sweep(self._directory, {*state.closing, *growing})
        for name in state.closing:
            self._close(name)
        if state.file is None:
            return
        path = self._directory / state.file.name
        part = path.with_name(path.name + PART)
        if path.exists():  # converted before the state was saved
            part.unlink(missing_ok=True)
            state.file = None
            return
        try:
            self._fd = reopen(part, state.file.bytes)
        except OSError as error:
            raise StateError(f"{part}: {error.strerror}") from None

    def add(self, batch: Batch) -> Counts:
        if batch.encoding == IPFIX and not has_unknown_elements(batch.data):
            counts = count_records(batch.data)
            batch.check_count(counts[0])
            host, session_id = batch.host.encode(), batch.session_id.encode()
            self._append(IPFIX_KIND, host, session_id, batch.data)
        else:
            lines, counts = batch.lines_and_counts()
            self._append(LINES_KIND, b"", b"", b"\n".join(fit_lines(lines)))
        self._records += counts[0]
        return counts

    def _append(self, kind: int, host: bytes, session_id: bytes, payload: bytes) -> None:
        head = _FRAME.pack(kind, len(host), len(session_id), len(payload))
        self._frames += (head, host, session_id, payload)

    def commit(self, state: State) -> None:
        if not self._frames:
            return
        if state.file is None:
            begun = begin_file(state, ".parquet")
            self._fd = create(self._directory / (begun.name + PART))
            state.file = begun
        data = b"".join(self._frames)
        append_durably(self._fd, state.file.bytes, data)
        self._frames.clear()
        state.file.bytes += len(data)
        state.file.records += self._records
        self._records = 0

    def rotate(self, state: State) -> None:
        """Starts the conversion; `drain` waits for it."""
        if state.file is None:
            return
        os.close(self._fd)
        name, state.file = state.file.name, None
        state.closing.append(name)
        self._close(name)
        while len(state.closing) > CLOSING_MAX:
            self._finish(state, state.closing[0])

    def poll(self, state: State) -> None:
        for name in list(state.closing):
            if self._close(name).done():
                self._finish(state, name)

    def drain(self, state: State) -> None:
        for name in list(state.closing):
            self._finish(state, name)

    def _close(self, name: str) -> Future[None]:
        if name not in self._converting:
            path = self._directory / name
            self._converting[name] = self._converters.submit(complete, path)
        return self._converting[name]

    def _finish(self, state: State, name: str) -> None:
        """Waits for a conversion. Raises its error; the next call retries."""
        self._close(name)
        self._converting.pop(name).result()
        state.closing.remove(name)


def complete(path: Path) -> None:
    """Converts a part file unless done before a crash."""
    part = path.with_name(path.name + PART)
    if not path.exists():
        convert(part, path)
    part.unlink(missing_ok=True)


def convert(part: Path, path: Path) -> None:
    """Converts a part file. The Parquet file gets its name when it is on disk."""
    growing = path.with_name(f".{path.name}")
    # store_schema off: readers need not know which columns are dictionaries. Statistics only for
    # columns that files are searched by: for all columns they take a fifth of the writing time.
    options: Any = {
        "compression": "snappy",
        "use_dictionary": _DICTIONARIES,
        "write_statistics": ["first_seen", "last_seen", "flow_start"],
        "write_batch_size": 1 << 16,
        "store_schema": False,
    }
    with (
        part.open("rb") as source,
        pyarrow.parquet.ParquetWriter(growing, SCHEMA, **options) as writer,
    ):
        for table in read_tables(source):
            writer.write_table(table)
    fd = os.open(growing, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
    os.rename(growing, path)


def read_tables(source: BinaryIO) -> Iterator[Any]:
    """Yields tables of about ROW_GROUP_ROWS rows, to bound the memory."""
    rows, lines, count = IpfixRows(), list[bytes](), 0
    for kind, host, session_id, payload in read_frames(source):
        if kind == IPFIX_KIND:
            rows.add(payload, host, session_id)
        elif payload:
            lines.append(payload)
            count += payload.count(b"\n") + 1
        if rows.records + count >= ROW_GROUP_ROWS:
            yield _whole(rows, lines)
            lines.clear()
            count = 0
    if rows.records + count:
        yield _whole(rows, lines)


def read_frames(source: BinaryIO) -> Iterator[tuple[int, str, str, bytes]]:
    """Yields kind, host, session and payload."""
    while head := source.read(_FRAME.size):
        kind, host_bytes, session_bytes, size = _FRAME.unpack(head)
        host, session_id = source.read(host_bytes), source.read(session_bytes)
        yield kind, host.decode(), session_id.decode(), source.read(size)


def _whole(rows: IpfixRows, lines: list[bytes]) -> Any:
    tables = rows.take_tables()
    tables += lines_tables(lines) if lines else []
    if not tables:
        return SCHEMA.empty_table()
    if len(tables) == 1:
        return tables[0]
    return pa.concat_tables(tables).unify_dictionaries().combine_chunks()


def lines_tables(lines: list[bytes]) -> list[Any]:
    """Parses lines to tables. A line that Arrow refuses, for example with a 13th month, becomes
    a row with the whole line in `more`."""
    try:
        return [lines_table(lines)]
    except pa.ArrowException:
        pass
    parts = lines if len(lines) > 1 else lines[0].split(b"\n")
    if len(parts) == 1:
        return [lines_table([msgspec.json.encode({MORE: parts[0].decode(errors="replace")})])]
    middle = len(parts) // 2
    return lines_tables(parts[:middle]) + lines_tables(parts[middle:])


def lines_table(lines: list[bytes]) -> Any:
    """Parses JSON lines to a table; missing fields are null."""
    plain = pa.schema([(f.name, pa.string() if f.name in WORDS else f.type) for f in SCHEMA])
    options = pyarrow.json.ParseOptions(explicit_schema=plain, unexpected_field_behavior="ignore")
    reading = pyarrow.json.ReadOptions(block_size=16 << 20)
    table = pyarrow.json.read_json(
        pa.BufferReader(b"\n".join(lines)), read_options=reading, parse_options=options
    ).cast(plain)
    for place, name in enumerate(plain.names):
        if name in WORDS:
            table = table.set_column(place, name, table.column(place).dictionary_encode())
    return table.cast(SCHEMA)
