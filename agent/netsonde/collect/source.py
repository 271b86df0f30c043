"""Where a collector's messages come from: a durable JetStream consumer, or the live stream.

The durable one is pulled, so nothing comes that was not asked for, and each message comes
again until it is acknowledged. The live one is a plain subscription with a bound; what the
collector cannot keep up with is dropped by the client and shows as a gap.
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
# What ends a request and is no error: nothing there, its time is over, its consumer moves.
ENDS = (StatusCode.NO_MESSAGES, StatusCode.REQUEST_TIMEOUT, StatusCode.CONFLICT)

ERRORS = (nats.errors.Error, OSError, RuntimeError)


class ConsumerError(NetsondeError):
    """The stream or its consumer cannot be had."""


class Source(Protocol):
    async def open(self) -> None: ...

    async def fetch(self) -> list[Msg]: ...

    async def acknowledge(self, messages: Sequence[Msg]) -> None: ...


class Pull:
    """Requests to a durable consumer, one at a time, and what comes of them. nats-py's `fetch`
    makes a task and a timer of each message, which took a third of a collector's first core."""

    def __init__(self, client: Client, *, stream: str, durable: str) -> None:
        self._client = client
        self._subject = f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{durable}"
        self._inbox = client.new_inbox()
        self._number = 0
        self._asked = ""  # where the server tells that a request has ended
        self._refusal: Msg | None = None
        self._arrived: list[Msg] = []
        self._settled = asyncio.Event()

    async def open(self) -> None:
        await self._client.subscribe(f"{self._inbox}.*", cb=self._note)

    async def _note(self, message: Msg) -> None:
        # Of any request, so that one that comes late is not lost until its time to be acknowledged
        # is over. Records keep their stream's subject, so they cannot pass for a status.
        if not message.subject.startswith(self._inbox):
            self._arrived.append(message)
            if len(self._arrived) >= PULL_MESSAGES:
                self._settled.set()
        elif message.subject == self._asked:
            if (message.headers or {}).get("Status") not in ENDS:
                self._refusal = message
            self._settled.set()

    async def fetch(self, wait_sec: float) -> list[Msg]:
        """What is there; if nothing is, what comes first, within this time."""
        self._number += 1
        self._asked = f"{self._inbox}.{self._number}"
        self._refusal = None
        self._settled.clear()
        # With both, the server gives what it has and waits only if that is nothing.
        request = {"batch": PULL_MESSAGES, "expires": int(wait_sec * 1e9), "no_wait": True}
        await self._client.publish(self._subject, msgspec.json.encode(request), self._asked)
        try:
            async with asyncio.timeout(wait_sec):
                await self._settled.wait()
        except TimeoutError:
            pass
        found, self._arrived = self._arrived, []
        if self._refusal is not None and not found:
            nats.js.errors.APIError.from_msg(self._refusal)
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
        """Takes the consumer of this name over; makes or changes it only where it has to, for
        that is a right which a collector's key need not have. Raises ConsumerError."""
        try:
            found = await self._js.consumer_info(self._stream, self._durable)
        except nats.js.errors.NotFoundError:
            found = None
        if found is not None and self._fits(found):
            return
        try:
            await self._js.add_consumer(self._stream, self._config)
        except nats.js.errors.NotFoundError:
            raise ConsumerError(f"there is no stream {self._stream}") from None
        except nats.js.errors.APIError as error:
            raise ConsumerError(f"{self._stream}: {error.description}") from None
        except TimeoutError:
            what = "is not there" if found is None else "has other hosts or another ack wait"
            raise ConsumerError(
                f"{self._stream}: the consumer {self._durable} {what}, and this user may not "
                "change that, or JetStream does not answer; `netsonde nats streams` makes it"
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
        """What has come, soon; nothing if there is nothing. Raises one of ERRORS."""
        return await self._pull.fetch(PULL_WAIT_SEC)

    async def acknowledge(self, messages: Sequence[Msg]) -> None:
        """One that does not arrive costs no more than a delivery that is told to be a repeat."""
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
        """Nobody waits for it."""
