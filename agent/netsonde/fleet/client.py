"""A controller's connection: find out who is there, ask many hosts, follow their streams.

One FleetClient is one NATS connection that lives as long as its `async with`. It fails soon
and with one sentence when NATS cannot be reached, and it never retries a request by itself:
each request carries a Request-Id, so that whoever repeats it may do so safely.
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
from .scatter import Absence, Ask, Gathering, Reply, decode_object, scatter, token
from .targeting import Limit, Target, TargetError, host_subject

SERVICE = "netsonde"
CONNECT_TIMEOUT_SEC = 4.0
CLOSE_TIMEOUT_SEC = 1.0
DISCOVERY_SEC_MAX = 1.0
DISCOVERY_QUIET_SEC = 0.2
PING_INTERVAL_SEC = 5  # of a lasting connection: the third unanswered ping drops a frozen server
STREAM_MESSAGES_MAX = 256
STREAM_BYTES_MAX = 32 << 20
NOT_ASKED = "not asked"

Progress = Callable[[int, int | None], None]


@dataclass(frozen=True, slots=True)
class Pace:
    """How a request goes out: to how many hosts, how many at a time, until how much fails."""

    timeout_sec: float = 2.0
    limit: Limit | None = None
    batch: int | None = None
    failures_max: int | None = None

    @property
    def staged(self) -> bool:
        return self.batch is not None or self.failures_max is not None

    def waves(self, hosts: Sequence[str]) -> list[tuple[str, ...]]:
        """The hosts in the order and company in which they are asked."""
        size = self.batch or (1 if self.failures_max is not None else len(hosts) or 1)
        return [tuple(hosts[i : i + size]) for i in range(0, len(hosts), size)]

    def broken_off(self, outcome: Outcome) -> bool:
        """More failed than may."""
        return self.failures_max is not None and outcome.failures > self.failures_max


@dataclass(slots=True)
class Outcome:
    """What became of one request: replies and absences by host name, and what looked odd."""

    replies: list[Reply] = field(default_factory=list)
    absences: list[Absence] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        """At least one host was asked, and each answered below 400."""
        return bool(self.replies) and not self.failures

    @property
    def failures(self) -> int:
        return len(self.absences) + sum(not reply.accepted for reply in self.replies)

    def include(self, gathering: Gathering, timeout_sec: float) -> None:
        self.replies = sorted([*self.replies, *gathering.replies.values()], key=lambda r: r.host)
        self.absences += gathering.absences(timeout_sec)


class FleetClient:
    """See the head of this file. Make one with `connect`."""

    def __init__(self, connection: Client, address: NatsSection, errors: list[Exception]) -> None:
        self.connection = connection
        self.address = address
        self.errors = errors
        self.twins: set[str] = set()
        self.misnamed: set[tuple[str, str]] = set()
        self.strangers: set[str] = set()

    @property
    def max_payload(self) -> int:
        """Bytes of payload and headers that the server takes."""
        return int(self.connection.max_payload)

    async def request(
        self,
        subject: str,
        payload: bytes,
        timeout_sec: float,
        headers: dict[str, str] | None = None,
    ) -> bytes | None:
        """The first reply, or None: nobody is there, or nobody answered in time."""
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
        """Who is there, by host, from NATS service discovery (`kind`: PING, INFO, STATS).

        None: nobody answered and nobody said why, as when this account may not use $SRV.
        """
        subject = f"$SRV.{kind}.{SERVICE}"
        asks = [Ask(f"{subject}.{host}", host) for host in target.hosts] or [Ask(subject)]
        window_sec = min(timeout_sec, DISCOVERY_SEC_MAX)
        gathering = await scatter(
            self.connection,
            asks,
            b"",
            {},
            expected=target.hosts or None,
            timeout_sec=timeout_sec if target.hosts else window_sec,
            quiet_sec=None if target.hosts else DISCOVERY_QUIET_SEC,
            decode=decode_discovery,
        )
        self.notice_names(gathering)
        if not gathering.replies and not gathering.nobody and not target.hosts:
            return None
        replies = sorted(gathering.replies.items())
        self.strangers |= {r.body["detail"] for _, r in replies if not r.accepted}
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
        """Sends one request to the target at the given pace and gathers the outcome."""
        payload = msgspec.json.encode(body)
        headers = {
            "Content-Type": "application/json",
            "Request-Id": request_id or uuid.uuid4().hex,
        }
        hosts = await self.expect_hosts(target, pace)
        outcome = Outcome()
        if hosts is None or not (target.hosts or pace.staged or pace.limit):
            # An expectation of nobody would end the wave before it began.
            waves = [([Ask(target.subject(self.address.root, verb))], hosts or None)]
        else:
            waves = [
                ([Ask(host_subject(self.address.root, h, verb), h) for h in wave], wave)
                for wave in pace.waves(hosts)
            ]
        for asks, expected in waves:
            if pace.broken_off(outcome):
                outcome.absences += [Absence(host, NOT_ASKED) for host in expected or ()]
                continue
            done = len(outcome.replies)
            gathering = await scatter(
                self.connection,
                asks,
                payload,
                headers,
                expected=expected,
                timeout_sec=pace.timeout_sec,
                progress=_report(progress, done, None if hosts is None else len(hosts)),
            )
            outcome.include(gathering, pace.timeout_sec)
            self.notice_names(gathering)
        outcome.warnings = self.take_warnings()
        return outcome

    def notice_names(self, gathering: Gathering) -> None:
        self.twins |= gathering.repeated
        self.misnamed |= gathering.misnamed

    def take_warnings(self) -> list[str]:
        """What looked odd since the last call: NATS errors, names that do not fit."""
        warnings = [str(error) for error in self.errors]
        warnings += [f"{host}: two agents answer to this name" for host in sorted(self.twins)]
        warnings += [
            f"{asked}: answered in the name of {named}, which is not believed"
            for asked, named in sorted(self.misnamed)
        ]
        warnings += [
            f"somebody answers for {SERVICE} who is no agent: {why}"
            for why in sorted(self.strangers)
        ]
        self.errors.clear()
        self.twins.clear()
        self.misnamed.clear()
        self.strangers.clear()
        return warnings

    async def expect_hosts(self, target: Target, pace: Pace) -> tuple[str, ...] | None:
        """Which hosts should answer; None when that cannot be found out."""
        if target.hosts:
            return pace.limit.apply(target.hosts) if pace.limit else target.hosts
        found = await self.discover("PING", target, pace.timeout_sec)
        if found is None:
            if pace.staged or pace.limit:
                raise TargetError(
                    "Service discovery gave no answer, so --limit, --batch and --max-failures "
                    "need the hosts named with --host or --nodes."
                )
            return None
        hosts = tuple(found)
        return pace.limit.apply(hosts) if pace.limit else hosts

    async def stream_hosts(self, target: Target, pace: Pace) -> tuple[str, ...] | None:
        """Whose streams to follow; None for all. Named hosts may well come later."""
        if target.group is None and pace.limit is None:
            return target.hosts or None
        return await self.expect_hosts(target, pace) or ()

    async def follow(self, stream: str, hosts: Sequence[str] | None) -> AsyncGenerator[Msg, None]:
        """The messages of a stream, of the named hosts or of all, as they come. Bounded: what
        the reader cannot keep up with is dropped, and shows as gaps in `seq`."""
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
    """A $SRV reply: the host is the service's id."""
    try:
        body = decode_object(data)
        return Reply(token(body.get("id")), 200, body, elapsed_sec)
    except ValueError as error:
        return Reply.unreadable("?", str(error), elapsed_sec)


def belongs(body: dict[str, Any], root: str, group: tuple[str, str] | None) -> bool:
    """Is this agent under the root, and in the group? Its metadata tells."""
    metadata = body.get("metadata")
    if isinstance(metadata, dict) and metadata.get("subject.root", root) != root:
        return False
    return group is None or read_labels(metadata).get(group[0]) == group[1]


def read_labels(metadata: object) -> dict[str, str]:
    """An agent's labels out of its discovery metadata: label names have no dots, every other
    name has one. `label.` may stand before them."""
    if not isinstance(metadata, dict):
        return {}
    plain = {key.removeprefix("label."): str(value) for key, value in metadata.items()}
    return {key: value for key, value in sorted(plain.items()) if "." not in key}


@asynccontextmanager
async def connect(
    address: NatsSection, *, lasting: bool = False, notify: Callable[[str], None] | None = None
) -> AsyncIterator[FleetClient]:
    """Connects, or raises UnreachableError within about four seconds.

    lasting: reconnect for ever once connected (for streams); without it a lost connection
    ends the requests in flight. notify: told when a lasting connection goes and comes.
    """
    connection = GuardedClient()
    errors: list[Exception] = []
    established = asyncio.Event()

    async def note_error(error: Exception) -> None:
        # Must not raise: that would end the client's read loop (nats-py 2.16).
        if len(errors) < 100 and not isinstance(error, SlowConsumerError):
            errors.append(error)

    async def note_lost() -> None:
        if notify is not None and established.is_set():
            notify("connection to NATS lost; waiting for it to come back")

    async def note_back() -> None:
        errors.clear()
        if notify is not None:
            notify("connected to NATS again")

    options = login_options(address)
    connection.tls_expected = "tls" in options
    connection.login = Login(address)
    try:
        # One retry a server and an outer limit: nats-py's connect can otherwise go on for ever.
        async with asyncio.timeout(CONNECT_TIMEOUT_SEC):
            await connection.connect(
                list(address.servers),
                name="netsonde-cli",
                allow_reconnect=lasting,
                max_reconnect_attempts=1,
                # A float works; releases of nats-py differ in what they annotate.
                reconnect_time_wait=0.2,  # type: ignore[arg-type,unused-ignore]
                connect_timeout=2,
                ping_interval=PING_INTERVAL_SEC,
                error_cb=note_error,
                disconnected_cb=note_lost,
                reconnected_cb=note_back,
                **options,
            )
    except Exception as error:  # whatever answers at that port, nats-py stumbles over some of it
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
    """A server that has frozen must not keep the command from ending."""
    try:
        async with asyncio.timeout(CLOSE_TIMEOUT_SEC):
            await connection.close()
    except (TimeoutError, OSError, NatsError):
        abort_transport(connection)


def login_options(address: NatsSection) -> dict[str, Any]:
    """TLS and credentials as nats-py takes them."""
    options: dict[str, Any] = {"tls_handshake_first": address.tls_handshake_first}
    secured = any(urlsplit(server).scheme == "tls" for server in address.servers)
    if secured or address.tls_ca or address.tls_cert or address.tls_handshake_first:
        options["tls"] = tls_context(address)
    return options | Login(address).options


def explain(address: NatsSection, error: Exception) -> str:
    """One sentence, without the secrets that a URL may carry."""
    places = []
    for server in address.servers:
        parts = urlsplit(server if "//" in server else f"nats://{server}")
        places.append(f"{parts.scheme}://{parts.hostname}:{parts.port or 4222}")
    if isinstance(error, socket.gaierror):  # its numbers are not those of errno
        words = str(error.strerror).lower()
    elif isinstance(error, OSError) and error.errno is not None:
        words = os.strerror(error.errno).lower()
    else:
        words = str(error).removeprefix("nats: ").strip("'. ") or "no answer in time"
    return f"NATS cannot be reached at {', '.join(places)}: {words}."
