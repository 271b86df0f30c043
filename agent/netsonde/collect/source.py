"""Where a collector's messages come from: a durable JetStream consumer, or the live stream.

The durable one is pulled, so nothing comes that was not asked for, and each message comes
again until it is acknowledged. The live one is a plain subscription with a bound; what the
collector cannot keep up with is dropped by the client and shows as a gap.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Protocol

import nats.errors
import nats.js.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js.api import AckPolicy, ConsumerConfig, ConsumerInfo, DeliverPolicy

from ..errors import NetsondeError

PULL_MESSAGES = 128
PULL_WAIT_SEC = 1.0
LIVE_MESSAGES_MAX = 4096
LIVE_BYTES_MAX = 256 << 20
API_TIMEOUT_SEC = 5
ACK_WAIT_SEC = 30.0
IN_FLIGHT_MAX = 1024

ERRORS = (nats.errors.Error, OSError, RuntimeError)


class ConsumerError(NetsondeError):
    """The stream or its consumer cannot be had."""


class Source(Protocol):
    async def open(self) -> None: ...

    async def fetch(self) -> list[Msg]: ...

    async def acknowledge(self, messages: Sequence[Msg]) -> None: ...


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
        self._pull = await self._js.pull_subscribe_bind(self._durable, stream=self._stream)

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
        try:
            return await self._pull.fetch(PULL_MESSAGES, timeout=PULL_WAIT_SEC)
        except TimeoutError:
            return []

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
