"""The flow stream through the spool to JetStream: no lost records, no duplicates.

A batch is safe once it is in the spool. The pipeline sends it to the stream, also after restarts
of servers and of the agent. A mark file in the spool directory is written every second of a
session. After kill -9 the next run reads it and counts records and packets that never reached
the spool as lost.
"""

from __future__ import annotations

import os
import zlib
from pathlib import Path
from typing import Any

import msgspec
import structlog

from ..bus.connection import Connection
from ..bus.publisher import Publisher
from ..config.sections import FlowsSection
from ..config.state import state_directory
from ..core.values import Batch, Stats
from ..errors import ConfigError
from ..spool.format import Recovery
from ..spool.pipeline import Pipeline
from ..spool.spool import Spool
from ..spool.streams import StreamSettings
from ..wire.events import EventLog
from ..wire.records import SpoolState
from ..wire.subjects import shard_of
from .composer import Composer, Encoding

MARK_BYTES = 512
BARRIER_SEC = 5.0


class Mark(msgspec.Struct):
    """A session's counters when the mark file was last written."""

    session_id: str
    records: int  # made, without those dropped in the core's ring
    packets: int  # captured, without those that no flow record counts
    records_before: int  # the spool's totals when the session began
    packets_before: int


class JetStreamSink:
    lasting = True

    def __init__(
        self,
        connection: Connection,
        publisher: Publisher,
        events: EventLog,
        settings: FlowsSection,
        *,
        domain: str = "",
    ) -> None:
        """domain: the JetStream domain that must store the records; empty: any."""
        self._connection = connection
        self._publisher = publisher
        self._events = events
        self._composer = Composer(publisher, shards=settings.shards)
        self._directory = spool_directory(settings)
        self._mark_fd = -1
        self._marked: Mark | None = None
        self._log = structlog.get_logger()
        self._spool = Spool(self._directory, bytes_max=settings.spool_mb << 20)
        self._pipeline = Pipeline(
            connection,
            self._spool,
            root=publisher.root,
            settings=StreamSettings(
                replicas=settings.stream_replicas,
                max_age_hours=settings.stream_max_age_hours,
                shards=settings.shards,
                shard=shard_of(publisher.host, settings.shards),
                domain=domain,
            ),
            alarm=self._alarm,
        )

    @property
    def bytes_max(self) -> int:
        return self._publisher.payload_bytes_max

    # ---- lifetime ----------------------------------------------------------------------------

    def open(self) -> None:
        """Opens the spool and reports the records of an earlier run. Raises ConfigError."""
        recovery = self._spool.open()
        try:
            path = self._directory / "mark"
            self._mark_fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            mark = read_mark(self._mark_fd)
        except OSError as error:
            raise ConfigError(f"flows.spool_dir: {self._directory}: {error.strerror}") from None
        self._report_recovery(recovery)
        if mark is not None:
            self._count_unclean_end(mark)
        self.unmark()

    async def run(self) -> None:
        """Runs until cancelled."""
        await self._pipeline.run()

    def close(self) -> None:
        self._spool.close()
        if self._mark_fd >= 0:
            os.close(self._mark_fd)
            self._mark_fd = -1

    def _report_recovery(self, recovery: Recovery) -> None:
        data = {
            "records": recovery.records,
            "packets": recovery.packets,
            "records_lost": recovery.records_lost,
            "torn": int(recovery.torn),
        }
        if recovery.records:
            self._events.emit("lifecycle", "spool_recovered", data=dict(data))
        if recovery.records_lost:
            self._alarm("records_lost", "spool records of an earlier run are damaged", data)

    def _count_unclean_end(self, mark: Mark) -> None:
        """Counts records as lost that the mark has and the spool has not."""
        records = mark.records - (self._spool.records_total - mark.records_before)
        packets = mark.packets - (self._spool.packets_total - mark.packets_before)
        records, packets = max(records, 0), max(packets, 0)
        self._spool.count_lost(records, packets)
        self._events.emit(
            "alarm",
            "unclean_end",
            "the previous run ended without a stop; records not yet in the spool are lost",
            session_id=mark.session_id,
            data={"records_lost": records, "packets_lost": packets},
        )

    # ---- Sink --------------------------------------------------------------------------------

    async def send(self, session_id: str, encoding: Encoding, batch: Batch) -> bool:
        """Returns True once the batch is in the spool."""
        await self._pipeline.append(self._composer.compose(session_id, encoding, batch))
        return True

    def mark(self, session_id: str, stats: Stats) -> None:
        spool = self._spool
        if self._marked is None or self._marked.session_id != session_id:
            self._marked = Mark(session_id, 0, 0, spool.records_total, spool.packets_total)
        self._marked.records = stats.records - stats.records_dropped
        self._marked.packets = stats.packets_metered - stats.packets_records_dropped
        self._write_mark(msgspec.msgpack.encode(self._marked))

    def unmark(self) -> None:
        self._marked = None
        self._write_mark(b"")

    def _write_mark(self, body: bytes) -> None:
        if self._mark_fd < 0:
            return
        block = len(body).to_bytes(4, "little") + zlib.crc32(body).to_bytes(4, "little") + body
        try:
            os.pwrite(self._mark_fd, block.ljust(MARK_BYTES, b"\0"), 0)
        except OSError as error:
            self._alarm("spool_failed", f"cannot write the mark file: {error.strerror}", {})

    async def barrier(self) -> bool:
        """Returns True: every batch is in the stream or stays in the spool."""
        if self._connection.connected and not await self._pipeline.settled(BARRIER_SEC):
            self._log.info("records wait in the spool", records=self._spool.records_unfinished)
        return True

    def state(self) -> SpoolState:
        spool, pipeline = self._spool, self._pipeline
        return SpoolState(
            bytes_used=spool.bytes_used,
            bytes_max=spool.bytes_max,
            records_waiting=spool.records_unfinished,
            records_lost=spool.records_lost,
            packets_lost=spool.packets_lost,
            messages_in_flight=pipeline.messages_in_flight,
            messages_acknowledged=pipeline.messages_acked,
            messages_resent=pipeline.messages_resent,
            last_refusal=pipeline.last_refusal,
        )

    def _alarm(self, name: str, text: str, data: dict[str, int]) -> None:
        self._events.emit("alarm", name, text, data=dict[str, Any](data))


def spool_directory(settings: FlowsSection) -> Path:
    """Returns [flows] spool_dir. Default: in systemd's state directory or /var/lib/netsonde."""
    return Path(settings.spool_dir) if settings.spool_dir else state_directory() / "spool"


def read_mark(fd: int) -> Mark | None:
    """Returns None if the mark is missing or torn."""
    block = os.pread(fd, MARK_BYTES, 0)
    length, checksum = int.from_bytes(block[:4], "little"), int.from_bytes(block[4:8], "little")
    body = block[8 : 8 + length]
    if not body or zlib.crc32(body) != checksum:
        return None
    try:
        return msgspec.msgpack.decode(body, type=Mark)
    except msgspec.DecodeError:
        return None
