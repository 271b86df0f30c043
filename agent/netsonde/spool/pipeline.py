"""From the spool to JetStream: many messages under way, each until its acknowledgement.

Up to WINDOW_MESSAGES, and as many bytes as window.py allows, are sent ahead. A PubAck may come
in any order; it is matched by the last token of the inbox it comes to, which is the message's
number. What is not acknowledged by its deadline, was refused, or was under way when the
connection went, is sent again with the same Nats-Msg-Id, which the stream's duplicate window
makes harmless.

`append` puts a message into the spool, and so it is safe from then on whatever the bus does.
It waits only at the spool's bound, and only while acknowledgements still come in; when they
do not, the oldest messages are given up, and counted.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass

import msgspec
import structlog
from nats.aio.msg import Msg

from ..bus.connection import Connection, PayloadTooLargeError
from .format import Message, Taken
from .send_window import Window
from .spool import Spool, SpoolError, SpoolFullError
from .streams import StreamSettings, ensure_streams

WINDOW_MESSAGES = 64
ACK_DEADLINE_SEC = 5.0
RETRY_SEC, RETRY_SEC_MAX = 0.25, 5.0
FLOWING_SEC = 2.0  # acknowledgements are coming in if there was one as late as this
SILENT_TRIES = 2  # a server whose disk is full may answer nothing at all
TICK_SEC = 0.1
SYNC_INTERVAL_SEC = 1.0
ENSURE_INTERVAL_SEC = 2.0
_TOO_LARGE = 10054  # err_code: the stream takes no message of this size, ever

# (name of the alarm, words, data)
Alarm = Callable[[str, str, dict[str, int]], None]


class _Refusal(msgspec.Struct):
    err_code: int = 0
    description: str = ""


class _PubAck(msgspec.Struct):
    stream: str = ""
    error: _Refusal | None = None


_decode_ack = msgspec.json.Decoder(_PubAck).decode


@dataclass(slots=True)
class Flight:
    """A message under way."""

    taken: Taken
    sent_sec: float = 0.0
    due_sec: float = 0.0  # when it is sent (again)
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
        self._ensure = False
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
        """Are acknowledgements coming in?"""
        return self._connection.connected and time.monotonic() - self._acked_sec < FLOWING_SEC

    # ---- what the sink asks of it ------------------------------------------------------------

    async def append(self, message: Message) -> None:
        """Returns when it is in the spool."""
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
                await self._wait(self._progress, RETRY_SEC)
            except SpoolError as error:
                # The core's ring holds what comes meanwhile, and counts what it cannot hold.
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
            self._tell_lost("the spool is full: the oldest records were given up")
        return True

    async def settled(self, timeout_sec: float) -> bool:
        """True when everything appended so far is acknowledged."""
        try:
            async with asyncio.timeout(timeout_sec):
                while not self.spool.empty:
                    self._progress.clear()
                    await self._progress.wait()
        except TimeoutError:
            return False
        return True

    # ---- its life ----------------------------------------------------------------------------

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._tick())
            tasks.create_task(self._sync_now_and_then())
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

    async def _sync_now_and_then(self) -> None:
        while True:
            await asyncio.sleep(SYNC_INTERVAL_SEC)
            if not self.spool.wants_sync:
                continue
            try:
                await asyncio.to_thread(self.spool.prepare_sync())
            except OSError as error:
                self._alarm("spool_failed", f"fdatasync: {error.strerror}", {})

    async def _ensure_streams(self) -> None:
        while True:
            await self._connection.wait_connected()
            if self._ensure:
                wrong = await ensure_streams(self._connection, self._root, self._settings)
                if wrong is None:
                    self._log.warning("JetStream does not answer; records wait in the spool")
                else:
                    self._ensure = False
                    self._retry_all()
                if wrong:
                    self._alarm("stream_misconfigured", "; ".join(wrong), {})
            await asyncio.sleep(ENSURE_INTERVAL_SEC if self._ensure else TICK_SEC)

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
                self._tell_lost("damaged in the spool")
            if taken is None:
                return
            flight = self._flights[taken.number] = Flight(taken)
            self._bytes += taken.message.bytes
            if not await self._send(flight):
                return

    async def _send(self, flight: Flight) -> bool:
        """False: there is no connection now."""
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
            self._give_up(flight, error.detail)
            return True
        flight.due_sec = 0.0
        return False

    def _retry_all(self) -> None:
        for flight in self._flights.values():
            flight.due_sec = 0.0
        self._wake.set()

    def _on_connection(self, up: bool) -> None:
        if up:
            self._ensure = True
            self._retry_all()

    # ---- acknowledgements --------------------------------------------------------------------

    async def _on_ack(self, message: Msg) -> None:
        token = message.subject.rpartition(".")[2]
        flight = self._flights.get(int(token)) if token.isdigit() else None
        if flight is None:
            return  # of a message that was sent twice
        try:
            ack = _decode_ack(message.data) if message.data else _PubAck()
        except msgspec.DecodeError:
            ack = _PubAck()
        if ack.error is None and ack.stream:
            self._land(flight)
            return
        if ack.error is not None and ack.error.err_code == _TOO_LARGE:
            self._give_up(flight, ack.error.description)
            return
        self._refused(flight, ack.error.description if ack.error else "no stream takes it")

    def _refused(self, flight: Flight, words: str) -> None:
        """By a full disk, a stream without a leader, or because there is no stream."""
        wait_sec = min(RETRY_SEC * 2 ** min(flight.tries, 6), RETRY_SEC_MAX)
        flight.due_sec = time.monotonic() + wait_sec
        self.last_refusal = words
        self._ensure = True
        self._alarm("stream_refuses", words, {"records_waiting": self.spool.records_unfinished})

    def _land(self, flight: Flight) -> None:
        self._remove(flight)
        self.spool.finish(flight.taken)
        self.messages_acked += 1
        self._acked_sec = time.monotonic()
        if flight.tries == 1:  # else nobody knows which of them was acknowledged
            self._window.landed(flight.taken.message.bytes, flight.sent_sec, self._acked_sec)
        self.last_refusal = ""
        self._progress.set()
        self._wake.set()

    def _give_up(self, flight: Flight, words: str) -> None:
        self._remove(flight)
        self.spool.finish(flight.taken, lost=True)
        self._tell_lost(words)
        self._progress.set()

    def _remove(self, flight: Flight) -> None:
        del self._flights[flight.taken.number]
        self._bytes -= flight.taken.message.bytes

    def _tell_lost(self, words: str) -> None:
        spool = self.spool
        data = {"records_lost": spool.records_lost, "packets_lost": spool.packets_lost}
        self._alarm("records_lost", words, data)

    @staticmethod
    async def _wait(event: asyncio.Event, timeout_sec: float) -> None:
        try:
            async with asyncio.timeout(timeout_sec):
                await event.wait()
        except TimeoutError:
            pass
