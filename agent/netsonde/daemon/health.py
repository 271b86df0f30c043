"""Prometheus /metrics, /healthz and /readyz, for a scraper on loopback.

A small HTTP/1.1 server: one GET a connection, bounded in bytes and time. /healthz is 200 while
the capture threads' heartbeat moves or no session runs. /readyz is 200 while NATS is connected,
the agent is not draining, and a capture runs if one is wanted. Both bodies say why NATS is not
connected and which subjects it denies, and /readyz why the capture does not run. If the port is
taken the agent runs without HTTP.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence

import structlog
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import CollectorRegistry

from ..bus.connection import Connection, until_tick
from ..capture.session import Session
from ..capture.standing import Standing
from ..core.own_traffic import OwnListener

REQUEST_BYTES_MAX = 8192
REQUEST_TIMEOUT_SEC = 5.0
CONNECTIONS_MAX = 16
HEARTBEAT_STALLED_SEC = 5.0
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Heartbeat:
    """Watches whether the core's heartbeat counter moves. Time is an argument."""

    def __init__(self) -> None:
        self._session_id = ""
        self._beats = -1
        self._moved_sec = 0.0

    def alive(self, session: Session | None, now_sec: float) -> bool:
        if session is None:
            self._session_id = ""
            return True
        stats = session.capture.stats()
        if session.id != self._session_id or stats.heartbeat != self._beats:
            self._session_id, self._beats, self._moved_sec = session.id, stats.heartbeat, now_sec
        return stats.finished or now_sec - self._moved_sec < HEARTBEAT_STALLED_SEC


class Health:
    def __init__(
        self,
        listen: str,
        *,
        registry: CollectorRegistry,
        session: Callable[[], Session | None],
        ready: Callable[[], bool],
        connections: Callable[[], Sequence[Connection]] = tuple,
        standing: Standing | None = None,
    ) -> None:
        """registry: what /metrics returns."""
        self._listen = listen
        self._bus = connections
        self._standing = standing
        self._session = session
        self._ready = ready
        self._heartbeat = Heartbeat()
        self._registry = registry
        self._connections = 0
        self._log = structlog.get_logger()
        self.address = ""

    async def run(self) -> None:
        """Serves until cancelled. Returns at once if HTTP is off or the port is taken."""
        if not self._listen:
            return
        name, _, port = self._listen.rpartition(":")
        try:
            server = await asyncio.start_server(
                self._serve,
                name.strip("[]"),
                int(port),
                limit=REQUEST_BYTES_MAX,
                start_serving=False,
            )
        except (OSError, OverflowError, ValueError) as error:  # unknown or malformed address
            self._log.warning("cannot listen, HTTP is off", listen=self._listen, error=str(error))
            return
        host, port_number = server.sockets[0].getsockname()[:2]
        self.address = f"{host}:{port_number}"
        self._log.info("http", listen=self.address)
        async with server, contextlib.AsyncExitStack() as stack:
            for one in server.sockets:
                stack.enter_context(OwnListener(one.getsockname()[:2]).followed())
            watcher = asyncio.create_task(self._watch())
            try:
                await server.serve_forever()
            finally:
                watcher.cancel()

    def _troubles(self) -> list[str]:
        found = [f"{one.purpose}: {one.trouble}" for one in self._bus() if one.trouble]
        for one in self._bus():
            found += [f"{one.purpose}: permission denied for {name}" for name in one.denied]
        return found

    async def _watch(self) -> None:
        # Probes may be rare, and a stall is measured since the last move.
        while True:
            self._heartbeat.alive(self._session(), time.monotonic())
            await asyncio.sleep(until_tick(1.0, time.monotonic()))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections += 1
        try:
            if self._connections <= CONNECTIONS_MAX:
                async with asyncio.timeout(REQUEST_TIMEOUT_SEC):
                    head = await reader.readuntil(b"\r\n\r\n")
                    writer.write(self.answer(head))
                    await writer.drain()
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass
        finally:
            self._connections -= 1
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    def answer(self, head: bytes) -> bytes:
        """Returns the whole response to a request's head."""
        words = head.split(b"\r\n", 1)[0].split()
        if len(words) != 3 or words[0] not in (b"GET", b"HEAD"):
            return _response("405 Method Not Allowed", b"GET only\n")
        path = words[1].split(b"?", 1)[0]
        if path == b"/metrics":
            body = generate_latest(self._registry)
            response = _response("200 OK", body, CONTENT_TYPE)
        elif path == b"/healthz":
            alive = self._heartbeat.alive(self._session(), time.monotonic())
            response = _verdict(alive, "ok", "capture threads do not move", self._troubles())
        elif path == b"/readyz":
            details = self._troubles()
            if self._standing is not None and not self._standing.satisfied:
                details.append(f"capture: {self._standing.reason}")
            response = _verdict(self._ready(), "ready", "not ready", details)
        else:
            response = _response("404 Not Found", b"/metrics, /healthz or /readyz\n")
        return response if words[0] == b"GET" else response.split(b"\r\n\r\n", 1)[0] + b"\r\n\r\n"


def _verdict(good: bool, yes: str, no: str, details: Sequence[str]) -> bytes:
    body = "\n".join([yes if good else no, *details, ""]).encode()
    return _response("200 OK" if good else "503 Service Unavailable", body)


def _response(status: str, body: bytes, content_type: str = "text/plain; charset=utf-8") -> bytes:
    head = (
        f"HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + body
