"""Sends messages from the spool to JetStream and keeps each until its ack.

Up to WINDOW_MESSAGES and the send window's bytes are in flight. Acks arrive in any order. The
last token of an ack's subject is the message's number. A message is resent with the same
Nats-Msg-Id if its ack is late, the stream rejects it or the connection drops. The stream's
duplicate window removes duplicates.

`append` returns when a message is in the spool. It blocks only while the spool is full and acks
still arrive. A full spool without acks drops and counts its oldest messages.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass

import msgspec
import structlog
from nats.aio.msg import Msg

from ..bus import jetstream
from ..bus.connection import Connection, PayloadTooLargeError
from .format import Message, Taken
from .send_window import Window
from .spool import Spool, SpoolError, SpoolFullError
from .streams import StreamSettings, ensure_streams

WINDOW_MESSAGES = 64
ACK_DEADLINE_SEC = 5.0
RETRY_SEC, RETRY_SEC_MAX = 0.25, 5.0
FLOWING_SEC = 2.0  # acks arrive if the last one is younger than this
SILENT_TRIES = 2  # a server with a full disk may not reply at all
TICK_SEC = 0.1
SYNC_INTERVAL_SEC = 1.0
ENSURE_INTERVAL_SEC = 2.0
_TOO_LARGE = 10054  # err_code: the message exceeds the stream's size limit

# (name of the alarm, text, data)
Alarm = Callable[[str, str, dict[str, int]], None]


class _Refusal(msgspec.Struct):
    err_code: int = 0
    description: str = ""


class _PubAck(msgspec.Struct):
    stream: str = ""
    domain: str = ""
    error: _Refusal | None = None


_decode_ack = msgspec.json.Decoder(_PubAck).decode


@dataclass(slots=True)
class Flight:
    """A message in flight."""

    taken: Taken
    sent_sec: float = 0.0
    due_sec: float = 0.0  # time of the next send
    tries: int = 0


class Pipeline:
    def __init__(
        self,
        connection: Connection,
        spool: Spool,
        *,
        root: str,
        settings: StreamSettings,
        alarm: Alarm,
    ) -> None:
        self._connection = connection
        self.spool = spool
        self._root = root
        self._settings = settings
        self._alarm = alarm
        self._inbox = f"{connection.inbox_prefix}.{secrets.token_hex(11)}"
        self._flights: dict[int, Flight] = {}
        self._bytes = 0
        self._window = Window()
        self._wake = asyncio.Event()
        self._progress = asyncio.Event()
        self._acked_sec = 0.0
        self._ack_domain: str | None = None  # that acked first, without a configured domain
        self._two_domains = False
        self._streams_unchecked = False
        self._log = structlog.get_logger()
        self.messages_acked = 0
        self.messages_resent = 0
        self.last_refusal = ""
        connection.listen(f"{self._inbox}.*", self._on_ack)
        connection.notify(self._on_connection)

    @property
    def messages_in_flight(self) -> int:
        return len(self._flights)

    @property
    def flowing(self) -> bool:
        """True while acks arrive."""
        return self._connection.connected and time.monotonic() - self._acked_sec < FLOWING_SEC

    # ---- append ------------------------------------------------------------------------------

    async def append(self, message: Message) -> None:
        """Returns when the message is in the spool."""
        while True:
            try:
                self.spool.append(message)
            except SpoolFullError:
                if not self.flowing:
                    if self._force(message):
                        break
                    await asyncio.sleep(1.0)
                    continue
                self._progress.clear()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(RETRY_SEC):
                        await self._progress.wait()
            except SpoolError as error:
                # Meanwhile the core's ring buffers records and counts its drops.
                self._alarm("spool_failed", error.detail, {})
                await asyncio.sleep(1.0)
            else:
                break
        self._wake.set()

    def _force(self, message: Message) -> bool:
        try:
            lost = self.spool.append(message, force=True)
        except SpoolError as error:
            self._alarm("spool_failed", error.detail, {})
            return False
        if lost:
            self._alarm_lost("the spool is full: dropped the oldest records")
        return True

    async def settled(self, timeout_sec: float) -> bool:
        """Waits until every message is acked. Returns False on timeout."""
        try:
            async with asyncio.timeout(timeout_sec):
                while not self.spool.empty:
                    self._progress.clear()
                    await self._progress.wait()
        except TimeoutError:
            return False
        return True

    # ---- tasks -------------------------------------------------------------------------------

    async def run(self) -> None:
        """Runs until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._tick())
            tasks.create_task(self._sync_periodically())
            tasks.create_task(self._ensure_streams())
            while True:
                await self._connection.wait_connected()
                await self._wake.wait()
                self._wake.clear()
                await self._send_due()

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_SEC)
            self._wake.set()

    async def _sync_periodically(self) -> None:
        while True:
            await asyncio.sleep(SYNC_INTERVAL_SEC)
            if not self.spool.wants_sync:
                continue
            try:
                await asyncio.to_thread(self.spool.prepare_sync())
            except OSError as error:
                self._alarm("spool_failed", f"cannot sync the spool: {error.strerror}", {})

    async def _ensure_streams(self) -> None:
        while True:
            await self._connection.wait_connected()
            if self._streams_unchecked:
                wrong = await ensure_streams(self._connection, self._root, self._settings)
                if wrong is None:
                    self._log.warning("JetStream does not answer; records wait in the spool")
                else:
                    self._streams_unchecked = False
                    self._retry_all()
                if wrong:
                    self._alarm("stream_misconfigured", "; ".join(wrong), {})
            await asyncio.sleep(ENSURE_INTERVAL_SEC if self._streams_unchecked else TICK_SEC)

    # ---- sending -----------------------------------------------------------------------------

    async def _send_due(self) -> None:
        now = time.monotonic()
        for flight in list(self._flights.values()):
            if flight.due_sec <= now and not await self._send(flight):
                return
        while len(self._flights) < WINDOW_MESSAGES and self._bytes < self._window.bytes:
            lost = self.spool.records_lost
            taken = self.spool.take()
            if self.spool.records_lost > lost:
                self._alarm_lost("damaged records in the spool")
            if taken is None:
                return
            flight = self._flights[taken.number] = Flight(taken)
            self._bytes += taken.message.bytes
            if not await self._send(flight):
                return

    async def _send(self, flight: Flight) -> bool:
        """Returns False if there is no connection."""
        if flight.taken.number not in self._flights:
            return True  # acked while an earlier message was sent
        message = flight.taken.message
        reply = b"%b.%d" % (self._inbox.encode(), flight.taken.number)
        self.messages_resent += flight.tries > 0
        flight.tries += 1
        if flight.tries > SILENT_TRIES and not self.flowing:
            data = {"records_waiting": self.spool.records_unfinished}
            self._alarm("stream_silent", "the stream acknowledges nothing", data)
        flight.sent_sec = time.monotonic()
        flight.due_sec = flight.sent_sec + ACK_DEADLINE_SEC
        try:
            if await self._connection.publish_ready(
                message.subject, message.head, message.payload, reply=reply
            ):
                return True
        except PayloadTooLargeError as error:
            self._drop(flight, error.detail)
            return True
        flight.due_sec = 0.0
        return False

    def _retry_all(self) -> None:
        for flight in self._flights.values():
            flight.due_sec = 0.0
        self._wake.set()

    def _on_connection(self, up: bool) -> None:
        if up:
            self._streams_unchecked = True
            self._retry_all()

    # ---- acknowledgements --------------------------------------------------------------------

    async def _on_ack(self, message: Msg) -> None:
        token = message.subject.rpartition(".")[2]
        flight = self._flights.get(int(token)) if token.isdigit() else None
        try:
            ack = _decode_ack(message.data) if message.data else _PubAck()
        except msgspec.DecodeError:
            ack = _PubAck()
        stored = ack.error is None and bool(ack.stream)
        if stored:
            self._check_domain(ack.domain)
        if flight is None:
            return  # second ack of a resent message, or of another stream
        if stored and jetstream.foreign(self._settings.domain, ack.domain):
            self._reject(flight, ack.domain)
        elif stored:
            self._finish(flight)
        elif ack.error is not None and ack.error.err_code == _TOO_LARGE:
            self._drop(flight, ack.error.description)
        else:
            reason = ack.error.description if ack.error else "no stream stores this subject"
            self._retry_later(flight, reason)

    def _check_domain(self, found: str) -> None:
        """Warns once if two domains ack the messages and none of them is configured."""
        if self._settings.domain or self._two_domains:
            return
        first = self._ack_domain
        self._ack_domain = found if first is None else first
        if found != self._ack_domain:
            self._two_domains = True
            text = (
                f"streams in the JetStream domains {first!r} and {found!r} store the records: "
                "set [nats] jetstream_domain, and let only that domain store them"
            )
            self._alarm("stream_misconfigured", text, {})

    def _reject(self, flight: Flight, found: str) -> None:
        """Keeps the message: a stream stored it outside the configured domain. The configured
        domain may have stored it too, and its ack may arrive later."""
        wait_sec = min(RETRY_SEC * 2 ** min(flight.tries, 6), RETRY_SEC_MAX)
        flight.due_sec = max(flight.due_sec, time.monotonic() + wait_sec)
        self.last_refusal = (
            f"an ack from JetStream domain {found!r} does not count, [nats] jetstream_domain is "
            f"{self._settings.domain!r}: let no other domain store the records"
        )
        data = {"records_waiting": self.spool.records_unfinished}
        self._alarm("stream_misconfigured", self.last_refusal, data)

    def _retry_later(self, flight: Flight, reason: str) -> None:
        """Retries with backoff: the disk is full, or the stream has no leader or is missing."""
        wait_sec = min(RETRY_SEC * 2 ** min(flight.tries, 6), RETRY_SEC_MAX)
        flight.due_sec = time.monotonic() + wait_sec
        self.last_refusal = reason
        self._streams_unchecked = True
        self._alarm("stream_refuses", reason, {"records_waiting": self.spool.records_unfinished})

    def _finish(self, flight: Flight) -> None:
        if not self._land(flight):
            return
        self.spool.finish(flight.taken)
        self.messages_acked += 1
        self._acked_sec = time.monotonic()
        if flight.tries == 1:  # after a resend the ack's delay is unknown
            self._window.acked(flight.taken.message.bytes, flight.sent_sec, self._acked_sec)
        self.last_refusal = ""
        self._progress.set()
        self._wake.set()

    def _drop(self, flight: Flight, reason: str) -> None:
        if not self._land(flight):
            return
        self.spool.finish(flight.taken, lost=True)
        self._alarm_lost(reason)
        self._progress.set()

    def _land(self, flight: Flight) -> bool:
        """Ends a flight. Returns False if it has ended: an ack and a failed send can meet."""
        if self._flights.pop(flight.taken.number, None) is None:
            return False
        self._bytes -= flight.taken.message.bytes
        return True

    def _alarm_lost(self, text: str) -> None:
        spool = self.spool
        data = {"records_lost": spool.records_lost, "packets_lost": spool.packets_lost}
        self._alarm("records_lost", text, data)
