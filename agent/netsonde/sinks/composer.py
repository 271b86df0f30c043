"""Builds the numbered messages of the flow stream from rendered records.

Records are not parsed. `seq` counts the agent's batches without a gap, so that a collector
detects missing batches.
"""

from __future__ import annotations

from typing import Literal

import msgspec
from msgspec import Raw, Struct

from ..bus.publisher import Publisher
from ..core.values import Batch
from ..spool.format import Message
from ..wire.instant import rfc3339
from ..wire.subjects import flows_subject, shard_of

Encoding = Literal["json", "msgpack", "ipfix"]


CONTENT_TYPES: dict[Encoding, str] = {
    "json": "application/json",
    "msgpack": "application/msgpack",
    "ipfix": "application/ipfix",
}


_NOTHING = Raw(b"")


class RenderedBatch(Struct, kw_only=True):
    """A wire FlowBatch up to its records, which are already rendered and are appended."""

    host: str
    boot: str
    seq: int
    session_id: str
    first_time: str | int
    last_time: str | int
    records: Raw


class Composer:
    def __init__(self, publisher: Publisher, *, shards: int = 1) -> None:
        self._publisher = publisher
        self._host = publisher.host
        self._boot = publisher.boot
        shard = shard_of(publisher.host, shards)
        self.subject = flows_subject(publisher.root, publisher.host, shard)
        self._subject = self.subject.encode()
        self._seq = 0

    def compose(self, session_id: str, encoding: Encoding, batch: Batch) -> Message:
        self._seq += 1
        head = (
            f"NATS/1.0\r\nNats-Msg-Id: {self._publisher.message_id(self._seq)}\r\n"
            f"Content-Type: {CONTENT_TYPES[encoding]}\r\n"
        )
        if encoding == "ipfix":  # no envelope: headers carry its fields
            head += (
                f"Host: {self._host}\r\nBoot: {self._boot}\r\nSeq: {self._seq}\r\n"
                f"Session-Id: {session_id}\r\nRecords: {batch.records}\r\n"
                f"First-Time: {batch.first_ns}\r\nLast-Time: {batch.last_ns}\r\n"
            )
            payload = bytes(batch.data)
        else:
            payload = self._wrap(session_id, encoding, batch)
        return Message(self._subject, f"{head}\r\n".encode(), payload, batch.records, batch.packets)

    def _wrap(self, session_id: str, encoding: Encoding, batch: Batch) -> bytes:
        """Returns the envelope with the records at its end. Copies the records once."""
        binary = encoding == "msgpack"
        envelope = RenderedBatch(
            host=self._host,
            boot=self._boot,
            seq=self._seq,
            session_id=session_id,
            first_time=batch.first_ns if binary else rfc3339(batch.first_ns),
            last_time=batch.last_ns if binary else rfc3339(batch.last_ns),
            records=_NOTHING,
        )
        if binary:
            return b"".join((msgspec.msgpack.encode(envelope), batch.data))
        return b"".join((msgspec.json.encode(envelope)[:-1], batch.data, b"}"))
