"""Sends one request to many hosts and gathers their replies.

A wave is published under one inbox. It ends when every expected host has replied or is known
to be absent ("no responders" from NATS), or at the timeout. If the hosts are not known, it
lasts until the timeout. Verbs, targets and terminals are handled elsewhere.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import ConnectionClosedError

from ..config.sections import TOKEN
from ..errors import UnreachableError

INBOX_MESSAGES_MAX = 65_536
INBOX_BYTES_MAX = 256 << 20

NO_RESPONDERS = "503"  # status header from nats-server: the subject has no subscriber


@dataclass(frozen=True, slots=True)
class Ask:
    """One message to publish. `host`: set if the subject reaches only this host."""

    subject: str
    host: str | None = None


@dataclass(frozen=True, slots=True)
class Reply:
    """Reply of one host: its status, its body and the time it took."""

    host: str
    code: int
    body: dict[str, Any]
    elapsed_sec: float = 0.0

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
    """The state of one wave: replies, unreachable hosts and expected hosts."""

    expected: frozenset[str] | None
    replies: dict[str, Reply] = field(default_factory=dict)
    unreachable: set[str] = field(default_factory=set)
    nobody: bool = False
    repeated: set[str] = field(default_factory=set)
    misnamed: set[tuple[str, str]] = field(default_factory=set)  # (asked, named in the reply)

    def add(self, reply: Reply) -> None:
        if reply.host in self.replies:
            self.repeated.add(reply.host)
        else:
            self.replies[reply.host] = reply

    def note_no_responders(self, host: str | None) -> None:
        if host is None:
            self.nobody = True
        else:
            self.unreachable.add(host)

    @property
    def complete(self) -> bool:
        if self.nobody:
            return True
        if self.expected is None:
            return False
        return self.expected <= self.replies.keys() | self.unreachable

    def absences(self, timeout_sec: float) -> list[Absence]:
        """Returns the expected hosts that did not reply, each with the reason."""
        missing = sorted((self.expected or frozenset()) - self.replies.keys())
        return [
            Absence(
                host,
                "no agent with this name is connected"
                if host in self.unreachable or self.nobody
                else f"no reply within {timeout_sec:g} s",
            )
            for host in missing
        ]


def decode_reply(data: bytes, headers: dict[str, str] | None, elapsed_sec: float) -> Reply:
    """Reads a reply. A malformed body, status or name is a failure of the host (code 500)."""
    headers = headers or {}
    host = headers.get("Host", "")
    try:
        body = decode_object(data)
        host = token(host or body.get("host"))
    except ValueError as error:
        return Reply.unreadable(host if TOKEN.fullmatch(host) else "?", str(error), elapsed_sec)
    status = headers.get("Status-Code") or headers.get("Nats-Service-Error-Code")
    if status is None:
        status = str(body.get("code", 200)) if "error" in body else "200"
    code = int(status) if re.fullmatch(r"[1-5][0-9]{2}", status) else 500
    return Reply(host, code, body, elapsed_sec)


def decode_object(data: bytes) -> dict[str, Any]:
    """Decodes a JSON object. Raises ValueError if it is malformed."""
    try:
        return msgspec.json.decode(data, type=dict[str, Any])
    except (msgspec.DecodeError, RecursionError) as error:
        raise ValueError(str(error)) from None


def token(name: object) -> str:
    """Returns a host name that is safe in file names and on terminals. Raises ValueError."""
    if not isinstance(name, str) or not TOKEN.fullmatch(name):
        raise ValueError("invalid host name in the reply")
    return name


Decode = Callable[[bytes, dict[str, str] | None, float], Reply]


@dataclass(frozen=True, slots=True)
class Message:
    """Payload and headers of a request, and the decoder of its replies."""

    payload: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    decode: Decode = decode_reply


@dataclass(frozen=True, slots=True)
class Wait:
    """quiet_sec: once there is a reply, the wave also ends after this time without another one.
    For discovery, where the number of replies is unknown."""

    timeout_sec: float
    quiet_sec: float | None = None


async def scatter(
    connection: Client,
    asks: Sequence[Ask],
    message: Message,
    expected: Collection[str] | None,
    wait: Wait,
    progress: Callable[[Gathering], None] | None = None,
) -> Gathering:
    """Publishes every ask. Gathers replies until the wave is complete or the wait is over."""
    gathering = Gathering(None if expected is None else frozenset(expected))
    inbox = connection.new_inbox()
    subscription = await connection.subscribe(
        f"{inbox}.*", pending_msgs_limit=INBOX_MESSAGES_MAX, pending_bytes_limit=INBOX_BYTES_MAX
    )
    began = time.monotonic()
    deadline = began + wait.timeout_sec
    try:
        for index, ask in enumerate(asks):
            reply_to = f"{inbox}.{index}"
            await connection.publish(ask.subject, message.payload, reply_to, dict(message.headers))
        while not gathering.complete:
            left_sec = deadline - time.monotonic()
            if wait.quiet_sec is not None and gathering.replies:
                left_sec = min(left_sec, wait.quiet_sec)
            if left_sec <= 0:
                break
            try:
                reply = await subscription.next_msg(left_sec)
            except TimeoutError:
                break
            except (ConnectionClosedError, asyncio.CancelledError) as error:
                if not connection.is_closed:
                    raise
                raise UnreachableError("The connection to NATS was lost.") from error
            gather(reply, asks, gathering, message.decode, time.monotonic() - began)
            if progress is not None:
                progress(gathering)
    finally:
        if not connection.is_closed:
            await subscription.unsubscribe()
    return gathering


def gather(
    message: Msg, asks: Sequence[Ask], gathering: Gathering, decode: Decode, elapsed_sec: float
) -> None:
    """Adds one reply. A reply to a host's request is not accepted under another host's name.
    Each ask has its own inbox, known only to its receivers."""
    index = message.subject.rpartition(".")[2]
    if not index.isdecimal() or int(index) >= len(asks):
        return  # not one of our inboxes
    asked = asks[int(index)].host
    if not message.data and (message.headers or {}).get("Status") == NO_RESPONDERS:
        gathering.note_no_responders(asked)
        return
    reply = decode(message.data, message.headers, elapsed_sec)
    if asked is not None and reply.host != asked:
        gathering.misnamed.add((asked, reply.host))
    else:
        gathering.add(reply)
