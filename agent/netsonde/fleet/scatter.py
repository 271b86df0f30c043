"""One request to many hosts, and the replies that come back, until enough is known.

A wave is published under one inbox. It ends when every expected host has answered or is
known to be absent (NATS says "no responders"), or when the time is up; with no expectation
it lasts the whole time. Nothing here knows verbs, targets or terminals.
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

# nats-server's own words for "nobody subscribes to this": a header line with this status.
NO_RESPONDERS = "503"


@dataclass(frozen=True, slots=True)
class Ask:
    """One message to publish. `host` is the one host that its subject reaches, if only one."""

    subject: str
    host: str | None = None


@dataclass(frozen=True, slots=True)
class Reply:
    """What one host answered: the body as sent, its status, and how long it took."""

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
    """A host that was expected to answer and did not."""

    host: str
    reason: str


@dataclass(slots=True)
class Gathering:
    """The state of one wave: who answered, who is known to be away, who is still awaited."""

    expected: frozenset[str] | None
    replies: dict[str, Reply] = field(default_factory=dict)
    unreachable: set[str] = field(default_factory=set)
    nobody: bool = False
    repeated: set[str] = field(default_factory=set)
    misnamed: set[tuple[str, str]] = field(default_factory=set)  # (who was asked, who answered)

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
        """Who of the expected hosts is missing, and why."""
        missing = sorted((self.expected or frozenset()) - self.replies.keys())
        return [
            Absence(
                host,
                "no agent of that name is connected"
                if host in self.unreachable or self.nobody
                else f"no answer within {timeout_sec:g} s",
            )
            for host in missing
        ]


def decode_reply(data: bytes, headers: dict[str, str] | None, elapsed_sec: float) -> Reply:
    """Reads a reply. A body, a status or a name that makes no sense counts as a failure of that
    host (code 500), never as an answer."""
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
    """Raises ValueError."""
    try:
        return msgspec.json.decode(data, type=dict[str, Any])
    except (msgspec.DecodeError, RecursionError) as error:
        raise ValueError(str(error)) from None


def token(name: object) -> str:
    """A host's name, which may stand in file names and on terminals. Raises ValueError."""
    if not isinstance(name, str) or not TOKEN.fullmatch(name):
        raise ValueError("it comes from no host by that name")
    return name


async def scatter(
    connection: Client,
    asks: Sequence[Ask],
    payload: bytes,
    headers: dict[str, str],
    *,
    expected: Collection[str] | None,
    timeout_sec: float,
    progress: Callable[[Gathering], None] | None = None,
    decode: Callable[[bytes, dict[str, str] | None, float], Reply] = decode_reply,
    quiet_sec: float | None = None,
) -> Gathering:
    """Publishes every ask and gathers until the wave is complete or timeout_sec is over.

    quiet_sec: with replies in hand, so much silence also ends the wave (for discovery, where
    nobody can know how many will answer).
    """
    gathering = Gathering(None if expected is None else frozenset(expected))
    inbox = connection.new_inbox()
    subscription = await connection.subscribe(
        f"{inbox}.*",
        pending_msgs_limit=INBOX_MESSAGES_MAX,
        pending_bytes_limit=INBOX_BYTES_MAX,
    )
    began = time.monotonic()
    deadline = began + timeout_sec
    try:
        for index, ask in enumerate(asks):
            await connection.publish(ask.subject, payload, f"{inbox}.{index}", dict(headers))
        while not gathering.complete:
            left_sec = deadline - time.monotonic()
            if quiet_sec is not None and gathering.replies:
                left_sec = min(left_sec, quiet_sec)
            if left_sec <= 0:
                break
            try:
                message = await subscription.next_msg(left_sec)
            except TimeoutError:
                break
            except (ConnectionClosedError, asyncio.CancelledError) as error:
                if not connection.is_closed:
                    raise
                raise UnreachableError("The connection to NATS was lost.") from error
            take(message, asks, gathering, decode, time.monotonic() - began)
            if progress is not None:
                progress(gathering)
    finally:
        if not connection.is_closed:
            await subscription.unsubscribe()
    return gathering


def take(
    message: Msg,
    asks: Sequence[Ask],
    gathering: Gathering,
    decode: Callable[[bytes, dict[str, str] | None, float], Reply],
    elapsed_sec: float,
) -> None:
    """What was asked of one host may be answered in no other's name: each ask has an inbox of
    its own, which only those who heard it know."""
    index = message.subject.rpartition(".")[2]
    if not index.isdecimal() or int(index) >= len(asks):
        return  # somebody made it up
    asked = asks[int(index)].host
    if not message.data and (message.headers or {}).get("Status") == NO_RESPONDERS:
        gathering.note_no_responders(asked)
        return
    reply = decode(message.data, message.headers, elapsed_sec)
    if asked is not None and reply.host != asked:
        gathering.misnamed.add((asked, reply.host))
    else:
        gathering.add(reply)
