"""One NATS key-value bucket (ADR-8), as far as an agent needs it.

Owns the subjects and the compare-and-set writes. Uses only subjects that carry the key, so that
the server can restrict an agent to its own key. nats-py's KeyValue was tried: it looks the stream
up by an API call that no agent is permitted.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec

from ..errors import NetsondeError
from . import jetstream
from .waits import Waits

TIMEOUT_SEC = 5.0
BEHIND_SEC = 0.05  # the first wait for a replica that is behind
WRONG_LAST_SEQUENCE = 10071  # err_code of the JetStream API
STREAM_NOT_FOUND = 10059
DELETED = "KV-Operation"  # header of a deletion marker


class KeyValueError(NetsondeError):
    """The bucket cannot be read or written."""


class WrongRevisionError(KeyValueError):
    """Somebody else wrote the key meanwhile."""


class Message(Protocol):
    """The used fields of a reply of nats-py."""

    data: bytes

    @property
    def headers(self) -> dict[str, str] | None: ...


class MessageRequester(Protocol):
    async def request_message(
        self,
        subject: str,
        payload: bytes,
        timeout_sec: float,
        headers: dict[str, str] | None = None,
    ) -> Message | None: ...


@dataclass(frozen=True, slots=True)
class Entry:
    """value: empty if the key was deleted. revision: the sequence number of its last write."""

    value: bytes
    revision: int
    time: str

    @property
    def deleted(self) -> bool:
        return not self.value


class _ApiError(msgspec.Struct):
    description: str = ""
    err_code: int = 0


class _Reply(msgspec.Struct):
    error: _ApiError | None = None
    seq: int = 0
    domain: str = ""


class KeyValue:
    def __init__(
        self,
        connection: MessageRequester,
        bucket: str,
        *,
        domain: str = "",
        copied_to: str = "",
    ) -> None:
        """copied_to: a new bucket republishes each write to this prefix and the key."""
        self.bucket = bucket
        self._domain = domain
        self._copied_to = copied_to
        self._connection = connection
        self._stream = f"KV_{bucket}"

    def subject(self, key: str) -> str:
        return f"$KV.{self.bucket}.{key}"

    async def ensure(self, *, replicas: int = 1) -> None:
        """Creates the bucket if it is missing. Leaves an existing one unchanged."""
        reply = await self._api(f"STREAM.INFO.{self._stream}")
        if reply.error is not None and reply.error.err_code == STREAM_NOT_FOUND:
            body = bucket_configuration(self.bucket, replicas=replicas)
            if self._copied_to:
                copies = f"{self._copied_to}{{{{wildcard(1)}}}}"
                body["republish"] = {"src": self.subject("*"), "dest": copies}
            reply = await self._api(f"STREAM.CREATE.{self._stream}", body)
        if reply.error is not None:
            raise KeyValueError(f"Bucket {self.bucket}: {reply.error.description}.")

    async def get(self, key: str) -> Entry | None:
        """Returns None if the key was never written."""
        subject = jetstream.api(self._domain, f"DIRECT.GET.{self._stream}.{self.subject(key)}")
        message = await self._connection.request_message(subject, b"", TIMEOUT_SEC)
        if message is None:
            raise KeyValueError(f"Bucket {self.bucket} is missing or not readable.")
        headers = message.headers or {}
        if headers.get("Status") == "404":
            return None
        try:
            revision = int(headers["Nats-Sequence"])
        except (KeyError, ValueError):
            raise KeyValueError(f"Bucket {self.bucket}: malformed reply.") from None
        value = b"" if DELETED in headers else bytes(message.data)
        return Entry(value, revision, headers.get("Nats-Time-Stamp", ""))

    async def put(self, key: str, value: bytes, *, last: int | None = None) -> int:
        """Writes the key and returns its revision. last: the revision that it must have now, 0
        if it must not exist. Raises WrongRevisionError."""
        headers = {} if last is None else {"Nats-Expected-Last-Subject-Sequence": str(last)}
        subject = jetstream.key_subject(self._domain, self.bucket, key)
        message = await self._connection.request_message(
            subject, value, TIMEOUT_SEC, headers or None
        )
        if message is None:
            raise KeyValueError(f"Bucket {self.bucket} is missing or not writable.")
        reply = _decode(self.bucket, message.data)
        if reply.error is not None and reply.error.err_code == WRONG_LAST_SEQUENCE:
            raise WrongRevisionError(f"Bucket {self.bucket}: {key} was written meanwhile.")
        if reply.error is not None or not reply.seq:
            why = reply.error.description if reply.error else "the reply is not a PubAck"
            raise KeyValueError(f"Bucket {self.bucket}: {why}.")
        if jetstream.foreign(self._domain, reply.domain):
            raise KeyValueError(
                f"Bucket {self.bucket}: JetStream domain {reply.domain!r} stored the key, not "
                f"{self._domain!r}."
            )
        return reply.seq

    async def put_once(self, key: str, value: bytes, *, last: int, again: bool) -> int:
        """Writes the key like `put`. again: an earlier call failed, and the bucket may have stored
        its value; then returns the revision of that write."""
        try:
            return await self.put(key, value, last=last)
        except WrongRevisionError:
            found = await self._later_than(key, last) if again else None
            if found is None or found.value != value:
                raise
            return found.revision

    async def _later_than(self, key: str, last: int) -> Entry:
        """Returns the write that replaced revision `last`. Any replica answers, and may not have
        that write yet."""
        waits, until_sec = Waits(BEHIND_SEC, TIMEOUT_SEC), time.monotonic() + TIMEOUT_SEC
        while True:
            found = await self.get(key)
            if found is not None and found.revision > last:
                return found
            if time.monotonic() > until_sec:
                raise KeyValueError(f"Bucket {self.bucket}: the last write of {key} is missing.")
            await asyncio.sleep(waits.next())

    async def _api(self, verb: str, body: dict[str, Any] | None = None) -> _Reply:
        payload = b"" if body is None else msgspec.json.encode(body)
        subject = jetstream.api(self._domain, verb)
        message = await self._connection.request_message(subject, payload, TIMEOUT_SEC)
        if message is None:
            raise KeyValueError("JetStream does not answer: disabled, or not permitted.")
        return _decode(self.bucket, message.data)


def bucket_configuration(bucket: str, *, history: int = 1, replicas: int = 1) -> dict[str, Any]:
    """Returns the stream's configuration, as every NATS client makes it for a bucket, but without
    rollups: with one, a client that may write one key could remove all."""
    return {
        "name": f"KV_{bucket}",
        "subjects": [f"$KV.{bucket}.>"],
        "storage": "file",
        "max_msgs_per_subject": history,
        "max_age": 0,
        "discard": "new",
        "num_replicas": replicas,
        "allow_rollup_hdrs": False,
        "deny_delete": True,
        "allow_direct": True,
    }


def _decode(bucket: str, data: bytes) -> _Reply:
    try:
        return msgspec.json.decode(data, type=_Reply)
    except msgspec.DecodeError as error:
        raise KeyValueError(f"Bucket {bucket}: malformed reply: {error}.") from None
