"""The verb `packets`: copies packets from the capture buffer to a file or a bucket.

One block at a time moves from the core to the destination, which bounds memory. Capture
continues. The requester's deadline, the end of the session or the end of the agent aborts a
retrieval and removes its output.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from collections.abc import Callable, Coroutine, Mapping
from datetime import UTC, datetime
from typing import Any

from msgspec import UNSET

from ..bus.objects import Bucket, Upload
from ..config.sections import BufferSection
from ..core.capture import Capture
from ..core.packets import PacketReader
from ..core.threads import on_thread
from ..core.values import PacketGap, PacketQuery, PacketSummary
from ..errors import (
    Draining,
    InvalidFilter,
    InvalidRequest,
    NoSession,
    RequestError,
    RequestExpired,
    TooManyRequests,
)
from ..wire.instant import instant_ns, rfc3339
from ..wire.replies import PacketsGap, PacketsReply
from ..wire.requests import PacketsRequest, Place
from .export_file import ExportFile

RUNNING_MAX = 2
SUFFIX = ".pcapng"


class Retrievals:
    """A configuration reload replaces `settings`. `bucket` returns this host's bucket for them."""

    def __init__(
        self, settings: BufferSection, host: str, bucket: Callable[[BufferSection], Bucket]
    ) -> None:
        self.settings = settings
        self._host = host
        self._bucket = bucket
        self._running = 0
        self._draining = asyncio.Event()

    def close(self) -> None:
        """Aborts running retrievals and rejects new ones."""
        self._draining.set()

    def bucket(self) -> Bucket:
        return self._bucket(self.settings)

    async def retrieve(
        self,
        capture: Capture,
        query: PacketQuery,
        to: Place,
        expires_at: datetime | None,
        *,
        owner: Mapping[str, str] | None = None,
    ) -> PacketsReply:
        """owner: the caller, which the object in the bucket names."""
        if self._draining.is_set():
            raise Draining
        if self._running >= RUNNING_MAX:
            raise TooManyRequests(
                f"{RUNNING_MAX} packet retrievals already run on this host. Try again later."
            )
        self._running += 1
        try:
            return await self._until_ended(
                self._copy(capture, query, to, owner or {}), capture, expires_at
            )
        finally:
            self._running -= 1

    async def _until_ended(
        self,
        work: Coroutine[Any, Any, PacketsReply],
        capture: Capture,
        expires_at: datetime | None,
    ) -> PacketsReply:
        task = asyncio.create_task(work)
        ends: dict[asyncio.Task[Any], RequestError] = {
            asyncio.create_task(capture.closing.wait()): NoSession(
                "The session was stopped while its packets were being read."
            ),
            asyncio.create_task(self._draining.wait()): Draining(),
        }
        left_sec = (expires_at - datetime.now(UTC)).total_seconds() if expires_at else None
        try:
            done, _ = await asyncio.wait(
                {task, *ends}, timeout=left_sec, return_when=asyncio.FIRST_COMPLETED
            )
            if task in done:
                return task.result()
            expired = RequestExpired(
                "The request's Expires-At passed before all packets were read."
            )
            raise next((error for end, error in ends.items() if end in done), expired)
        finally:
            for one in (task, *ends):
                one.cancel()
            await asyncio.gather(task, *ends, return_exceptions=True)

    async def _copy(
        self, capture: Capture, query: PacketQuery, to: Place, owner: Mapping[str, str]
    ) -> PacketsReply:
        now = datetime.now(UTC)
        name = f"{self._host}-{now:%Y%m%dT%H%M%SZ}-{secrets.token_hex(4)}{SUFFIX}"
        digest = hashlib.sha256()
        reader = PacketReader()

        def read_block() -> memoryview:
            block = reader.read()
            digest.update(block)
            return block

        with capture.held() as handle:
            try:
                await on_thread(lambda: reader.open(handle, query))
                async with self._destination(to, query.filter, name, owner) as destination:
                    while block := await on_thread(read_block, reader.abandon):
                        await destination.write(block)
                    await destination.commit()
                reply = packets_reply(reader.summary(), digest.hexdigest())
            except InvalidFilter as error:
                error.field = "$.filter"
                raise
            finally:
                reader.close()
        if isinstance(destination, ExportFile):
            reply.path = destination.path
        else:
            reply.bucket, reply.object = destination.bucket.name, name
            reply.domain = destination.bucket.domain or UNSET
        return reply

    def _destination(
        self, to: Place, expression: str, name: str, owner: Mapping[str, str]
    ) -> ExportFile | Upload:
        settings = self.settings
        if to == "file":
            return ExportFile(settings.export_dir, name, bytes_max=settings.export_mb << 20)
        return self._bucket(settings).upload(name, expression or "all packets", owner)


def packet_query(request: PacketsRequest, now_ns: int) -> PacketQuery:
    """Returns the core's query for a request. Raises InvalidRequest."""
    start_ns = instant_ns(request.start, now_ns, field="$.start") if request.start else 0
    end_ns = instant_ns(request.end, now_ns, field="$.end") if request.end else 0
    if request.end and end_ns < start_ns:
        raise InvalidRequest("$.end is before $.start", field="$.end")
    return PacketQuery(
        filter=request.filter,
        start_ns=start_ns,
        end_ns=max(end_ns, 1) if request.end else 0,  # the core reads 0 as "until now"
        max_bytes=request.max_bytes,
        max_packets=request.max_packets or 0,
    )


def packets_reply(summary: PacketSummary, sha256: str) -> PacketsReply:
    return PacketsReply(
        packets=summary.packets,
        bytes=summary.bytes,
        first_time=rfc3339(summary.first_ns) if summary.packets else None,
        last_time=rfc3339(summary.last_ns) if summary.packets else None,
        complete=summary.complete,
        gaps=[_gap_reply(gap) for gap in summary.gaps],
        chunks_read=summary.chunks_read,
        chunks_skipped=summary.chunks_skipped,
        sha256=sha256,
    )


def add_gap(reply: PacketsReply, query: PacketQuery, gap: PacketGap) -> None:
    """Adds a gap before those of the buffer, if the query reaches into it."""
    if query.start_ns <= gap.to_ns and (not query.end_ns or query.end_ns >= gap.from_ns):
        reply.gaps.insert(0, _gap_reply(gap))
        reply.complete = False


def _gap_reply(gap: PacketGap) -> PacketsGap:
    return PacketsGap(from_=rfc3339(gap.from_ns), to=rfc3339(gap.to_ns), reason=gap.reason)
