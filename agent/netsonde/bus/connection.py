"""One NATS connection that always reconnects.

`run` keeps a client alive. The agent starts without a server. Servers may start late, be killed
or freeze. A closed client is replaced by a new one, which subscribes again. All state of a
connection belongs to its client, so a late callback of an old client changes nothing. Only a
watchdog notices a frozen server; it aborts the transport.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import ssl
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Protocol

import nats.errors
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from ..config.sections import NatsSection
from ..errors import ConfigError, NetsondeError
from .credentials import Login
from .nats_client import (
    DENIED_MAX,
    Accepts,
    Denial,
    GuardedClient,
    PermissionDeniedError,
    backoff_sec,
    cancellations,
    explain_error,
    honour_cancellation,
)
from .nats_transport import OpenSocket
from .preferred import Preferred

NO_PINGS_SEC = 1 << 20  # interval of nats-py's own PING; the watchdog sends them
CONNECT_TIMEOUT_SEC = 5
WATCH_INTERVAL_SEC = 3.0
FROZEN_AFTER_SEC = 8.0
PENDING_BYTES_MAX = 4 << 20
REPORT_INTERVAL_SEC = 60.0  # between two log lines with one cause
REPORTED_MAX = 32  # different causes in the log within that time

Listener = Callable[[Msg], Awaitable[None]]
Notice = Callable[[bool], None]

# Exceptions of nats-py for a message that was not sent.
PUBLISH_ERRORS = (nats.errors.Error, OSError, RuntimeError)


class Requester(Protocol):
    """Sends requests over NATS: the agent's Connection or a command's client."""

    @property
    def max_payload(self) -> int: ...

    async def request(
        self,
        subject: str,
        payload: bytes,
        timeout_sec: float,
        headers: dict[str, str] | None = None,
    ) -> bytes | None: ...


@dataclass(frozen=True, slots=True)
class Traffic:
    """Messages and their payload bytes over the life of a connection."""

    messages_received: int = 0
    bytes_received: int = 0
    messages_sent: int = 0
    bytes_sent: int = 0

    def plus(self, client: GuardedClient) -> Traffic:
        """Returns the sum with what `client` counted."""
        stats = client.stats
        return Traffic(
            self.messages_received + stats["in_msgs"],
            self.bytes_received + stats["in_bytes"],
            self.messages_sent + stats["out_msgs"],
            self.bytes_sent + stats["out_bytes"],
        )


class PayloadTooLargeError(NetsondeError):
    """Payload and headers exceed max_payload. The server would close the connection."""


class Connection:
    """`purpose` names the connection in logs and in the server's connection list. `open_socket`
    opens its sockets; None: asyncio does."""

    def __init__(
        self,
        settings: NatsSection,
        *,
        host: str,
        purpose: str,
        open_socket: OpenSocket | None = None,
    ) -> None:
        self._settings = settings
        self._open_socket = open_socket
        self._name = f"netsonde {host} {purpose}"
        self._host = host
        self.purpose = purpose
        import structlog  # here, because clients import this module and the import takes 90 ms

        self._log = structlog.get_logger().bind(connection=purpose)
        self._listeners: list[tuple[str, Listener]] = []
        self._opening: GuardedClient | None = None  # also while it connects
        self._subscriptions: dict[str, Subscription] = {}  # owned by the newest client
        self._client: GuardedClient | None = None
        self._up = asyncio.Event()
        self._notices: list[Notice] = []
        self._denials: list[Denial] = []
        self._reported: dict[str, float] = {}  # when each cause was logged last
        self._before = Traffic()  # sum over earlier clients
        self._is_up = False
        self._failures = 0  # failed attempts since the last connect
        self._cause = ""
        self._down_sec = time.monotonic()
        self.denied: dict[str, int] = {}  # refusals by subject
        self.denials = 0
        self.connects = 0
        self.accepts: Accepts = lambda subject, size: True  # else the body is DROPPED_BODY
        self._servers = order_servers(settings.servers, host)
        self.may_move: Callable[[], bool] = lambda: True  # to the preferred server
        self._preferred = Preferred(
            self._servers[0], host, self._accepts_login, lambda: self.may_move()
        )

    # ---- use -----------------------------------------------------------------------------

    @property
    def connected(self) -> bool:
        return self._client is not None and bool(self._client.is_connected)

    @property
    def authenticated(self) -> bool | None:
        """False if the server checks nobody. None without a connection."""
        return self._client.authenticated if self._client and self.connected else None

    @property
    def trouble(self) -> str:
        """Why there is no connection. Empty with one."""
        if self.connected:
            return ""
        text = f"not connected to NATS for {time.monotonic() - self._down_sec:.0f} s"
        if self._failures:
            text += f", {self._failures} attempts failed, the last with: {self._cause}"
        return text

    @property
    def server(self) -> str:
        """host:port, without a password from the URL. Empty without a connection."""
        return self._client.server if self._client is not None and self.connected else ""

    @property
    def max_payload(self) -> int:
        """The server's limit for payload and headers, in bytes."""
        return int(self._client.max_payload) if self._client is not None else 1 << 20

    @property
    def unsent_bytes(self) -> int:
        """Bytes published and not yet with the kernel."""
        client = self._client
        if client is None:
            return 0
        writer = getattr(client._transport, "_io_writer", None)
        buffered = writer.transport.get_write_buffer_size() if writer is not None else 0
        return int(client._pending_data_size) + int(buffered)

    @property
    def traffic(self) -> Traffic:
        return self._before if self._client is None else self._before.plus(self._client)

    @property
    def inbox_prefix(self) -> str:
        """Prefix of the reply subjects. Only this host may subscribe to them."""
        return f"_INBOX_{self._host}"

    async def wait_connected(self) -> None:
        while not self.connected:
            self._up.clear()
            await self._up.wait()

    def listen(self, subject: str, listener: Listener) -> None:
        """Subscribes after every connect. Call before `run`."""
        self._listeners.append((subject, listener))

    async def listen_now(self, subject: str, listener: Listener) -> None:
        """Like `listen`, also on the connection that is open now."""
        self.listen(subject, listener)
        client = self._client
        if client is not None:
            with contextlib.suppress(*PUBLISH_ERRORS):  # closed: the next client subscribes
                self._subscriptions[subject] = await client.subscribe(subject, cb=listener)

    async def unlisten(self, subject: str) -> None:
        self._listeners = [one for one in self._listeners if one[0] != subject]
        subscription = self._subscriptions.pop(subject, None)
        if subscription is not None:
            with contextlib.suppress(*PUBLISH_ERRORS):
                await subscription.unsubscribe()

    def notify(self, notice: Notice) -> None:
        """Calls notice(True) after each connect and notice(False) after each disconnect."""
        self._notices.append(notice)

    def on_denial(self, notice: Denial) -> None:
        """Calls notice(error) for each subject that the server denies. It comes after the
        message was sent, and before the next `barrier` returns."""
        self._denials.append(notice)

    def hasten(self) -> None:
        """Tries to connect now, for example because another connection has succeeded."""
        if self._opening is not None:
            self._opening.hasten()

    async def publish(
        self, subject: str, payload: bytes, headers: dict[str, str] | None = None
    ) -> bool:
        """Returns False if there is no connection. Raises PayloadTooLargeError."""
        client = self._client
        if client is None or not client.is_connected:
            return False
        _check_size(client, len(payload) + header_bytes(headers))
        try:
            await client.publish(subject, payload, headers=headers)
        except PUBLISH_ERRORS as error:
            self._log.warning("publish failed", subject=subject, error=str(error))
            return False
        return True

    async def publish_ready(
        self, subject: bytes, head: bytes, payload: bytes, *, reply: bytes = b""
    ) -> bool:
        """Publishes with an encoded header block. The payload is not copied."""
        client = self._client
        if client is None or not client.is_connected:
            return False
        size = len(head) + len(payload)
        _check_size(client, size)
        line = b"HPUB %b %b %d %d\r\n%b" % (subject, reply, len(head), size, head)
        try:
            await client.publish_encoded(line, payload)
        except PUBLISH_ERRORS as error:
            self._log.warning("publish failed", error=str(error))
            return False
        return True

    async def request(
        self,
        subject: str,
        payload: bytes,
        timeout_sec: float,
        headers: dict[str, str] | None = None,
    ) -> bytes | None:
        """Returns the first reply. None if nobody subscribes or replies in time."""
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
        client = self._client
        if client is None or not client.is_connected:
            return None
        try:
            reply = await client.request(subject, payload, timeout=timeout_sec, headers=headers)
        except (*PUBLISH_ERRORS, TimeoutError):
            return None
        return reply

    async def interest(self, subject: str, timeout_sec: float) -> bool:
        """Returns False if the server says that nobody subscribes to the subject."""
        client = self._client
        if client is None or not client.is_connected:
            return True
        try:
            await client.request(subject, b"", timeout=timeout_sec)
        except nats.errors.NoRespondersError:
            return False
        except (*PUBLISH_ERRORS, TimeoutError):
            return True
        return True

    async def barrier(self, timeout_sec: float = 5.0) -> bool:
        """Returns True if the server has received everything published before."""
        client = self._client
        if client is None or not client.is_connected:
            return False
        return await client.flushed(timeout_sec)

    # ---- lifetime ------------------------------------------------------------------------

    async def run(self) -> None:
        """Runs until cancelled."""
        failures, before = 0, cancellations()
        while True:
            began_sec = time.monotonic()
            try:
                await self._serve_one_client()
                failures = 0
            except Exception as error:
                # The peer may not be a NATS server. No reply may end a capture.
                self._note_failure(explain_error(error))
            honour_cancellation(before)
            failures = failures + 1 if time.monotonic() - began_sec < WATCH_INTERVAL_SEC else 0
            await asyncio.sleep(backoff_sec(failures))

    def _new_client(self) -> GuardedClient:
        client = GuardedClient()
        client.tls_expected = wants_tls(self._settings)
        client.login = Login(self._settings)
        client.open_socket = self._open_socket
        return client

    async def _accepts_login(self) -> bool:
        """Returns whether the preferred server accepts a connection now."""
        client = self._new_client()
        once = {"servers": self._servers[:1], "allow_reconnect": False}
        try:
            await client.connect(**self._options(client) | once)
        except Exception:
            return False
        finally:
            await client.shut()
        return True

    async def _serve_one_client(self) -> None:
        client = self._new_client()
        client.accepts = self.accepts
        self._opening = client
        try:
            await client.connect(**self._options(client))
            for subject, listener in self._listeners:
                self._subscriptions[subject] = await client.subscribe(subject, cb=listener)
            self._client = client
            self._report_up()
            tasks = [
                asyncio.create_task(self._watch(client)),
                asyncio.create_task(self._preferred.follow(client)),
            ]
            try:
                await client.ended.wait()
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
            self._log.warning("nats-py closed the client, making a new one")
        finally:
            self._before = self.traffic
            self._client = None
            self._report_down()
            await client.shut()

    async def drain(self, timeout_sec: float = 3.0) -> None:
        """Flushes the backlog. The connection stays open until `run` is cancelled."""
        if not await self.barrier(timeout_sec):
            self._log.info("cannot flush the backlog", connected=self.connected)

    async def _watch(self, client: GuardedClient) -> None:
        """Aborts the transport of a frozen server: one that sent nothing for FROZEN_AFTER_SEC,
        not even a PONG. A server that sends is well, although its PONG may be late: a flood of
        requests can be ahead of it.

        Counts intervals, not time: an agent that was frozen itself has read nothing meanwhile.

        A client that stays connected after that has no reader any more: it gets a successor."""
        silent, reads, aborted = 0, client.reads, False
        while True:
            await asyncio.sleep(until_tick(WATCH_INTERVAL_SEC, time.monotonic()))
            if client.reconnect_ended:
                client.ended.set()
            if not client.is_connected or client.reads != reads:
                silent, reads, aborted = 0, client.reads, False
            elif aborted:
                client.ended.set()
            elif silent * WATCH_INTERVAL_SEC >= FROZEN_AFTER_SEC:
                silent, aborted = 0, True
                self._log.warning("the server does not answer, dropping the connection")
                client.abort()
            if client.is_connected:
                silent += 1
                with contextlib.suppress(OSError):  # the reader notices a broken connection
                    client.ping()

    # ---- nats-py options and callbacks ---------------------------------------------------

    def _options(self, client: GuardedClient) -> dict[str, Any]:
        """The callbacks know their client: those of an old one are ignored."""

        async def on_error(error: Exception) -> None:
            # An exception here would end nats-py's read loop silently.
            with contextlib.suppress(Exception):
                self._on_error(client, error)

        async def on_disconnected() -> None:
            if self._client is client:
                self._report_down()

        async def on_reconnected() -> None:
            if self._client is client:
                self._report_up()

        settings = self._settings
        options: dict[str, Any] = {
            "servers": list(self._servers),
            "name": self._name,
            "error_cb": on_error,
            "disconnected_cb": on_disconnected,
            "reconnected_cb": on_reconnected,
            "dont_randomize": True,  # both connections of an agent use one server
            "max_reconnect_attempts": -1,
            "connect_timeout": CONNECT_TIMEOUT_SEC,
            "ping_interval": NO_PINGS_SEC,
            "pending_size": PENDING_BYTES_MAX,
            "inbox_prefix": self.inbox_prefix,
        }
        return options | login_options(settings)

    def _on_error(self, client: GuardedClient, error: Exception) -> None:
        if isinstance(error, PermissionDeniedError):
            self._count_denial(error)
        elif client.is_connected:
            self._log_limited("nats error", explain_error(error))
        elif client is self._opening:
            self._note_failure(f"{client.server}: {explain_error(error)}")

    def _count_denial(self, error: PermissionDeniedError) -> None:
        self.denials += 1
        if error.subject in self.denied or len(self.denied) < DENIED_MAX:
            self.denied[error.subject] = self.denied.get(error.subject, 0) + 1
        self._log_limited("permission denied", str(error))
        for notice in self._denials:
            notice(error)

    def _note_failure(self, cause: str) -> None:
        self._failures += 1
        self._cause = cause
        self._log_limited("connection failed", cause, attempts=self._failures)

    def _log_limited(self, event: str, cause: str, **fields: object) -> None:
        """Logs each cause at once, and then once a minute at most."""
        now = time.monotonic()
        expired = [one for one, at in self._reported.items() if now - at >= REPORT_INTERVAL_SEC]
        for one in expired:
            del self._reported[one]
        if cause not in self._reported and len(self._reported) < REPORTED_MAX:
            self._reported[cause] = now
            self._log.warning(event, error=cause, **fields)

    def _report_up(self) -> None:
        self.connects += 1
        self._failures = 0
        self._is_up = True
        self._up.set()
        self._preferred.note(self.server)
        self._log.info("connected", server=self.server)
        for notice in self._notices:
            notice(True)

    def _report_down(self) -> None:
        if not self._is_up:
            return
        self._is_up = False
        self._down_sec = time.monotonic()
        for notice in self._notices:
            notice(False)


def until_tick(interval_sec: float, now_sec: float) -> float:
    """Returns the time to the next multiple of the interval. Timers of one interval then fire
    together, and an idle agent wakes once for all of them.

    A timer can fire shortly before its time. The multiple that it was set for does not count
    again: two ticks are at least a tenth of the interval apart."""
    left_sec = interval_sec - now_sec % interval_sec
    return left_sec if left_sec >= interval_sec / 10 else left_sec + interval_sec


def order_servers(servers: list[str], host: str) -> list[str]:
    """Returns the servers in an order of this host, so that a fleet spreads over them."""
    return sorted(servers, key=lambda one: hashlib.sha256(f"{host} {one}".encode()).digest())


def header_bytes(headers: dict[str, str] | None) -> int:
    """Returns the encoded size: `NATS/1.0\\r\\n`, `Key: value\\r\\n`…, `\\r\\n`."""
    if not headers:
        return 0
    return 12 + sum(len(key) + len(value.encode()) + 4 for key, value in headers.items())


def _check_size(client: GuardedClient, size: int) -> None:
    if size > client.max_payload:
        raise PayloadTooLargeError(
            f"message of {size} bytes exceeds the server's max_payload of {client.max_payload};"
            " request less"
        )


def wants_tls(settings: NatsSection) -> bool:
    return bool(
        settings.tls_ca
        or settings.tls_cert
        or settings.tls_handshake_first
        or any(server.startswith("tls://") for server in settings.servers)
    )


def login_options(settings: NatsSection) -> dict[str, Any]:
    """Returns TLS and credentials as options of nats-py's connect."""
    options: dict[str, Any] = {"tls_handshake_first": settings.tls_handshake_first}
    if wants_tls(settings):
        options["tls"] = tls_context(settings)
    return options | Login(settings).options


def tls_context(settings: NatsSection) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=settings.tls_ca or None)
        if settings.tls_cert:
            context.load_cert_chain(settings.tls_cert, settings.tls_key)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"nats.tls_ca, tls_cert or tls_key: {error}") from None
    return context
