"""The adapter to nats-py: the only module that uses private members of its client.

It is written for nats-py 2.16 and tested against each quirk that it works around. Rules:
- Every wait for a server has a deadline. At the deadline the transport is aborted.
- nats-py's parser ends silently at input that it does not expect, and the connection then receives
  nothing. Any client with publish rights could do this to all agents. The parser here accepts
  control characters and bytes that are not UTF-8, limits lines and messages, and reconnects at
  anything else.
- Servers are tried in turn with back-off. Secrets are read at each login and sent only over TLS
  if TLS is configured.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import os
import random
import re
import socket
import ssl
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, Literal
from urllib.parse import ParseResult, unquote

import nats.errors
from nats.aio.client import Client, Srv
from nats.aio.msg import Msg
from nats.aio.transport import Transport as AnyTransport
from nats.protocol import command as prot_command
from nats.protocol import parser

from ..config.addresses import endpoint
from ..errors import ConfigError
from .credentials import Login
from .nats_transport import CLOSE_SEC, DEFAULT_PORT, STREAM_BYTES, OpenSocket, Transport

MOVE_FLUSH_SEC = 5.0
HANDSHAKE_SEC = 10.0  # from the TCP connection to the server's first PONG
BACKOFF_SEC, BACKOFF_SEC_MAX = 0.5, 60.0
UNREACHED_DOUBLINGS = 5  # limit of the wait after an unreachable server: 16 s
STABLE_SEC = 10.0  # a connection that lasted this long resets the back-off
LINE_BYTES_MAX = 256 << 10  # INFO lists every server of a cluster
MESSAGE_BYTES_MAX = 64 << 20  # the largest max_payload that nats-server accepts
LARGE_BYTES = 128 << 10  # `accepts` is asked about larger messages
DROPPED_BODY = b"(the body was dropped)"  # compare with `is`
FLUSH_BYTES = 2 << 20  # above this backlog a publisher waits for the socket
FLUSH_POLL_SEC = 0.001
DENIED_MAX = 64  # denials to remember

DenialKind = Literal["publish", "subscribe"]


Accepts = Callable[[str, int], bool]  # subject and size of a message

_DENIAL = re.compile(r"'?Permissions Violation for (Publish|Subscription)[^\"]* (\".*?\")", re.I)


class PermissionDeniedError(nats.errors.Error):
    """The server's permissions denied a message or a subscription."""

    def __init__(self, kind: DenialKind, subject: str) -> None:
        verb = "publish" if kind == "publish" else "subscribe"
        super().__init__(f'permissions violation: this login may not {verb} to "{subject}"')
        self.kind = kind
        self.subject = subject


Denial = Callable[[PermissionDeniedError], None]


class Denials:
    """The subjects that the server denied to one client.

    A denial comes after the message was sent, and before the next flush returns."""

    def __init__(self) -> None:
        self.recent: deque[PermissionDeniedError] = deque(maxlen=DENIED_MAX)
        self.count = 0
        self._notices: dict[object, Denial] = {}

    def add(self, error: PermissionDeniedError) -> None:
        self.count += 1
        self.recent.append(error)
        for notice in list(self._notices.values()):
            notice(error)

    @contextlib.contextmanager
    def watch(self, notice: Denial) -> Iterator[None]:
        """Calls notice(error) for each denial within the block. It must not raise."""
        key = object()
        self._notices[key] = notice
        try:
            yield
        finally:
            del self._notices[key]


def read_denial(text: str) -> PermissionDeniedError | None:
    """Reads the text of an -ERR. None if it is about something else."""
    found = _DENIAL.match(text)
    if found is None:
        return None
    try:
        subject = str(json.loads(found[2]))  # quoted by Go's %q
    except ValueError:
        subject = found[2].strip('"')
    kind: DenialKind = "publish" if found[1].lower() == "publish" else "subscribe"
    return PermissionDeniedError(kind, subject)


_UNREACHABLE = frozenset({errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ENETDOWN})


def backoff_sec(failures: int) -> float:
    """Returns a random wait with full jitter, so that hosts do not reconnect all at once."""
    most = min(BACKOFF_SEC * 2 ** min(failures, 16), BACKOFF_SEC_MAX)
    return random.uniform(0.0, most)  # noqa: S311 - not a secret


def server_name(uri: ParseResult) -> str:
    """Returns host:port without a password. An IPv6 address gets brackets."""
    return endpoint(uri.hostname or "", uri.port or DEFAULT_PORT)


def explain_error(error: BaseException) -> str:
    """Returns the cause of a failed connection in a few words, without secrets."""
    if isinstance(error, socket.gaierror):  # its numbers are not errno's
        return str(error.strerror).lower()
    if isinstance(error, ssl.SSLError):
        return f"TLS: {getattr(error, 'verify_message', '') or error.reason or error}"
    if isinstance(error, OSError) and error.errno is not None:
        return os.strerror(error.errno).lower()
    text = str(error).removeprefix("nats: ").strip("'. ")
    if isinstance(error, TimeoutError) or text == "timeout":
        return "no reply in time"
    return text or ("the server hung up" if isinstance(error, OSError) else repr(error))


def cancellations() -> int:
    """Returns how often the current task was cancelled."""
    task = asyncio.current_task()
    return task.cancelling() if task is not None else 0


def honour_cancellation(before: int = 0) -> None:
    """Raises a cancellation that nats-py or asyncio.wait_for of Python 3.11 swallowed. before: the
    task's count of cancellations at the start."""
    if cancellations() > before:
        raise asyncio.CancelledError


@contextlib.contextmanager
def _cancellable() -> Iterator[None]:
    """Raises a cancellation that the block swallowed. wait_for of Python 3.11 raises the error of
    its work instead, if both come at once."""
    before = cancellations()
    try:
        yield
    finally:
        honour_cancellation(before)


class _Parser(parser.Parser):
    """The server's protocol. Only space and tab separate words; control characters do not."""

    _unwanted = False  # the message that is being read

    async def parse(self, data: bytes = b"") -> None:
        """Raises ProtocolError or OSError only; nats-py's read loop reconnects at both."""
        self.nc.reads += 1
        try:
            await self._parse(data)
        except OSError:
            raise
        except Exception as error:
            await self.nc._error_cb(error)
            raise nats.errors.ProtocolError from error

    async def _parse(self, data: bytes) -> None:
        self.buf += data
        while self.buf:
            if self.state == parser.AWAITING_CONTROL_LINE:
                end = self.buf.find(b"\r\n", 0, LINE_BYTES_MAX)
                if end < 0:
                    if len(self.buf) >= LINE_BYTES_MAX:
                        raise nats.errors.Error("nats: a line of the server has no end")
                    return
                line = bytes(self.buf[:end])
                del self.buf[: end + 2]
                await self._take_line(line)
            elif self._unwanted:
                if not await self._skip():
                    return
            elif len(self.buf) >= self.needed + 2:
                head = bytes(self.buf[: self.header_needed])
                with memoryview(self.buf) as view:
                    payload = bytes(view[self.header_needed : self.needed])
                del self.buf[: self.needed + 2]
                self.state = parser.AWAITING_CONTROL_LINE
                found = self.msg_arg
                await self.nc._process_msg(
                    found["sid"], found["subject"], found["reply"], payload, head
                )
            else:
                return

    async def _skip(self) -> bool:
        """Delivers a message without its body, which is dropped as it arrives. Returns False
        while its header is incomplete."""
        if len(self.buf) < self.header_needed:
            return False
        head = bytes(self.buf[: self.header_needed])
        self.nc.skip(max(self.needed + 2 - len(self.buf), 0))
        del self.buf[: self.needed + 2]
        self._unwanted = False
        self.state = parser.AWAITING_CONTROL_LINE
        found = self.msg_arg
        await self.nc._process_msg(
            found["sid"], found["subject"], found["reply"], DROPPED_BODY, head
        )
        return True

    async def _take_line(self, line: bytes) -> None:
        words = [word for word in line.replace(b"\t", b" ").split(b" ") if word]
        match words:
            case [b"MSG", subject, sid, *reply, size] if len(reply) <= 1:
                self._expect(subject, sid, reply, b"0", size)
            case [b"HMSG", subject, sid, *reply, head_size, size] if len(reply) <= 1:
                self._expect(subject, sid, reply, head_size, size)
            case [b"PING"]:
                await self.nc._process_ping()
            case [b"PONG"]:
                await self.nc._process_pong()
            case [b"+OK"]:
                pass
            case [b"-ERR", *_]:
                await self.nc._process_err(line[4:].decode(errors="replace").strip())
            case [b"INFO", *_]:
                await self.nc._process_info(json.loads(line[4:]))
            case _:
                raise nats.errors.Error(f"nats: unknown line of the server: {line[:40]!r}")

    def _expect(
        self, subject: bytes, sid: bytes, reply: list[bytes], head_size: bytes, size: bytes
    ) -> None:
        self.msg_arg = {"subject": subject, "sid": int(sid), "reply": reply[0] if reply else b""}
        self.header_needed, self.needed = int(head_size), int(size)
        if not 0 <= self.header_needed <= self.needed <= MESSAGE_BYTES_MAX:
            raise nats.errors.Error(f"nats: a message of {self.needed} bytes")
        self.state = parser.AWAITING_MSG_PAYLOAD
        if self.needed > LARGE_BYTES:
            self._unwanted = not self.nc.accepts(subject.decode(errors="replace"), self.needed)


class GuardedClient(Client):
    """One nats-py client. `ended` is set when it is closed and will never reconnect.

    tls_expected: send CONNECT, and so credentials, only over TLS. rounds: how often the first
    connect tries each server; None: unlimited.
    """

    tls_expected = False
    login: Login | None = None
    rounds: int | None = None
    open_socket: OpenSocket | None = None  # None: asyncio opens the sockets
    accepts: Accepts = staticmethod(lambda subject, size: True)  # else the body is DROPPED_BODY

    def __init__(self) -> None:
        super().__init__()
        self._ps = _Parser(self)
        self._tries = 0  # since the last stable connection
        self._up_sec: float | None = None
        self._unreached = False  # the last attempt reached no server
        self._leaving = False  # while True, publishes stay pending
        self._hastened = asyncio.Event()
        self.reads = 0  # grows while the server sends anything
        self.ended = asyncio.Event()
        self.denials = Denials()

    # ---- use ---------------------------------------------------------------------------------

    @property
    def server(self) -> str:
        """host:port of the server in use, or of the last try."""
        return server_name(self._current_server.uri) if self._current_server else ""

    @property
    def authenticated(self) -> bool:
        """True if the server requires a login and this client has one."""
        info = self._server_info
        if info.get("tls_verify") and self.tls_expected:
            return True
        shown = (
            self._signature_cb is not None
            or self.options.get("password") is not None
            or self.options.get("token") is not None
        )
        return bool(info.get("auth_required")) and shown

    @property
    def reconnect_ended(self) -> bool:
        """True if an error has ended nats-py's reconnect task, so that it will not reconnect."""
        task = self._reconnection_task
        return bool(self.is_reconnecting and task is not None and task.done())

    def abort(self) -> None:
        """Drops the connection. close() would wait for a frozen server."""
        if isinstance(self._transport, Transport):
            self._transport.abort()

    def ping(self) -> None:
        """Sends a PING and waits for nothing. nats-py's own way wakes three tasks."""
        if self._transport is not None:
            self._pongs.append(asyncio.get_running_loop().create_future())
            self._transport.write(b"PING\r\n")

    def skip(self, size: int) -> None:
        """Drops the next bytes of the server."""
        if isinstance(self._transport, Transport):
            self._transport.skip(size)

    def hasten(self) -> None:
        """Ends the current wait before the next try."""
        self._hastened.set()

    async def flush(self, timeout: float = 10) -> None:
        """Flushes pending publishes before the PING, which would overtake them."""
        if self._leaving:
            raise nats.errors.Error("moving to another server")
        async with asyncio.timeout(timeout):
            await self._flush_pending(force_flush=True)
            await super().flush(timeout)  # type: ignore[arg-type]  # a float works

    async def flushed(self, timeout_sec: float) -> bool:
        """Returns True if the server has received everything published before."""
        try:
            await self.flush(timeout_sec)
        except (nats.errors.Error, OSError, RuntimeError):  # OSError: also TimeoutError
            return False
        return True

    async def move_to(self, server: str) -> None:
        """Leaves its server for another one of the pool. Messages on their way in arrive before
        that, and what was published has reached the server. What others publish meanwhile stays
        pending until the client is connected again. Messages that others send to this client
        meanwhile do not arrive."""
        transport = self._transport
        if transport is None or all(server_name(one.uri) != server for one in self._server_pool):
            return
        inbox = bytes(self._resp_sub_prefix or b"")
        for sid, subscription in self._subs.items():
            if not inbox or not subscription.subject.encode().startswith(inbox):
                transport.write(prot_command.unsub_cmd(sid, 0))
        self._leaving = True
        try:
            received = await self._received_all(transport)
            if self._transport is transport and self.is_connected:
                if not received:
                    self.abort()
                self._server_pool.sort(key=lambda one: server_name(one.uri) != server)
                self._tries, self._up_sec = 0, None
                await self._process_op_err(nats.errors.Error(f"moving to {server}"))
        finally:
            self._leaving = False
        await self._flush_pending()  # a new connection may have replaced the broken one

    async def _received_all(self, transport: AnyTransport) -> bool:
        """Writes what is pending and returns True if the server has received it. Nothing follows
        it: a message that is written after the PING could be lost when the socket closes."""
        if self._flusher_task is not None:
            self._flusher_task.cancel()  # a reconnect starts another one
        pong: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        pending, self._pending, self._pending_data_size = self._pending, [], 0
        self._pongs.append(pong)
        try:
            transport.writelines([*pending, b"PING\r\n"])
            async with asyncio.timeout(MOVE_FLUSH_SEC):
                await pong
        except (OSError, nats.errors.Error):  # OSError: also TimeoutError
            return False
        return True

    async def publish_encoded(self, line: bytes, payload: bytes) -> None:
        """Passes one encoded message to the socket. publish() would copy the payload twice."""
        self.stats["out_msgs"] += 1
        self.stats["out_bytes"] += len(payload)
        self._pending += (line, payload, b"\r\n")
        self._pending_data_size += len(line) + len(payload) + 2
        if self._flush_queue is not None and self._flush_queue.empty():
            await self._flush_pending()
        # force_flush would wait for a flusher that may have ended with the connection.
        while self._pending_data_size > FLUSH_BYTES and self.is_connected:  # noqa: ASYNC110 - nats-py has no event
            await asyncio.sleep(FLUSH_POLL_SEC)

    async def shut(self) -> None:
        """Closes a client in any state, within CLOSE_SEC."""
        task = self._reconnection_task
        if task is not None and task is not asyncio.current_task():
            task.cancel()
            await asyncio.wait({task}, timeout=CLOSE_SEC)
            if task.done() and not task.cancelled():
                task.exception()  # else asyncio logs "exception was never retrieved"
        if self._flush_queue is not None:  # else `connect` has not begun, and `close` would raise
            await self.close()

    # ---- connecting --------------------------------------------------------------------------

    async def _select_next_server(self) -> None:
        """Tries the next server once, after the back-off. nats-py would not raise here.

        An attempt that reached no server cost no server anything. The wait after it stays short,
        so that a host is back soon after its network is.
        """
        count = len(self._server_pool)
        if self.rounds is not None and self._tries >= self.rounds * count:
            raise nats.errors.NoServersError
        if self._up_sec is not None and time.monotonic() - self._up_sec > STABLE_SEC:
            self._tries = 0
        if self._tries or self._up_sec is not None:
            failures = max(self._tries - 1, 0) // count
            if self._unreached:
                failures = min(failures, UNREACHED_DOUBLINGS)
            self._hastened.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(backoff_sec(failures)):
                    await self._hastened.wait()
        self._up_sec = None
        self._tries += 1
        chosen = self._server_pool.pop(0)
        self._server_pool.append(chosen)
        self._current_server = chosen
        self._unreached = False
        try:
            await self._connect_to_server(chosen)
        except OSError as error:
            self._unreached = isinstance(error, TimeoutError) or error.errno in _UNREACHABLE
            raise

    async def _attempt_reconnect(self) -> None:
        """A cancelled attempt may end with an error about its successor's future."""
        with contextlib.suppress(asyncio.InvalidStateError):
            await super()._attempt_reconnect()

    async def _connect_to_server(self, s: Srv) -> None:
        s.last_attempt = time.monotonic()
        self._ps.reset()
        self.abort()  # closes the socket of an earlier try
        self._transport = Transport(self.open_socket)
        seconds = self.options["connect_timeout"]
        with _cancellable():
            await self._transport.connect(s.uri, STREAM_BYTES, seconds)

    async def _process_connect_init(self) -> None:
        """Raises only errors after which nats-py tries again."""
        try:
            with _cancellable():
                async with asyncio.timeout(HANDSHAKE_SEC):
                    await super()._process_connect_init()
        except (OSError, nats.errors.Error):
            raise
        except Exception as error:
            raise nats.errors.Error("nats: the peer does not speak the NATS protocol") from error
        if not self.is_connected:
            raise nats.errors.Error("nats: the server did not answer PING")
        self._up_sec = time.monotonic()

    def _connect_command(self) -> bytes:
        transport = self._transport
        if self.tls_expected and not (isinstance(transport, Transport) and transport.encrypted):
            raise nats.errors.Error("nats: TLS is configured, but the server does not offer it")
        try:
            self.options.update(self._login_fields())
            if self.login is not None:
                self._public_nkey = self.login.public_nkey
            return bytes(super()._connect_command())
        except ConfigError as error:
            raise nats.errors.Error(error.detail) from None

    def _login_fields(self) -> dict[str, Any]:
        """From the files, else from a URL. nats-py does not decode %-escapes, and forgets the
        URL's login at a server that the cluster announced."""
        if self.login is not None and self.login.fields:
            return self.login.fields
        servers = [self._current_server, *self._server_pool]
        for uri in (server.uri for server in servers if server is not None):
            if uri.username and uri.password is None:
                return {"token": unquote(uri.username)}
            if uri.username and uri.password:
                return {"user": unquote(uri.username), "password": unquote(uri.password)}
        return {}

    async def _close(self, status: int, do_cbs: bool = True) -> None:
        """Closes within CLOSE_SEC and calls the callbacks, also after an error."""
        again = self.is_closed
        try:
            async with asyncio.timeout(CLOSE_SEC):
                await super()._close(status, False)
        except (OSError, RuntimeError, nats.errors.Error):
            pass  # the connection was broken before
        finally:
            self.abort()
            if status == Client.CLOSED:
                self.ended.set()
        if do_cbs and not again:
            for callback in (self._disconnected_cb, self._closed_cb):
                if callback is not None:
                    await callback()

    # ---- receiving and sending ---------------------------------------------------------------

    async def _flush_pending(self, force_flush: bool = False) -> None:
        if self._leaving:
            return
        with _cancellable():
            await super()._flush_pending(force_flush)

    async def _process_err(self, err_msg: str) -> None:
        denial = read_denial(err_msg)
        if denial is None:
            await super()._process_err(err_msg.lower())
        else:
            self.denials.add(denial)
            await self._error_cb(denial)

    async def _process_pong(self) -> None:
        """Ignores a PONG for a cancelled flush."""
        if self._pongs and self._pongs[0].done():
            self._pongs.pop(0)
            self._pings_outstanding = 0
            return
        await super()._process_pong()

    async def _process_headers(self, headers: bytes) -> dict[str, str] | None:
        """Returns None for a malformed status line."""
        try:
            return await super()._process_headers(headers)
        except (UnicodeDecodeError, IndexError):
            return None

    def _build_message(
        self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: dict[str, str] | None
    ) -> Msg:
        """Replaces bytes of the subject that are not UTF-8. Drops such a reply subject."""
        text = subject.decode(errors="replace").encode()
        answerable = reply.decode(errors="ignore").encode() == reply
        reply_to = reply if answerable else b""
        message: Msg = super()._build_message(sid, text, reply_to, data, headers)
        return message
