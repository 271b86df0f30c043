"""A controller's connection: discover agents, send requests to many hosts, follow streams.

A FleetClient holds one NATS connection for the length of its `async with`. `connect` fails
within seconds if NATS is unreachable. Requests are never retried automatically. Each request
carries a Request-Id, so the caller can safely send it again. A request that changes something
also carries Expires-At: no agent executes it after the client has stopped waiting.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Coroutine, Sequence
from contextlib import aclosing, asynccontextmanager
from functools import partial
from typing import Any, TypeVar
from urllib.parse import urlparse

import msgspec
from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from nats.errors import SlowConsumerError

from ..bus import jetstream
from ..bus.connection import login_options, wants_tls
from ..bus.credentials import Login
from ..bus.embedded_login import with_embedded_login
from ..bus.nats_client import (
    GuardedClient,
    PermissionDeniedError,
    explain_error,
    honour_cancellation,
    server_name,
)
from ..config.sections import NatsSection
from ..errors import UnreachableError
from ..wire.subjects import any_shard
from ..wire.verbs import VERBS
from .denied import DeniedError as DeniedError
from .outcome import PACE
from .outcome import Outcome as Outcome
from .outcome import Pace as Pace
from .request import Progress, Request, Watcher
from .results import Result, stream_results
from .scatter import Message, Reply, decode_discovery, decode_reply
from .targeting import ALL, Target

CONNECT_TIMEOUT_SEC = 4.0
PING_INTERVAL_SEC = 5  # a lasting connection reconnects after three unanswered pings
STREAM_MESSAGES_MAX = 256
STREAM_BYTES_MAX = 32 << 20

T = TypeVar("T")


class FleetClient:
    """One NATS connection to a fleet. Create it with `connect`.

    Public: `address`, `ask` and `stream`. The rest serves the commands and may change.
    """

    def __init__(
        self, connection: GuardedClient, address: NatsSection, errors: list[Exception]
    ) -> None:
        self.connection = connection
        self.address = address
        self.errors = errors

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
        """Returns the first reply; None if there is no responder or no reply in time. Raises
        DeniedError."""
        reply = await self.request_message(subject, payload, timeout_sec, headers)
        return None if reply is None else bytes(reply.data)

    async def request_message(
        self,
        subject: str,
        payload: bytes,
        timeout_sec: float,
        headers: dict[str, str] | None = None,
    ) -> Msg | None:
        """Returns the first reply with its headers, as `request` does."""
        reply = self.connection.request(subject, payload, timeout=timeout_sec, headers=headers)
        try:
            return await self.allowed(reply, subject)
        except (NatsError, TimeoutError):
            return None

    async def allowed(self, action: Coroutine[Any, Any, T], subject: str) -> T:
        """Returns the result of the action, or raises DeniedError as soon as the server denies
        the subject."""
        denied: list[PermissionDeniedError] = []
        task = asyncio.ensure_future(action)

        def end(denial: PermissionDeniedError) -> None:
            if jetstream.denies(denial.subject, subject):
                denied.append(denial)
                task.cancel()

        with self.connection.denials.watch(end):
            try:
                return await task
            except asyncio.CancelledError:
                if not denied:
                    raise
                raise DeniedError(denied[0], self.address.root) from None
            finally:
                task.cancel()

    async def discover(
        self, kind: str, target: Target, timeout_sec: float
    ) -> dict[str, Reply] | None:
        """Finds agents, by host, through NATS service discovery (`kind`: PING, INFO, STATS).

        Returns None if there was no reply at all, not even "no responders". This happens if
        the account may not use $SRV.
        """
        async with self.open_request(Pace(timeout_sec), Message()) as request:
            return await request.search.discover(kind, target)

    @asynccontextmanager
    async def open_request(self, pace: Pace, message: Message) -> AsyncIterator[Request]:
        request = Request(self.connection, self.address, pace)
        try:
            yield await request.open(message)
        finally:
            await request.close()

    async def ask(
        self,
        verb: str,
        body: dict[str, Any],
        target: Target,
        pace: Pace,
        *,
        request_id: str | None = None,
        progress: Progress | None = None,
        watcher: Watcher | None = None,
        outcome: Outcome | None = None,
        hosts: Sequence[str] | None = None,
        encoded: Collection[str] = (),
    ) -> Outcome:
        """Sends one request to the target at the given pace and returns all results.

        verb and body: see docs/requests.md. request_id: of an earlier request, to repeat it
        safely. outcome: filled in even if the request is interrupted or the connection is lost.
        hosts: the hosts of a resumed run, instead of the target. encoded: fields of the replies
        that stay JSON text (Packed), to save memory. Raises UnreachableError, DeniedError,
        TargetError.
        """
        outcome = Outcome() if outcome is None else outcome
        outcome.request_id = outcome.request_id or request_id or uuid.uuid4().hex
        headers = {"Content-Type": "application/json", "Request-Id": outcome.request_id}
        lifetime_sec = pace.timeout_sec if verb not in VERBS or VERBS[verb].changes else None
        decode = partial(decode_reply, encoded=encoded)
        message = Message(msgspec.json.encode(body), headers, decode, lifetime_sec)
        async with self.open_request(pace, message) as request:
            request.progress, request.watcher = progress, watcher
            try:
                if hosts is None:
                    await request.run(verb, target, body)
                else:
                    window = min(pace.window(len(hosts)), request.window(verb, body))
                    await request.ask_each(verb, hosts, window, named=True)
            finally:
                request.settle(outcome)
                outcome.warnings += self.drain_errors()
        return outcome

    async def stream(
        self,
        verb: str,
        body: dict[str, Any] | None = None,
        target: Target = ALL,
        pace: Pace = PACE,
        *,
        request_id: str | None = None,
        watcher: Watcher | None = None,
        outcome: Outcome | None = None,
    ) -> AsyncGenerator[Result, None]:
        """Sends one request, as `ask` does, and yields each reply and absence as it becomes known.

        The last result of a host counts. A host has two if a reply came after the deadline, or
        if a second agent replied under its name.
        """
        outcome = Outcome() if outcome is None else outcome

        async def ask(feed: Watcher) -> None:
            await self.ask(
                verb,
                body or {},
                target,
                pace,
                request_id=request_id,
                watcher=feed,
                outcome=outcome,
            )

        async with aclosing(stream_results(ask, outcome, watcher)) as results:
            async for result in results:
                yield result

    async def list_agents(self, target: Target, pace: Pace, outcome: Outcome) -> None:
        """Fills in the discovery document (INFO) of each agent."""
        async with self.open_request(pace, Message(decode=decode_discovery)) as request:
            try:
                await request.run("", target)
            finally:
                request.settle(outcome)
                outcome.warnings += self.drain_errors()

    def outlast_breaks(self) -> None:
        """Makes the connection reconnect from now on, for work that can continue after a break."""
        self.connection.options.update(allow_reconnect=True, max_reconnect_attempts=-1)

    def drain_errors(self) -> list[str]:
        """Returns and clears the NATS errors since the last call, but for denied subjects."""
        errors = [
            str(error) for error in self.errors if not isinstance(error, PermissionDeniedError)
        ]
        self.errors.clear()
        return errors

    async def expect_hosts(self, target: Target, pace: Pace) -> tuple[str, ...] | None:
        """Returns the hosts that should reply; None if discovery got no reply."""
        async with self.open_request(pace, Message()) as request:
            return await request.find(target)

    async def stream_hosts(self, target: Target, pace: Pace) -> tuple[str, ...] | None:
        """Returns the hosts whose streams to follow; None for all. Named hosts may be offline."""
        if target.one_subject and not target.groups and pace.limit is None:
            return target.expected
        if target.hosts and pace.limit is None:
            return target.expected
        return await self.expect_hosts(target, pace) or ()

    async def subscribe(self, stream: str, hosts: Sequence[str] | None) -> asyncio.Queue[Msg]:
        """Returns the queue of a stream's messages from now on, from the named hosts or from all.
        Messages that a slow reader does not consume are dropped and show as gaps in `seq`. Raises
        DeniedError."""
        arrived: asyncio.Queue[Msg] = asyncio.Queue(maxsize=1)
        denied: list[PermissionDeniedError] = []
        with self.connection.denials.watch(denied.append):
            for host in hosts or ("*",):
                for subject in any_shard(f"{self.address.root}.stream.{stream}.{host}"):
                    await self.connection.subscribe(
                        subject,
                        cb=arrived.put,
                        pending_msgs_limit=STREAM_MESSAGES_MAX,
                        pending_bytes_limit=STREAM_BYTES_MAX,
                    )
            await self.connection.flush()
            honour_cancellation()
        if denied:
            raise DeniedError(denied[0], self.address.root)
        return arrived

    async def follow(self, stream: str, hosts: Sequence[str] | None) -> AsyncGenerator[Msg, None]:
        """Yields the messages of a stream, as `subscribe` does."""
        arrived = await self.subscribe(stream, hosts)
        while True:
            yield await arrived.get()


@asynccontextmanager
async def connect(
    address: NatsSection | str,
    *,
    lasting: bool = False,
    notify: Callable[[str], None] | None = None,
    timeout_sec: float = CONNECT_TIMEOUT_SEC,
) -> AsyncIterator[FleetClient]:
    """Connects, or raises UnreachableError within about `timeout_sec`.

    address: URLs of the servers, separated by commas; or the section [nats] with root, login and
    TLS. lasting: reconnect without a limit once connected (for streams). Otherwise a lost
    connection ends the requests in flight. notify: called when a lasting connection is lost
    and when it is restored.
    """
    if isinstance(address, str):
        address = NatsSection(servers=[url.strip() for url in address.split(",")])
    address = with_embedded_login(address)
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
    connection.tls_expected = wants_tls(address)
    connection.login = Login(address)
    connection.rounds = 2
    try:
        async with asyncio.timeout(timeout_sec):
            await connection.connect(
                list(address.servers),
                name="netsonde-cli",
                connect_timeout=2,
                ping_interval=PING_INTERVAL_SEC,
                error_cb=on_error,
                disconnected_cb=on_disconnect,
                reconnected_cb=on_reconnect,
                **options,
            )
    except Exception as error:  # the peer may not be a NATS server
        cause = errors[-1] if errors else error
        await connection.shut()
        raise UnreachableError(explain(address, cause)) from error
    connection.rounds = None
    connection.options.update(allow_reconnect=lasting, max_reconnect_attempts=-1)
    errors.clear()
    if lasting:
        established.set()
    try:
        yield FleetClient(connection, address, errors)
    finally:
        established.clear()
        await connection.shut()


def explain(address: NatsSection, error: Exception) -> str:
    """Returns one sentence for the user, without secrets from the URLs."""
    urls = []
    for server in address.servers:
        parts = urlparse(server if "//" in server else f"nats://{server}")
        urls.append(f"{parts.scheme}://{server_name(parts)}")
    return f"NATS cannot be reached at {', '.join(urls)}: {explain_error(error)}."
