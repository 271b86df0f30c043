"""A controller's connection: discover agents, send requests to many hosts, follow streams.

A FleetClient holds one NATS connection for the length of its `async with`. `connect` fails
within seconds if NATS is unreachable. Requests are never retried automatically. Each request
carries a Request-Id, so the caller can safely send it again.
"""

from __future__ import annotations

import asyncio
import os
import socket
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import msgspec
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from nats.errors import SlowConsumerError

from ..bus.connection import abort_transport, honour_cancellation, tls_context
from ..bus.credentials import Login
from ..bus.nats_client import GuardedClient
from ..config.sections import NatsSection
from ..errors import UnreachableError
from .scatter import Absence, Ask, Gathering, Message, Reply, Wait, decode_object, scatter, token
from .targeting import Limit, Target, TargetError, host_subject

SERVICE = "netsonde"
CONNECT_TIMEOUT_SEC = 4.0
CLOSE_TIMEOUT_SEC = 1.0
DISCOVERY_SEC_MAX = 1.0
DISCOVERY_QUIET_SEC = 0.2
PING_INTERVAL_SEC = 5  # a lasting connection reconnects after three unanswered pings
STREAM_MESSAGES_MAX = 256
STREAM_BYTES_MAX = 32 << 20
NOT_ASKED = "not asked"

Progress = Callable[[int, int | None], None]


@dataclass(frozen=True, slots=True)
class Pace:
    """Timeout, host limit, batch size and failure limit of a request."""

    timeout_sec: float = 2.0
    limit: Limit | None = None
    batch: int | None = None
    failures_max: int | None = None

    @property
    def staged(self) -> bool:
        return self.batch is not None or self.failures_max is not None

    def waves(self, hosts: Sequence[str]) -> list[tuple[str, ...]]:
        """Splits the hosts into the batches that are asked one after the other."""
        size = self.batch or (1 if self.failures_max is not None else len(hosts) or 1)
        return [tuple(hosts[i : i + size]) for i in range(0, len(hosts), size)]

    def exceeded(self, outcome: Outcome) -> bool:
        """Returns whether more hosts failed than allowed."""
        return self.failures_max is not None and outcome.failures > self.failures_max


@dataclass(slots=True)
class Outcome:
    """Result of one request: replies and missing hosts, sorted by host, and warnings."""

    replies: list[Reply] = field(default_factory=list)
    absences: list[Absence] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        """Returns whether at least one host replied and every reply is below 400."""
        return bool(self.replies) and not self.failures

    @property
    def failures(self) -> int:
        return len(self.absences) + sum(not reply.accepted for reply in self.replies)

    def include(self, gathering: Gathering, timeout_sec: float) -> None:
        self.replies = sorted([*self.replies, *gathering.replies.values()], key=lambda r: r.host)
        self.absences += gathering.absences(timeout_sec)


class FleetClient:
    """One NATS connection to a fleet. Create it with `connect`."""

    def __init__(self, connection: Client, address: NatsSection, errors: list[Exception]) -> None:
        self.connection = connection
        self.address = address
        self.errors = errors
        self.duplicates: set[str] = set()
        self.misnamed: set[tuple[str, str]] = set()
        self.foreign: set[str] = set()

    @property
    def max_payload(self) -> int:
        """The server's limit for payload and headers, in bytes."""
        return int(self.connection.max_payload)

    async def request(
        self,
        subject: str,
        payload: bytes,
        timeout_sec: float,
        headers: dict[str, str] | None = None,
    ) -> bytes | None:
        """Returns the first reply; None if there is no responder or no reply in time."""
        try:
            reply = await self.connection.request(
                subject, payload, timeout=timeout_sec, headers=headers
            )
        except (NatsError, TimeoutError):
            return None
        return bytes(reply.data)

    async def discover(
        self, kind: str, target: Target, timeout_sec: float
    ) -> dict[str, Reply] | None:
        """Finds agents, by host, through NATS service discovery (`kind`: PING, INFO, STATS).

        Returns None if there was no reply at all, not even "no responders". This happens if
        the account may not use $SRV.
        """
        subject = f"$SRV.{kind}.{SERVICE}"
        asks = [Ask(f"{subject}.{host}", host) for host in target.hosts] or [Ask(subject)]
        wait = Wait(timeout_sec)
        if not target.hosts:
            wait = Wait(min(timeout_sec, DISCOVERY_SEC_MAX), DISCOVERY_QUIET_SEC)
        gathering = await scatter(
            self.connection, asks, Message(decode=decode_discovery), target.hosts or None, wait
        )
        self.note_names(gathering)
        if not gathering.replies and not gathering.nobody and not target.hosts:
            return None
        replies = sorted(gathering.replies.items())
        self.foreign |= {r.body["detail"] for _, r in replies if not r.accepted}
        return {
            host: reply
            for host, reply in replies
            if reply.accepted and belongs(reply.body, self.address.root, target.group)
        }

    async def ask(
        self,
        verb: str,
        body: dict[str, Any],
        target: Target,
        pace: Pace,
        *,
        request_id: str | None = None,
        progress: Progress | None = None,
    ) -> Outcome:
        """Sends one request to the target at the given pace and gathers the replies."""
        headers = {"Content-Type": "application/json", "Request-Id": request_id or uuid.uuid4().hex}
        message = Message(msgspec.json.encode(body), headers)
        hosts = await self.expect_hosts(target, pace)
        outcome = Outcome()
        if hosts is None or not (target.hosts or pace.staged or pace.limit):
            # Without `or None`, an empty expectation would end the wave at once.
            waves = [([Ask(target.subject(self.address.root, verb))], hosts or None)]
        else:
            waves = [
                ([Ask(host_subject(self.address.root, h, verb), h) for h in wave], wave)
                for wave in pace.waves(hosts)
            ]
        for asks, expected in waves:
            if pace.exceeded(outcome):
                outcome.absences += [Absence(host, NOT_ASKED) for host in expected or ()]
                continue
            done = len(outcome.replies)
            gathering = await scatter(
                self.connection,
                asks,
                message,
                expected,
                Wait(pace.timeout_sec),
                _report(progress, done, None if hosts is None else len(hosts)),
            )
            outcome.include(gathering, pace.timeout_sec)
            self.note_names(gathering)
        outcome.warnings = self.drain_warnings()
        return outcome

    def note_names(self, gathering: Gathering) -> None:
        self.duplicates |= gathering.repeated
        self.misnamed |= gathering.misnamed

    def drain_warnings(self) -> list[str]:
        """Returns and clears the warnings since the last call: NATS errors, wrong host names."""
        warnings = [str(error) for error in self.errors]
        warnings += [f"{host}: two agents use this host name" for host in sorted(self.duplicates)]
        warnings += [
            f"{asked}: reply ignored, it names another host: {named}"
            for asked, named in sorted(self.misnamed)
        ]
        warnings += [
            f"service discovery of {SERVICE}: reply ignored, not an agent: {why}"
            for why in sorted(self.foreign)
        ]
        self.errors.clear()
        self.duplicates.clear()
        self.misnamed.clear()
        self.foreign.clear()
        return warnings

    async def expect_hosts(self, target: Target, pace: Pace) -> tuple[str, ...] | None:
        """Returns the hosts that should reply; None if discovery got no reply."""
        if target.hosts:
            return pace.limit.apply(target.hosts) if pace.limit else target.hosts
        found = await self.discover("PING", target, pace.timeout_sec)
        if found is None:
            if pace.staged or pace.limit:
                raise TargetError(
                    "Service discovery got no reply. Name the hosts with --host or --nodes "
                    "to use --limit, --batch or --max-failures."
                )
            return None
        hosts = tuple(found)
        return pace.limit.apply(hosts) if pace.limit else hosts

    async def stream_hosts(self, target: Target, pace: Pace) -> tuple[str, ...] | None:
        """Returns the hosts whose streams to follow; None for all. Named hosts may be offline."""
        if target.group is None and pace.limit is None:
            return target.hosts or None
        return await self.expect_hosts(target, pace) or ()

    async def follow(self, stream: str, hosts: Sequence[str] | None) -> AsyncGenerator[Msg, None]:
        """Yields the messages of a stream, from the named hosts or from all. Messages that a
        slow reader does not consume are dropped and show as gaps in `seq`."""
        arrived: asyncio.Queue[Msg] = asyncio.Queue(maxsize=1)
        for host in hosts or ("*",):
            await self.connection.subscribe(
                f"{self.address.root}.stream.{stream}.{host}",
                cb=arrived.put,
                pending_msgs_limit=STREAM_MESSAGES_MAX,
                pending_bytes_limit=STREAM_BYTES_MAX,
            )
        await self.connection.flush()
        honour_cancellation()
        while True:
            yield await arrived.get()


def _report(
    progress: Progress | None, done: int, total: int | None
) -> Callable[[Gathering], None] | None:
    if progress is None:
        return None
    return lambda gathering: progress(done + len(gathering.replies), total)


def decode_discovery(data: bytes, headers: dict[str, str] | None, elapsed_sec: float) -> Reply:
    """Reads a $SRV reply. The host is the service's id."""
    try:
        body = decode_object(data)
        return Reply(token(body.get("id")), 200, body, elapsed_sec)
    except ValueError as error:
        return Reply.unreadable("?", str(error), elapsed_sec)


def belongs(body: dict[str, Any], root: str, group: tuple[str, str] | None) -> bool:
    """Returns whether the agent's metadata has this root and this group's label."""
    metadata = body.get("metadata")
    if isinstance(metadata, dict) and metadata.get("subject.root", root) != root:
        return False
    return group is None or read_labels(metadata).get(group[0]) == group[1]


def read_labels(metadata: object) -> dict[str, str]:
    """Returns an agent's labels from its discovery metadata. Label names have no dot, except
    for an optional prefix `label.`; every other name has a dot."""
    if not isinstance(metadata, dict):
        return {}
    plain = {key.removeprefix("label."): str(value) for key, value in metadata.items()}
    return {key: value for key, value in sorted(plain.items()) if "." not in key}


@asynccontextmanager
async def connect(
    address: NatsSection, *, lasting: bool = False, notify: Callable[[str], None] | None = None
) -> AsyncIterator[FleetClient]:
    """Connects, or raises UnreachableError within about four seconds.

    lasting: reconnect without a limit once connected (for streams). Otherwise a lost
    connection ends the requests in flight. notify: called when a lasting connection is lost
    and when it is restored.
    """
    connection = GuardedClient()
    errors: list[Exception] = []
    established = asyncio.Event()

    async def on_error(error: Exception) -> None:
        # Must not raise: an exception would end the client's read loop (nats-py 2.16).
        if len(errors) < 100 and not isinstance(error, SlowConsumerError):
            errors.append(error)

    async def on_disconnect() -> None:
        if notify is not None and established.is_set():
            notify("connection to NATS lost, reconnecting")

    async def on_reconnect() -> None:
        errors.clear()
        if notify is not None:
            notify("reconnected to NATS")

    options = login_options(address)
    connection.tls_expected = "tls" in options
    connection.login = Login(address)
    try:
        # One retry per server and an outer timeout: nats-py's connect could block forever.
        async with asyncio.timeout(CONNECT_TIMEOUT_SEC):
            await connection.connect(
                list(address.servers),
                name="netsonde-cli",
                allow_reconnect=lasting,
                max_reconnect_attempts=1,
                # A float works; the annotation differs between releases of nats-py.
                reconnect_time_wait=0.2,  # type: ignore[arg-type,unused-ignore]
                connect_timeout=2,
                ping_interval=PING_INTERVAL_SEC,
                error_cb=on_error,
                disconnected_cb=on_disconnect,
                reconnected_cb=on_reconnect,
                **options,
            )
    except Exception as error:  # nats-py raises various types if the peer is not NATS
        cause = errors[-1] if errors else error
        await close(connection)
        raise UnreachableError(explain(address, cause)) from error
    connection.options["max_reconnect_attempts"] = -1
    errors.clear()
    if lasting:
        established.set()
    try:
        yield FleetClient(connection, address, errors)
    finally:
        established.clear()
        await close(connection)


async def close(connection: Client) -> None:
    """Closes the connection; aborts it if the server does not respond in time."""
    try:
        async with asyncio.timeout(CLOSE_TIMEOUT_SEC):
            await connection.close()
    except (TimeoutError, OSError, NatsError):
        abort_transport(connection)


def login_options(address: NatsSection) -> dict[str, Any]:
    """Returns TLS and credentials as options of nats-py."""
    options: dict[str, Any] = {"tls_handshake_first": address.tls_handshake_first}
    secured = any(urlsplit(server).scheme == "tls" for server in address.servers)
    if secured or address.tls_ca or address.tls_cert or address.tls_handshake_first:
        options["tls"] = tls_context(address)
    return options | Login(address).options


def explain(address: NatsSection, error: Exception) -> str:
    """Returns one sentence for the user, without secrets from the URLs."""
    urls = []
    for server in address.servers:
        parts = urlsplit(server if "//" in server else f"nats://{server}")
        urls.append(f"{parts.scheme}://{parts.hostname}:{parts.port or 4222}")
    if isinstance(error, socket.gaierror):  # errno holds an EAI_* code
        reason = str(error.strerror).lower()
    elif isinstance(error, OSError) and error.errno is not None:
        reason = os.strerror(error.errno).lower()
    else:
        reason = str(error).removeprefix("nats: ").strip("'. ") or "no reply in time"
    return f"NATS cannot be reached at {', '.join(urls)}: {reason}."
