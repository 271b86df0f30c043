"""The socket of a NATS connection, under nats-py's client.

Every wait for the server ends: at its deadline the connection is dropped. The socket is read into
one buffer, and bytes that the parser does not want are dropped there.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Awaitable, Callable
from typing import Any, Protocol, TypeAlias
from urllib.parse import ParseResult

import nats.errors
from nats.aio.transport import TcpTransport

DRAIN_SEC = 15.0  # for a server that reads nothing; longer than Connection's watchdog
CLOSE_SEC = 2.0
STREAM_BYTES = 64 << 10  # asyncio stops reading the socket at twice this backlog
READ_BYTES = 128 << 10  # in one read of the socket
DEFAULT_PORT = 4222

Socket: TypeAlias = socket.socket


class OwnSocket(Protocol):
    """A connected socket that captures leave out (core/own_traffic.py). Commands have none."""

    socket: Socket

    def forget(self) -> None: ...


OpenSocket = Callable[[str, int], Awaitable[OwnSocket]]


class _Intake(asyncio.BufferedProtocol):
    """Reads the socket into one buffer and feeds a stream. Drops unwanted bytes before any copy:
    the server cuts a client that reads too slowly, and a Python object for each piece of a flood
    takes ten times longer than the kernel's copy."""

    def __init__(self) -> None:
        self.reader = asyncio.StreamReader(limit=STREAM_BYTES)
        self.streams = asyncio.StreamReaderProtocol(self.reader)
        self.fed_bytes = 0
        self.skip_bytes = 0  # to be dropped
        self._view = memoryview(bytearray(READ_BYTES))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.streams.connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self.streams.connection_lost(exc)

    def eof_received(self) -> bool | None:
        return self.streams.eof_received()

    def pause_writing(self) -> None:
        self.streams.pause_writing()

    def resume_writing(self) -> None:
        self.streams.resume_writing()

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._view

    def buffer_updated(self, nbytes: int) -> None:
        skipped = min(self.skip_bytes, nbytes)
        self.skip_bytes -= skipped
        if skipped < nbytes:
            self.fed_bytes += nbytes - skipped
            self.reader.feed_data(self._view[skipped:nbytes])


class Transport(TcpTransport):
    """A transport whose every wait ends. After a failed TLS handshake wait_closed() of asyncio
    never returns, because asyncio has replaced the protocol that it waits for."""

    def __init__(self, open_socket: OpenSocket | None = None) -> None:
        super().__init__()
        self._open_socket = open_socket
        self._opened: OwnSocket | None = None
        self._greeted = False
        self._aborted = False
        self._intake = _Intake()
        self._read_bytes = 0
        self._skip_bytes = 0  # to be dropped from the stream

    async def connect(self, uri: ParseResult, buffer_size: int, connect_timeout: int) -> None:
        where: dict[str, Any] = {"host": uri.hostname, "port": uri.port}
        async with asyncio.timeout(connect_timeout):
            if self._open_socket is not None:
                port = uri.port or DEFAULT_PORT
                self._opened = await self._open_socket(uri.hostname or "", port)
                where = {"sock": self._opened.socket}
            loop = asyncio.get_running_loop()
            transport, _ = await loop.create_connection(lambda: self._intake, **where)
        self._use(transport)
        self._bare_io_reader, self._bare_io_writer = self._io_reader, self._io_writer

    def _use(self, transport: asyncio.WriteTransport) -> None:
        intake, loop = self._intake, asyncio.get_running_loop()
        self._io_reader = intake.reader
        self._io_writer = asyncio.StreamWriter(transport, intake.streams, intake.reader, loop)

    async def connect_tls(
        self,
        uri: str | ParseResult,
        ssl_context: ssl.SSLContext,
        buffer_size: int,
        connect_timeout: int,
    ) -> None:
        if self._io_writer is None:
            raise ConnectionResetError("not connected")
        name = uri if isinstance(uri, str) else uri.hostname
        plain, self._intake, self._read_bytes = self._io_writer.transport, _Intake(), 0
        try:
            async with asyncio.timeout(connect_timeout):
                transport = await asyncio.get_running_loop().start_tls(
                    plain, self._intake, ssl_context, server_hostname=name
                )
        except (RuntimeError, ValueError) as error:  # the server hung up; no host name to check
            self.abort()
            raise ConnectionResetError(str(error)) from error
        except BaseException:
            self.abort()
            raise
        if transport is None:
            raise ConnectionResetError("the server hung up")
        self._use(transport)

    async def read(self, buffer_size: int) -> bytes:
        """Returns all that has arrived. nats-py would take it in pieces of 32 KiB."""
        data: bytes = await super().read(STREAM_BYTES + READ_BYTES)
        self._read_bytes += len(data)
        if self._skip_bytes:
            skipped = min(self._skip_bytes, len(data))
            self._skip_bytes -= skipped
            return data[skipped:]
        return data

    def skip(self, size: int) -> None:
        """Drops the next bytes: those in the stream when they are read, the others at once."""
        self._skip_bytes = min(size, self._intake.fed_bytes - self._read_bytes)
        self._intake.skip_bytes = size - self._skip_bytes

    async def readline(self) -> bytes:
        """Skips lines between the greeting and the server's answer to CONNECT."""
        while True:
            try:
                line = bytes(await super().readline())
                self._read_bytes += len(line)
            except ValueError:
                raise nats.errors.Error("nats: the server's greeting has no end") from None
            if not self._greeted or not line.startswith((b"INFO ", b"+OK")):
                self._greeted = True
                return line

    def write(self, payload: bytes) -> None:
        self.writelines([payload])

    def writelines(self, payload: list[bytes]) -> None:
        try:
            super().writelines(payload)
        except RuntimeError as error:  # uvloop, after the server hung up
            raise ConnectionResetError(str(error)) from None

    async def drain(self) -> None:
        try:
            async with asyncio.timeout(DRAIN_SEC):
                await super().drain()
        except TimeoutError:
            self.abort()
            raise ConnectionAbortedError(f"the server read nothing for {DRAIN_SEC:g} s") from None
        except RuntimeError as error:
            raise ConnectionResetError(str(error)) from None

    async def wait_closed(self) -> None:
        if self._aborted:
            return
        with contextlib.suppress(OSError, RuntimeError):  # OSError: also TimeoutError
            async with asyncio.timeout(CLOSE_SEC):
                await super().wait_closed()
        self.abort()

    def abort(self) -> None:
        """Drops the connection at once. Pending bytes are lost."""
        self._aborted = True
        for writer in (self._io_writer, self._bare_io_writer):
            if writer is not None:
                with contextlib.suppress(OSError, RuntimeError):
                    writer.transport.abort()
        if self._opened is not None:
            self._opened.forget()
            self._opened = None

    @property
    def encrypted(self) -> bool:
        writer = self._io_writer
        return writer is not None and writer.get_extra_info("ssl_object") is not None
