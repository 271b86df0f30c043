"""Reads an object of a NATS bucket with Direct Get only (ADR-31).

The usual way is an ordered consumer. It needs the right to create consumers, which also
allows delivery of messages to any subject. Direct Get needs one subject per bucket and works
from another account. Chunks arrive in batches; a server before 2.11 sends one at a time.

A broken download continues behind its last chunk: here as soon as the connection is back, or in a
later run from the same PartFile.
"""

from __future__ import annotations

import asyncio
import base64
import time
from typing import Any

import msgspec
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.errors import TimeoutError as NatsTimeoutError

from ..bus import jetstream
from ..errors import NetsondeError
from .part_file import PartFile

REPLY_TIMEOUT_SEC = 10.0
BATCH_CHUNKS = 64
TRIES = 3  # without a chunk, while connected
PAUSE_SEC = 0.5
POLL_SEC = 0.25
NO_RESPONDERS = "503"  # also while a server that has just started loads its streams


class DownloadError(NetsondeError):
    """The object is missing, incomplete or damaged."""


class BrokenDownloadError(DownloadError):
    """The bucket does not reply, but did. What arrived stays in the PartFile."""


class _Entry(msgspec.Struct):
    """Metadata of an object (ADR-20)."""

    nuid: str
    size: int
    chunks: int
    digest: str
    deleted: bool = False


def direct_get_subject(bucket: str, domain: str = "") -> str:
    return jetstream.api(domain, f"DIRECT.GET.OBJ_{bucket}")


async def download(
    connection: Client,
    bucket: str,
    name: str,
    part: PartFile,
    *,
    sha256: str,
    domain: str = "",
    host: str = "",
) -> None:
    """Completes the file. sha256: its digest in hex, from the host's reply. host: set if the bucket
    belongs to a site. Tries again after a break as long as chunks arrive. Raises DownloadError,
    nats-py's errors, TimeoutError, OSError."""
    tries = 0
    while True:
        before = part.chunks
        inbox = connection.new_inbox()  # late chunks of an earlier try go nowhere
        replies = await connection.subscribe(inbox)
        try:
            reader = _Reader(connection, replies, inbox, bucket, domain)
            return await reader.read(name, part, sha256, host)
        except (NatsTimeoutError, BrokenDownloadError) as error:
            if not part.chunks and connection.is_connected:
                raise
            stuck = connection.is_connected and part.chunks == before
            tries = tries + 1 if stuck else 0
            if tries == TRIES or connection.is_closed:
                reason = str(error).removeprefix("nats: ")
                raise BrokenDownloadError(f"{reason} after {part.size} bytes") from None
            await _await_connected(connection)
        finally:
            if not connection.is_closed:
                await replies.unsubscribe()


async def _await_connected(connection: Client) -> None:
    """Returns when the connection is back or closed. The caller limits the wait."""
    while True:
        await asyncio.sleep(PAUSE_SEC)
        if connection.is_connected or connection.is_closed:
            return


class DirectGet:
    """Reads a bucket's stream. `replies`: subscription of the inbox."""

    def __init__(
        self, connection: Client, replies: Subscription, inbox: str, bucket: str, domain: str
    ) -> None:
        self._subject = direct_get_subject(bucket, domain)
        self._connection = connection
        self._replies = replies
        self._inbox = inbox
        self.bucket = bucket
        self._heard = False
        self._reconnects = connection.stats["reconnects"]

    async def ask(self, request: dict[str, Any]) -> None:
        body = msgspec.json.encode(request)
        await self._connection.publish(self._subject, body, reply=self._inbox)

    async def next(self, *, missing: bool = False) -> Msg | None:
        """Returns None at the end of a batch or if there is no such message; with `missing`, also
        without the bucket."""
        message = await self._await_message()
        status = read_header(message, "Status")
        if status in ("204", "404"):
            return None
        if status == NO_RESPONDERS and missing:
            return None
        if status == NO_RESPONDERS and self._heard:
            raise BrokenDownloadError("the bucket does not reply")
        if status:
            raise DownloadError(f"the bucket cannot be read ({status})")
        self._heard = True
        return message

    async def _await_message(self) -> Msg:
        """Raises BrokenDownloadError as soon as the connection is lost: the reply is, too."""
        until_sec = time.monotonic() + REPLY_TIMEOUT_SEC
        while True:
            try:
                return await self._replies.next_msg(timeout=POLL_SEC)
            except NatsTimeoutError:
                if self._connection.stats["reconnects"] != self._reconnects:
                    raise BrokenDownloadError("the connection to NATS was lost") from None
                if not self._connection.is_connected:
                    raise BrokenDownloadError("the connection to NATS was lost") from None
                if time.monotonic() > until_sec:
                    raise


class _Reader(DirectGet):
    async def read(self, name: str, part: PartFile, sha256: str, host: str) -> None:
        self._heard = part.chunks > 0
        entry = await self._entry(name, host)
        part.begin(entry.nuid)
        try:
            while part.chunks < entry.chunks:
                await self._batch(entry, part)
            self._verify(entry, part, sha256)
        except DownloadError as error:
            if not isinstance(error, BrokenDownloadError):
                part.discard()
            raise

    async def _entry(self, name: str, host: str) -> _Entry:
        token = base64.urlsafe_b64encode(name.encode()).decode()
        infix = f"{host}." if host else ""
        await self.ask({"last_by_subj": f"$O.{self.bucket}.M.{infix}{token}"})
        message = await self.next()
        if message is None:
            raise DownloadError("it is no longer in the bucket")
        try:
            entry = msgspec.json.decode(message.data, type=_Entry)
        except msgspec.DecodeError as error:
            raise DownloadError(f"its metadata cannot be read: {error}") from None
        if entry.deleted:
            raise DownloadError("it is no longer in the bucket")
        return entry

    async def _batch(self, entry: _Entry, part: PartFile) -> None:
        before = part.chunks
        await self.ask(
            {
                "seq": part.seq + 1,
                "next_by_subj": f"$O.{self.bucket}.C.{entry.nuid}",
                "batch": min(BATCH_CHUNKS, entry.chunks - before),
            }
        )
        while (message := await self.next()) is not None:
            part.append(message.data, read_number(message, "Nats-Sequence"))
            if part.size > entry.size:
                raise DownloadError("it is damaged: the size differs")
            if not read_header(message, "Nats-Num-Pending"):
                break  # a server before 2.11 ignores `batch`
        if part.chunks == before:
            raise DownloadError("a chunk is no longer in the bucket")

    @staticmethod
    def _verify(entry: _Entry, part: PartFile, sha256: str) -> None:
        found = base64.urlsafe_b64encode(part.digest.digest()).decode()
        if part.size != entry.size or entry.digest != f"SHA-256={found}":
            raise DownloadError("it is damaged: the size or digest differs")
        if part.digest.hexdigest() != sha256:
            raise DownloadError("it is not what the host wrote: the SHA-256 of the reply differs")


def read_number(message: Msg, name: str) -> int:
    text = read_header(message, name)
    if not (text.isascii() and text.isdecimal() and len(text) <= 20):
        raise DownloadError(f"malformed header {name}")
    return int(text)


def read_header(message: Msg, name: str) -> str:
    return (message.headers or {}).get(name, "")
