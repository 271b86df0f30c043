"""Sources of a collector's messages: a durable JetStream consumer, or the live stream.

The durable consumer is pulled. It delivers each message again until it is acked. The live
stream is a bounded subscription: if the collector is too slow, the client drops messages, which
show as gaps.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Protocol

import msgspec
import nats.errors
import nats.js.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js.api import AckPolicy, ConsumerConfig, ConsumerInfo, DeliverPolicy, StatusCode

from ..errors import NetsondeError

PULL_MESSAGES = 128
PULL_WAIT_SEC = 1.0
LIVE_MESSAGES_MAX = 4096
LIVE_BYTES_MAX = 256 << 20
API_TIMEOUT_SEC = 5
ACK_WAIT_SEC = 30.0
IN_FLIGHT_MAX = 1024
# Normal ends of a request: no message, timeout, the consumer moves to another server.
ENDS = (StatusCode.NO_MESSAGES, StatusCode.REQUEST_TIMEOUT, StatusCode.CONFLICT)

ERRORS = (nats.errors.Error, OSError, RuntimeError)


class ConsumerError(NetsondeError):
    """The stream or its consumer is missing or cannot be used."""


class Source(Protocol):
    async def open(self) -> None: ...

    async def fetch(self) -> list[Msg]: ...

    async def acknowledge(self, messages: Sequence[Msg]) -> None: ...


class Pull:
    """Pulls messages from a durable consumer, one request at a time. nats-py's `fetch` creates
    a task and a timer per message, which took a third of a collector's first core."""

    def __init__(self, client: Client, *, stream: str, durable: str) -> None:
        self._client = client
        self._subject = f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{durable}"
        self._inbox = client.new_inbox()
        self._number = 0
        self._reply_subject = ""  # for the end status of the current request
        self._error: Msg | None = None
        self._arrived: list[Msg] = []
        self._done = asyncio.Event()

    async def open(self) -> None:
        await self._client.subscribe(f"{self._inbox}.*", cb=self._on_message)

    async def _on_message(self, message: Msg) -> None:
        # Late messages of earlier requests are accepted too: otherwise they would be delivered
        # again only after the ack wait. Their subject is the stream's; a status has the inbox's.
        if not message.subject.startswith(self._inbox):
            self._arrived.append(message)
            if len(self._arrived) >= PULL_MESSAGES:
                self._done.set()
        elif message.subject == self._reply_subject:
            if (message.headers or {}).get("Status") not in ENDS:
                self._error = message
            self._done.set()

    async def fetch(self, wait_sec: float) -> list[Msg]:
        """Returns the available messages; without any, waits for the first until the timeout."""
        self._number += 1
        self._reply_subject = f"{self._inbox}.{self._number}"
        self._error = None
        self._done.clear()
        # With expires and no_wait, the server waits only if it has no message.
        request = {"batch": PULL_MESSAGES, "expires": int(wait_sec * 1e9), "no_wait": True}
        await self._client.publish(self._subject, msgspec.json.encode(request), self._reply_subject)
        try:
            async with asyncio.timeout(wait_sec):
                await self._done.wait()
        except TimeoutError:
            pass
        found, self._arrived = self._arrived, []
        if self._error is not None and not found:
            nats.js.errors.APIError.from_msg(self._error)
        return found


class DurableSource:
    def __init__(
        self,
        client: Client,
        *,
        stream: str,
        subjects: list[str],
        durable: str,
        ack_wait_sec: float = ACK_WAIT_SEC,
    ) -> None:
        self._client = client
        self._stream = stream
        self._durable = durable
        self._js = client.jetstream(timeout=API_TIMEOUT_SEC)
        self._config = ConsumerConfig(
            durable_name=durable,
            ack_policy=AckPolicy.EXPLICIT,
            deliver_policy=DeliverPolicy.ALL,
            ack_wait=ack_wait_sec,
            max_ack_pending=IN_FLIGHT_MAX,
            filter_subjects=subjects,
        )

    async def open(self) -> None:
        """Raises ConsumerError, or one of ERRORS."""
        await self.ensure()
        self._pull = Pull(self._client, stream=self._stream, durable=self._durable)
        await self._pull.open()

    async def ensure(self) -> None:
        """Creates or changes the consumer only if needed: a collector's key may lack the right.
        Raises ConsumerError."""
        try:
            found = await self._js.consumer_info(self._stream, self._durable)
        except nats.js.errors.NotFoundError:
            found = None
        if found is not None and self._fits(found):
            return
        try:
            await self._js.add_consumer(self._stream, self._config)
        except nats.js.errors.NotFoundError:
            raise ConsumerError(f"stream {self._stream} does not exist") from None
        except nats.js.errors.APIError as error:
            raise ConsumerError(f"{self._stream}: {error.description}") from None
        except TimeoutError:
            what = "does not exist" if found is None else "has other hosts or another ack wait"
            raise ConsumerError(
                f"{self._stream}: the consumer {self._durable} {what}. This user may not change "
                "it, or JetStream does not reply. Run `netsonde nats streams` to create it."
            ) from None

    def _fits(self, found: ConsumerInfo) -> bool:
        one, several = found.config.filter_subject, found.config.filter_subjects
        wanted = self._config
        return (
            set(several or [one or ">"]) == set(wanted.filter_subjects or ())
            and found.config.ack_policy == wanted.ack_policy
            and found.config.ack_wait == wanted.ack_wait
            and found.config.max_ack_pending == wanted.max_ack_pending
        )

    async def fetch(self) -> list[Msg]:
        """Returns messages, or an empty list after PULL_WAIT_SEC. Raises one of ERRORS."""
        return await self._pull.fetch(PULL_WAIT_SEC)

    async def acknowledge(self, messages: Sequence[Msg]) -> None:
        """Acks messages. After a lost ack the message is delivered again, as a duplicate."""
        for message in messages:
            await self._client.publish(message.reply, b"+ACK")
        await self._client.flush(timeout=API_TIMEOUT_SEC)


class LiveSource:
    def __init__(self, client: Client, *, subjects: list[str]) -> None:
        self._client = client
        self._subjects = subjects
        self._arrived: asyncio.Queue[Msg] = asyncio.Queue(maxsize=LIVE_MESSAGES_MAX)

    async def open(self) -> None:
        for subject in self._subjects:
            await self._client.subscribe(
                subject,
                cb=self._arrived.put,
                pending_msgs_limit=LIVE_MESSAGES_MAX,
                pending_bytes_limit=LIVE_BYTES_MAX,
            )
        await self._client.flush(timeout=API_TIMEOUT_SEC)

    async def fetch(self) -> list[Msg]:
        try:
            async with asyncio.timeout(PULL_WAIT_SEC):
                found = [await self._arrived.get()]
        except TimeoutError:
            return []
        while len(found) < PULL_MESSAGES and not self._arrived.empty():
            found.append(self._arrived.get_nowait())
        return found

    async def acknowledge(self, messages: Sequence[Msg]) -> None:
        """Does nothing: the live stream has no acks."""
