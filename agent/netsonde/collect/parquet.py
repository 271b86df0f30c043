"""Parquet files, grown as the batches that came and converted when they are complete.

A Parquet file has its index at the end, so one that still grows cannot be cut back after a
crash. So each commit appends what came to the `.part` file, IPFIX as it is and all else as JSON
lines, and `rotate` leaves that to a thread of its own, which makes columns of it and writes them
under the final name while the next file grows. Until then the state lists the file as closing:
a conversion that a crash ended begins anew. Needs the extra `collect` (pyarrow: the only
library that writes Parquet in C++, columns at a time; numpy: the arithmetic on them).

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

from ..errors import NetsondeError
from .batches import IPFIX, Batch, Counts
from .files import PART, append_durably, begin_file, create, reopen, sweep
from .state import State, StateError
from .templates import count_records

try:
    import pyarrow as pa
    import pyarrow.json
    import pyarrow.parquet

    from .columns import SCHEMA, WORDS, IpfixRows
except ImportError as error:
    raise NetsondeError(f"parquet needs netsonde[collect] installed: {error}") from None

# What a table took, malloc keeps for the next one; Arrow's own pools give it back to the kernel,
# and clearing pages anew was a fifth of a conversion.
pa.set_memory_pool(pa.system_memory_pool())

ROW_GROUP_ROWS = 1 << 16  # columns of more outgrow what malloc keeps, and pages anew are dear
CONVERTERS = 2  # one alone cannot keep up with the rest
CLOSING_MAX = 3  # files waiting to be converted; then collecting waits, too
LINES_KIND, IPFIX_KIND = 1, 2
_FRAME = struct.Struct("<BxHHI")
# Columns with few different values; in others a dictionary costs more than it saves.
_DICTIONARIES = [
    *WORDS, "protocol_number", "ip_version", "dest_port", "tcp_flags", "reverse_tcp_flags", "tos",
    "ttl_min", "ttl_max", "source_mac", "dest_mac", "segment", "final", "sampling_interval",
]  # fmt: skip


class ParquetFiles:
    """`converters`: who converts complete files; a thread if not given."""

    format = "parquet"

    def __init__(self, directory: Path, converters: Executor | None = None) -> None:
        self._directory = directory
        self._fd = -1
        self._frames: list[bytes] = []
        self._records = 0
        self._converters = converters or ThreadPoolExecutor(CONVERTERS, "parquet")
        self._converting: dict[str, Future[int]] = {}

    def resume(self, state: State) -> None:
        growing = [state.file.name] if state.file else []
        sweep(self._directory, {*state.closing, *growing})
        for name in state.closing:
            self._close(name)
        if state.file is None:
            return
        path = self._directory / state.file.name
        part = path.with_name(path.name + PART)
        if path.exists():  # converted, and the state came too late
            part.unlink(missing_ok=True)
            state.file = None
            return
        try:
            self._fd = reopen(part, state.file.bytes)
        except OSError as error:
            raise StateError(f"{part}: {error.strerror}") from None

    def add(self, batch: Batch) -> Counts:
        if batch.encoding == IPFIX:
            counts = count_records(batch.data)
            host, session_id = batch.host.encode(), batch.session_id.encode()
            self._append(IPFIX_KIND, host, session_id, batch.data)
        else:
            lines, counts = batch.lines_and_counts()
            self._append(LINES_KIND, b"", b"", b"\n".join(lines))
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
        """The file appears under its name soon; `settle` waits for it."""
        if state.file is None:
            return
        os.close(self._fd)
        name, state.file = state.file.name, None
        state.closing.append(name)
        self._close(name)
        while len(state.closing) > CLOSING_MAX:
            self._finish(state, state.closing[0])

    def tend(self, state: State) -> None:
        for name in list(state.closing):
            if self._close(name).done():
                self._finish(state, name)

    def settle(self, state: State) -> None:
        for name in list(state.closing):
            self._finish(state, name)

    def _close(self, name: str) -> Future[int]:
        if name not in self._converting:
            path = self._directory / name
            self._converting[name] = self._converters.submit(complete, path)
        return self._converting[name]

    def _finish(self, state: State, name: str) -> None:
        """Waits for it. An error is the caller's; the next call tries again."""
        self._close(name)
        state.totals.unreadable += self._converting.pop(name).result()
        state.closing.remove(name)


def complete(path: Path) -> int:
    """Whatever had been done of it before a crash. How many lines were no records."""
    part = path.with_name(path.name + PART)
    unreadable = 0 if path.exists() else convert(part, path)
    part.unlink(missing_ok=True)
    return unreadable


def convert(part: Path, path: Path) -> int:
    """The part file as a Parquet file, which appears only when it is on disk. How many lines
    were left out: no agent of ours wrote them."""
    growing = path.with_name(f".{path.name}")
    # The plain schema: that some columns are dictionaries here is no reader's business. Extremes
    # are kept of what files are searched by; of the rest they cost a fifth of the writing.
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
        unreadable = 0
        for table, left_out in read_tables(source):
            writer.write_table(table)
            unreadable += left_out
    fd = os.open(growing, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
    os.rename(growing, path)
    return unreadable


def read_tables(source: BinaryIO) -> Iterator[tuple[Any, int]]:
    """Each of about ROW_GROUP_ROWS, so that memory does not grow with the file; and how many
    lines are missing from it."""
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
    """Kind, host, session and payload."""
    while head := source.read(_FRAME.size):
        kind, host_bytes, session_bytes, size = _FRAME.unpack(head)
        host, session_id = source.read(host_bytes), source.read(session_bytes)
        yield kind, host.decode(), session_id.decode(), source.read(size)


def _whole(rows: IpfixRows, lines: list[bytes]) -> tuple[Any, int]:
    tables = rows.take_tables()
    readable, unreadable = lines_tables(lines) if lines else ([], 0)
    tables += readable
    if not tables:
        return SCHEMA.empty_table(), unreadable
    if len(tables) == 1:
        return tables[0], unreadable
    return pa.concat_tables(tables).unify_dictionaries().combine_chunks(), unreadable


def lines_tables(lines: list[bytes]) -> tuple[list[Any], int]:
    """What can be read of them, and how many cannot."""
    try:
        return [lines_table(lines)], 0
    except pa.ArrowException:
        pass
    parts = lines if len(lines) > 1 else lines[0].split(b"\n")
    if len(parts) == 1:
        return [], 1
    middle = len(parts) // 2
    (first, missing_first), (last, missing_last) = map(
        lines_tables, (parts[:middle], parts[middle:])
    )
    return first + last, missing_first + missing_last


def lines_table(lines: list[bytes]) -> Any:
    """JSON lines as one table; a field that no line has is null."""
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
