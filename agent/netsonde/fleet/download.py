"""Reads an object of a NATS bucket with Direct Get only (ADR-31).

The usual way is an ordered consumer. It needs the right to create consumers, which also
allows delivery of messages to any subject. Direct Get needs one subject per bucket and works
from another account. Chunks arrive in batches; a server before 2.11 sends one at a time.
"""

from __future__ import annotations

import base64
import hashlib
from typing import IO, Any

import msgspec
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from ..bus import jetstream
from ..errors import NetsondeError

REPLY_TIMEOUT_SEC = 10.0
BATCH_CHUNKS = 64


class DownloadError(NetsondeError):
    """The object is missing, incomplete or damaged."""


class _Entry(msgspec.Struct):
    """Metadata of an object (ADR-20)."""

    nuid: str
    size: int
    chunks: int
    digest: str


def direct_get_subject(bucket: str, domain: str = "") -> str:
    return jetstream.api(domain, f"DIRECT.GET.OBJ_{bucket}")


async def download(
    connection: Client,
    bucket: str,
    name: str,
    out: IO[bytes],
    *,
    sha256: str,
    domain: str = "",
    host: str = "",
) -> None:
    """Writes the object to `out`. sha256: its digest in hex, from the host's reply. host: set if
    the bucket belongs to a site. Raises DownloadError, nats-py's errors, TimeoutError."""
    inbox = connection.new_inbox()
    replies = await connection.subscribe(inbox)
    try:
        await _Reader(connection, replies, inbox, bucket, domain).read(name, out, sha256, host)
    finally:
        await replies.unsubscribe()


class _Reader:
    def __init__(
        self, connection: Client, replies: Subscription, inbox: str, bucket: str, domain: str
    ) -> None:
        self._subject = direct_get_subject(bucket, domain)
        self._connection = connection
        self._replies = replies
        self._inbox = inbox
        self._bucket = bucket

    async def read(self, name: str, out: IO[bytes], sha256: str, host: str) -> None:
        token = base64.urlsafe_b64encode(name.encode()).decode()
        infix = f"{host}." if host else ""
        await self._ask({"last_by_subj": f"$O.{self._bucket}.M.{infix}{token}"})
        message = await self._next()
        if message is None:
            raise DownloadError("it is no longer in the bucket")
        try:
            entry = msgspec.json.decode(message.data, type=_Entry)
        except msgspec.DecodeError as error:
            raise DownloadError(f"its metadata cannot be read: {error}") from None
        digest, size, chunks, seq = hashlib.sha256(), 0, 0, 0
        while chunks < entry.chunks:
            before = chunks
            await self._ask(
                {
                    "seq": seq + 1,
                    "next_by_subj": f"$O.{self._bucket}.C.{entry.nuid}",
                    "batch": min(BATCH_CHUNKS, entry.chunks - chunks),
                }
            )
            while (message := await self._next()) is not None:
                digest.update(message.data)
                size += len(message.data)
                chunks += 1
                out.write(message.data)
                seq = _number(message, "Nats-Sequence")
                if size > entry.size:
                    raise DownloadError("it is damaged: the size differs")
                if not _header(message, "Nats-Num-Pending"):
                    break  # a server before 2.11 ignores `batch`
            if chunks == before:
                raise DownloadError("a chunk is no longer in the bucket")
        found = base64.urlsafe_b64encode(digest.digest()).decode()
        if size != entry.size or entry.digest != f"SHA-256={found}":
            raise DownloadError("it is damaged: the size or digest differs")
        if digest.hexdigest() != sha256:
            raise DownloadError("it is not what the host wrote: the SHA-256 of the reply differs")

    async def _ask(self, request: dict[str, Any]) -> None:
        body = msgspec.json.encode(request)
        await self._connection.publish(self._subject, body, reply=self._inbox)

    async def _next(self) -> Msg | None:
        """Returns None at the end of a batch or if there is no such message."""
        message = await self._replies.next_msg(timeout=REPLY_TIMEOUT_SEC)
        status = _header(message, "Status")
        if status in ("204", "404"):
            return None
        if status:
            raise DownloadError(f"the bucket cannot be read ({status})")
        return message


def _number(message: Msg, name: str) -> int:
    text = _header(message, name)
    if not (text.isascii() and text.isdecimal() and len(text) <= 20):
        raise DownloadError(f"malformed header {name}")
    return int(text)


def _header(message: Msg, name: str) -> str:
    return (message.headers or {}).get(name, "")
