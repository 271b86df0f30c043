"""One NATS connection that always reconnects.

`run` keeps a nats-py client alive. The agent starts without a server. Servers may start late,
be killed or freeze. A closed client is replaced by a new one, which subscribes again.
nats-py needs these rules: error_cb must not raise, because that would end the read loop. A PING
overtakes pending publishes, so `barrier` flushes first. Only a watchdog notices a frozen
server; it aborts the transport. A cancellation that nats-py swallowed is raised again.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import ssl
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import nats.errors
import structlog
from nats.aio.client import Client
from nats.aio.msg import Msg

from ..config.sections import NatsSection
from ..errors import ConfigError, NetsondeError
from .credentials import Login
from .nats_client import GuardedClient

PING_INTERVAL_SEC = 10
RECONNECT_WAIT_SEC = 0.5
CONNECT_TIMEOUT_SEC = 5
WATCH_INTERVAL_SEC = 3.0
FROZEN_AFTER_SEC = 8.0
PENDING_BYTES_MAX = 4 << 20
FLUSH_BYTES = 2 << 20  # above this backlog a publisher waits for the socket
FLUSH_POLL_SEC = 0.001
REPORTED_MAX = 32  # different errors in the log between two connects

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


class PayloadTooLargeError(NetsondeError):
    """Payload and headers exceed max_payload. The server would close the connection."""


class Connection:
    """`purpose` names the connection in logs and in the server's connection list."""

    def __init__(self, settings: NatsSection, *, host: str, purpose: str) -> None:
        self._settings = settings
        self._name = f"netsonde {host} {purpose}"
        self._host = host
        self._log = structlog.get_logger().bind(connection=purpose)
        self._listeners: list[tuple[str, Listener]] = []
        self._client: GuardedClient | None = None
        self._closed = asyncio.Event()
        self._up = asyncio.Event()
        self._notices: list[Notice] = []
        self._reported: set[str] = set()  # errors since the last connect
        self.connects = 0

    # ---- use -----------------------------------------------------------------------------

    @property
    def connected(self) -> bool:
        return self._client is not None and bool(self._client.is_connected)

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

    def notify(self, notice: Notice) -> None:
        """Calls notice(True) after each connect and notice(False) after each disconnect."""
        self._notices.append(notice)

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
        finally:
            honour_cancellation()
        return True

    async def publish_ready(
        self, subject: bytes, head: bytes, payload: bytes, *, reply: bytes = b""
    ) -> bool:
        """Publishes with an encoded header block. nats-py would copy the payload twice; this
        passes it to the socket without a copy."""
        client = self._client
        if client is None or not client.is_connected:
            return False
        size = len(head) + len(payload)
        _check_size(client, size)
        line = b"HPUB %b %b %d %d\r\n%b" % (subject, reply, len(head), size, head)
        client._pending += (line, payload, b"\r\n")
        client._pending_data_size += len(line) + len(payload) + 2
        try:
            if client._flush_queue is not None and client._flush_queue.empty():
                await client._flush_pending()
            # force_flush would wait for a flusher that may have ended with the connection.
            while client._pending_data_size > FLUSH_BYTES and client.is_connected:  # noqa: ASYNC110 - nats-py has no event
                await asyncio.sleep(FLUSH_POLL_SEC)
            honour_cancellation()
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
        client = self._client
        if client is None or not client.is_connected:
            return None
        try:
            reply = await client.request(subject, payload, timeout=timeout_sec, headers=headers)
        except (*PUBLISH_ERRORS, TimeoutError):
            return None
        return bytes(reply.data)

    async def barrier(self, timeout_sec: float = 5.0) -> bool:
        """Returns True if the server has received everything published before."""
        client = self._client
        if client is None or not client.is_connected:
            return False
        return await _succeeds_within(client.flush(timeout=3600), timeout_sec)

    # ---- lifetime ------------------------------------------------------------------------

    async def run(self) -> None:
        """Runs until cancelled."""
        wait_sec = RECONNECT_WAIT_SEC
        while True:
            try:
                await self._serve_one_client()
                wait_sec = RECONNECT_WAIT_SEC
            except Exception as error:
                # The peer may not be a NATS server. No reply may end a capture.
                self._log.warning("connection failed", error=str(error) or repr(error))
                wait_sec = min(wait_sec * 2, 10.0)
            self._report(up=False)
            # Jitter, so that hosts do not reconnect all at once; not a secret.
            await asyncio.sleep(wait_sec * random.uniform(0.5, 1.0))  # noqa: S311

    async def _serve_one_client(self) -> None:
        client = GuardedClient()
        client.tls_expected = self._wants_tls
        client.login = Login(self._settings)
        self._closed.clear()
        try:
            await client.connect(**self._options())
            for subject, listener in self._listeners:
                await client.subscribe(subject, cb=listener)
            honour_cancellation()
            self._client = client
            self._report(up=True)
            watchdog = asyncio.create_task(self._watch(client))
            try:
                await self._closed.wait()
            finally:
                watchdog.cancel()
                await asyncio.gather(watchdog, return_exceptions=True)
            self._log.warning("nats-py closed the client, making a new one")
        finally:
            self._client = None
            await _close_client(client)

    async def drain(self, timeout_sec: float = 3.0) -> None:
        """Flushes the backlog. The connection stays open until `run` is cancelled."""
        if not await self.barrier(timeout_sec):
            self._log.info("cannot flush the backlog", connected=self.connected)

    async def _watch(self, client: Client) -> None:
        """Aborts the transport of a frozen server. Replaces a client that no longer reconnects."""
        while True:
            await asyncio.sleep(WATCH_INTERVAL_SEC)
            if reconnect_task_ended(client):
                self._closed.set()
            if not client.is_connected:
                continue
            transport = client._transport
            if await _succeeds_within(client.flush(timeout=3600), FROZEN_AFTER_SEC):
                continue
            if client.is_connected and client._transport is transport:
                self._log.warning("the server does not answer, dropping the connection")
                abort_transport(client)

    # ---- nats-py options and callbacks ---------------------------------------------------

    @property
    def _wants_tls(self) -> bool:
        settings = self._settings
        return bool(
            settings.tls_ca
            or settings.tls_cert
            or settings.tls_handshake_first
            or any(server.startswith("tls://") for server in settings.servers)
        )

    def _options(self) -> dict[str, Any]:
        settings = self._settings
        options: dict[str, Any] = {
            "servers": list(settings.servers),
            "name": self._name,
            "error_cb": self._on_error,
            "closed_cb": self._on_closed,
            "disconnected_cb": self._on_disconnected,
            "reconnected_cb": self._on_reconnected,
            "dont_randomize": True,  # both connections of an agent use one server
            "max_reconnect_attempts": -1,
            # Jitter, so that hosts do not reconnect all at once; not a secret.
            "reconnect_time_wait": RECONNECT_WAIT_SEC * random.uniform(0.5, 1.5),  # noqa: S311
            "connect_timeout": CONNECT_TIMEOUT_SEC,
            "ping_interval": PING_INTERVAL_SEC,
            "pending_size": PENDING_BYTES_MAX,
            "tls_handshake_first": settings.tls_handshake_first,
            "inbox_prefix": self.inbox_prefix,
        }
        if self._wants_tls:
            options["tls"] = tls_context(settings)
        return options | Login(settings).options

    async def _on_error(self, error: Exception) -> None:
        # An exception here would end nats-py's read loop silently.
        with contextlib.suppress(Exception):
            text = str(error) or repr(error)
            if text not in self._reported and len(self._reported) < REPORTED_MAX:
                self._reported.add(text)  # log once, not at each reconnect attempt
                self._log.warning("nats error", error=text)

    async def _on_closed(self) -> None:
        self._closed.set()

    async def _on_disconnected(self) -> None:
        self._report(up=False)

    async def _on_reconnected(self) -> None:
        self._report(up=True)

    def _report(self, *, up: bool) -> None:
        if up:
            self.connects += 1
            self._up.set()
            self._reported.clear()
            self._log.info("connected", server=self.server)
        for notice in self._notices:
            notice(up)

    @property
    def server(self) -> str:
        """host:port, without a password from the URL."""
        url = self._client.connected_url if self._client is not None else None
        return f"{url.hostname}:{url.port}" if url is not None else ""


def honour_cancellation() -> None:
    """Raises CancelledError again. nats-py can swallow the first one while it flushes."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


def header_bytes(headers: dict[str, str] | None) -> int:
    """Returns the encoded size: `NATS/1.0\\r\\n`, `Key: value\\r\\n`…, `\\r\\n`."""
    if not headers:
        return 0
    return 12 + sum(len(key) + len(value.encode()) + 4 for key, value in headers.items())


def _check_size(client: Client, size: int) -> None:
    if size > client.max_payload:
        raise PayloadTooLargeError(
            f"message of {size} bytes exceeds the server's max_payload of {client.max_payload};"
            " request less"
        )


def abort_transport(client: Client) -> None:
    """Drops the connection. close() would block until a frozen server reads the buffer."""
    writer = getattr(client._transport, "_io_writer", None)
    if writer is not None:
        writer.transport.abort()


def reconnect_task_ended(client: Client) -> bool:
    """Returns True if nats-py will never reconnect. A RuntimeError of uvloop (a write after
    the server hung up) ends nats-py's reconnect task."""
    task = client._reconnection_task
    return bool(client.is_reconnecting and task is not None and task.done())


async def _close_client(client: Client) -> None:
    """Closes a client in any state and stops its reconnects."""
    task = client._reconnection_task
    if task is not None:
        task.cancel()
        await asyncio.wait({task}, timeout=1.0)
        if task.done() and not task.cancelled():
            task.exception()  # else asyncio logs "exception was never retrieved"
    abort_transport(client)
    await _succeeds_within(client.close(), 2.0)


def tls_context(settings: NatsSection) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=settings.tls_ca or None)
        if settings.tls_cert:
            context.load_cert_chain(settings.tls_cert, settings.tls_key)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"nats.tls_ca, tls_cert or tls_key: {error}") from None
    return context


async def _succeeds_within(work: Awaitable[None], timeout_sec: float) -> bool:
    """Returns False on timeout or error. A late task is not cancelled: nats-py would fail at
    the PONG of a cancelled flush."""
    task = asyncio.ensure_future(work)
    done, _ = await asyncio.wait({task}, timeout=timeout_sec)
    if done:
        return not task.cancelled() and task.exception() is None
    task.add_done_callback(lambda late: late.cancelled() or late.exception())
    _LATE_TASKS.add(task)
    task.add_done_callback(_LATE_TASKS.discard)
    return False


_LATE_TASKS: set[asyncio.Future[None]] = set()  # asyncio holds only weak references
