"""Publishes asks under one inbox and keeps the replies.

An Inbox belongs to one request. NATS reports "no responders" for a subject that nobody hears.
A JetStream stream that stores a request's subject acknowledges the request. The acknowledgement is
not a reply. request.py decides which hosts to ask and how long to wait.

A reply is believed only under one name: its `Host` header, its body and the host whose subject
was asked have to agree.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import msgspec
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.errors import ConnectionClosedError
from nats.errors import Error as NatsError

from ..bus.nats_client import GuardedClient, PermissionDeniedError
from ..config.sections import TOKEN
from ..errors import UnreachableError
from ..wire.instant import rfc3339
from .packed import Packed

INBOX_MESSAGES_MAX = 65_536
INBOX_BYTES_MAX = 256 << 20
ACK_BYTES_MAX = 4096
POLL_SEC = 0.25  # how soon a lost connection is noticed
READ_SEC = 1  # a server that does not reply delays the end of a wait by this time

NO_RESPONDERS = "503"  # status header from nats-server: the subject has no subscriber
UNKNOWN = "?"  # the host of a reply that names none
NOT_CONNECTED = "not connected"
NO_ANSWER = "no answer"
NOT_ASKED = "not asked"


@dataclass(frozen=True, slots=True)
class Ask:
    """One message to publish. `host`: set if the subject reaches only this host."""

    subject: str
    host: str | None = None


@dataclass(frozen=True, slots=True)
class Reply:
    """Reply of one host: its status, its body and the time it took. twins: the replies of
    several agents under this name."""

    host: str
    code: int
    body: dict[str, Any]
    elapsed_sec: float = 0.0
    twins: tuple[Reply, ...] = ()

    @property
    def accepted(self) -> bool:
        return self.code < 400

    @classmethod
    def unreadable(cls, host: str, why: str, elapsed_sec: float) -> Reply:
        body = {"host": host, "code": 500, "error": "unreadable", "detail": why}
        return cls(host, 500, body, elapsed_sec)


@dataclass(frozen=True, slots=True)
class Absence:
    """An expected host that did not reply."""

    host: str
    reason: str


@dataclass(slots=True)
class Gathering:
    """The replies and notices of one inbox."""

    replies: dict[str, Reply] = field(default_factory=dict)
    others: dict[str, list[Reply]] = field(default_factory=dict)  # second replies of a host
    unreachable: set[str] = field(default_factory=set)
    nobody: bool = False
    misnamed: set[tuple[str, str]] = field(default_factory=set)  # (asked, named in the reply)
    stored_by: set[str] = field(default_factory=set)  # streams that stored the request
    denied: list[PermissionDeniedError] = field(default_factory=list)  # asks that were not sent
    slowest_sec: float = 0.0

    def add(self, reply: Reply) -> None:
        self.slowest_sec = max(self.slowest_sec, reply.elapsed_sec)
        if reply.host not in self.replies:
            self.replies[reply.host] = reply
        elif reply.host != UNKNOWN:
            self.others.setdefault(reply.host, []).append(reply)

    def note_no_responders(self, host: str | None) -> None:
        if host is None:
            self.nobody = True
        else:
            self.unreachable.add(host)


def decode_reply(
    data: bytes,
    headers: dict[str, str] | None,
    elapsed_sec: float,
    encoded: Collection[str] = (),
) -> Reply:
    """Reads a reply. A malformed body, status or name is a failure of the host (code 500).

    encoded: fields that stay JSON text, compressed (Packed).
    """
    headers = headers or {}
    host = headers.get("Host", "")
    try:
        body = decode_object(data, encoded)
        host = token(host or body.get("host"))
        body = {**body, "host": same_name(host, body.get("host", host))}
    except ValueError as error:
        return Reply.unreadable(host if TOKEN.fullmatch(host) else UNKNOWN, str(error), elapsed_sec)
    status = headers.get("Status-Code") or headers.get("Nats-Service-Error-Code")
    if status is None:
        status = str(body.get("code", 200)) if "error" in body else "200"
    code = int(status) if re.fullmatch(r"[1-5][0-9]{2}", status) else 500
    return Reply(host, code, body, elapsed_sec)


def decode_object(data: bytes, encoded: Collection[str] = ()) -> dict[str, Any]:
    """Decodes a JSON object. Raises ValueError if it is malformed. encoded: see decode_reply."""
    try:
        if not encoded:
            return msgspec.json.decode(data, type=dict[str, Any])
        fields = msgspec.json.decode(data, type=dict[str, msgspec.Raw])
        return {
            name: Packed(memoryview(text)) if name in encoded else msgspec.json.decode(text)
            for name, text in fields.items()
        }
    except (msgspec.DecodeError, RecursionError) as error:
        raise ValueError(str(error)) from None


def decode_discovery(data: bytes, headers: dict[str, str] | None, elapsed_sec: float) -> Reply:
    """Reads a $SRV reply. The host is the service's id. An agent that discovery does not reach
    replies to `status` instead; then only its name is known."""
    if headers and "Host" in headers:
        reply = decode_reply(data, headers, elapsed_sec)
        known = reply.body.get("error") != "unreadable"
        body = {"host": reply.host, "id": reply.host, "name": "netsonde"}
        return Reply(reply.host, 200, body, elapsed_sec) if known else reply
    host = UNKNOWN
    try:
        body = decode_object(data)
        host = token(body.get("id"))
        same_name(host, body.get("host", host))
        return Reply(host, 200, {"host": host, **body}, elapsed_sec)
    except ValueError as error:
        return Reply.unreadable(host, str(error), elapsed_sec)


def same_name(host: str, other: object) -> str:
    """Raises ValueError if a reply has two names."""
    if other != host:
        raise ValueError(f"the reply has two host names: {host} and {str(other)[:64]!r}")
    return host


def token(name: object) -> str:
    """Returns a host name that is safe in file names and on terminals. Raises ValueError."""
    if not isinstance(name, str) or not TOKEN.fullmatch(name):
        raise ValueError("invalid host name in the reply")
    return name


Decode = Callable[[bytes, dict[str, str] | None, float], Reply]


@dataclass(frozen=True, slots=True)
class Message:
    """Payload and headers of a request, and the decoder of its replies. lifetime_sec: an agent
    refuses the request when it is older."""

    payload: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    decode: Decode = decode_reply
    lifetime_sec: float | None = None

    def stamped(self) -> dict[str, str]:
        """Returns the headers of a message that is published now."""
        if self.lifetime_sec is None:
            return dict(self.headers)
        expires_ns = time.time_ns() + int(self.lifetime_sec * 1e9)
        return {**self.headers, "Expires-At": rfc3339(expires_ns)}


class Signal:
    """Wakes a request when something has arrived."""

    def __init__(self, connection: GuardedClient) -> None:
        self._connection = connection
        self._changed = asyncio.Event()

    def set(self, _host: str | None = None) -> None:
        self._changed.set()

    async def wait(self, until_sec: float) -> None:
        """Returns when something has arrived, or at the time. Raises UnreachableError."""
        left_sec = min(until_sec - time.monotonic(), POLL_SEC)
        if left_sec > 0:
            try:
                async with asyncio.timeout(left_sec):
                    await self._changed.wait()
            except TimeoutError:
                pass
        self._changed.clear()
        if self._connection.is_closed:
            raise UnreachableError("The connection to NATS was lost.")

    async def await_silence(
        self, until_sec: Callable[[], float], ended: Callable[[], bool] = lambda: False
    ) -> None:
        """Returns as soon as `ended`, or at a time that replies postpone. Raises
        UnreachableError."""
        while not ended():
            end_sec = until_sec()
            if time.monotonic() < end_sec:
                await self.wait(end_sec)
                continue
            await self.read_arrived()
            if until_sec() <= end_sec:
                break

    async def read_arrived(self) -> None:
        """Reads what the server has sent so far. On a busy machine, replies may have arrived before
        a deadline and wait to be read."""
        with contextlib.suppress(NatsError, TimeoutError, OSError):
            await self._connection.flush(timeout=READ_SEC)


class Inbox:
    """Use it with `async with`. changed: called with the host (None if unknown) after each
    message."""

    def __init__(
        self, connection: GuardedClient, message: Message, changed: Callable[[str | None], None]
    ) -> None:
        self.gathering = Gathering()
        self.heard_sec = time.monotonic()  # time of the last ask or reply
        self._connection = connection
        self._message = message
        self._changed = changed
        self._prefix = connection.new_inbox()
        self._asks: list[Ask] = []
        self._asked_sec: list[float] = []
        self._subjects: set[str] = set()
        self._watch = connection.denials.watch(self._on_denial)
        self._subscription: Subscription

    async def __aenter__(self) -> Inbox:
        self._watch.__enter__()
        self._subscription = await self._connection.subscribe(
            f"{self._prefix}.*",
            cb=self._receive,
            pending_msgs_limit=INBOX_MESSAGES_MAX,
            pending_bytes_limit=INBOX_BYTES_MAX,
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._watch.__exit__(None, None, None)
        with contextlib.suppress(NatsError, OSError):
            if not self._connection.is_closed:
                await self._subscription.unsubscribe()

    async def ask(self, ask: Ask) -> None:
        """Raises UnreachableError if the connection is closed."""
        self._asks.append(ask)
        self._subjects.add(ask.subject)
        self.heard_sec = time.monotonic()
        self._asked_sec.append(self.heard_sec)
        try:
            await self._connection.publish(
                ask.subject,
                self._message.payload,
                f"{self._prefix}.{len(self._asks) - 1}",
                self._message.stamped(),
            )
        except ConnectionClosedError as error:
            raise UnreachableError("The connection to NATS was lost.") from error

    def _on_denial(self, denial: PermissionDeniedError) -> None:
        if denial.subject in self._subjects or denial.subject.startswith(self._prefix):
            self.gathering.denied.append(denial)
            self._changed(None)

    async def _receive(self, message: Msg) -> None:
        index = message.subject.rpartition(".")[2]
        if not (index.isascii() and index.isdecimal()) or int(index) >= len(self._asks):
            return  # not one of our subjects
        self.heard_sec = time.monotonic()
        elapsed_sec = self.heard_sec - self._asked_sec[int(index)]
        asked = self._asks[int(index)].host
        self._changed(gather(message, asked, self.gathering, self._message.decode, elapsed_sec))


def gather(
    message: Msg, asked: str | None, gathering: Gathering, decode: Decode, elapsed_sec: float
) -> str | None:
    """Adds one reply and returns its host. asked: the host whose subject was asked. Only its
    receivers know the inbox, so an unreadable reply is that host's. A reply under another name is
    not accepted."""
    if not message.data and (message.headers or {}).get("Status") == NO_RESPONDERS:
        gathering.note_no_responders(asked)
        return asked
    stream = storing_stream(message.data, message.headers)
    if stream is not None:
        gathering.stored_by.add(stream)
        return None
    reply = decode(message.data, message.headers, elapsed_sec)
    if asked is not None and reply.host == UNKNOWN:
        reply = Reply.unreadable(asked, str(reply.body.get("detail")), elapsed_sec)
    if asked is not None and reply.host != asked:
        gathering.misnamed.add((asked, reply.host))
        return None
    gathering.add(reply)
    return reply.host


def storing_stream(data: bytes, headers: dict[str, str] | None) -> str | None:
    """Returns the stream if this is JetStream's acknowledgement of a stored message."""
    if len(data) > ACK_BYTES_MAX or b'"stream"' not in data or "Host" in (headers or {}):
        return None
    try:
        body = decode_object(data)
    except ValueError:
        return None
    stream = body.get("stream")
    return stream if isinstance(stream, str) and "seq" in body and "host" not in body else None
