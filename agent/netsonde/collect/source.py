"""Sources of a collector's messages: a durable JetStream consumer, or the live stream.

The durable consumer is pulled. It delivers each message again until it is acked. The live
stream is a bounded subscription: if the collector is too slow, the client drops messages, which
show as gaps.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol, TypeVar

import msgspec
import nats.errors
import nats.js.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js.api import AckPolicy, ConsumerConfig, ConsumerInfo, DeliverPolicy, StatusCode

from ..bus import jetstream
from ..errors import NetsondeError

T = TypeVar("T")

PULL_MESSAGES = 1024
PULL_BYTES_MAX = 16 << 20  # bounds the memory of a fetch
PULL_WAIT_SEC = 1.0
LIVE_MESSAGES_MAX = 4096
LIVE_BYTES_MAX = 256 << 20
API_TIMEOUT_SEC = 5
ACK_WAIT_SEC = 30.0
IN_FLIGHT_MAX = 16_384  # a new consumer's window
REFUSAL_POLL_SEC = 0.05
FIRST_POLL_SEC = 0.05, 0.25
OTHER_READER_POLLS = 5
OTHER_READER_POLL_SEC = 0.4
PULLS_UNTIL_OLDER = 2  # without a foreign delivery between them
# Normal ends of a request: no message, timeout, the consumer moves to another server.
ENDS = (StatusCode.NO_MESSAGES, StatusCode.REQUEST_TIMEOUT, StatusCode.CONFLICT)

# The second and third: JetStream is off on this server, or for this account.
NO_REPLY = (TimeoutError, nats.errors.NoRespondersError, nats.js.errors.ServiceUnavailableError)
ERRORS = (nats.errors.Error, OSError, RuntimeError)


class ConsumerError(NetsondeError):
    """The stream or its consumer cannot be used, and a retry would not help."""


class StreamMissingError(ConsumerError):
    """The stream does not exist yet."""


class NotAnsweredError(ConsumerError):
    """JetStream does not reply, or cannot serve the request now."""


class OtherReaderError(ConsumerError):
    """Another collector reads with this consumer."""


class Source(Protocol):
    @property
    def window(self) -> int:
        """The server stops when so many messages are not acked."""

    async def open(self) -> None: ...

    async def fetch(self) -> list[Msg]: ...

    async def acknowledge(self, messages: Sequence[Msg]) -> None: ...

    async def drained(self) -> bool:
        """Returns whether everything that was there has been acked."""


class Refusals:
    """The server's refusals for this user, and the subjects that it may be about.

    nats-py reports a refusal only to the error callback, in lower case. Without this, a refused
    request looks like a timeout.
    """

    def __init__(self, errors: Sequence[Exception], advice: str, subjects: Sequence[str]) -> None:
        self._errors = errors  # grows while connected
        self._advice = advice
        self._subjects = subjects

    def check(self) -> None:
        """Raises ConsumerError if one of the subjects was refused."""
        for error in self._errors:
            text = str(error).lower()
            if "permissions violation" not in text:
                continue
            for subject in self._subjects:
                if f'"{subject.lower().removesuffix("*").removesuffix(".")}' in text:
                    raise ConsumerError(f"NATS refuses {subject} to this user. {self._advice}")

    async def guard(self, reply: Awaitable[T]) -> T:
        """Awaits a reply. Raises ConsumerError as soon as the request is refused."""
        waiting = asyncio.ensure_future(reply)
        try:
            while not waiting.done():
                await asyncio.wait([waiting], timeout=REFUSAL_POLL_SEC)
                self.check()
            return await waiting
        finally:
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)


class Pull:
    """Pulls messages from a durable consumer, one request at a time. nats-py's `fetch` creates
    a task and a timer per message, which took a third of a collector's first core."""

    def __init__(self, client: Client, *, stream: str, durable: str, domain: str = "") -> None:
        self._client = client
        self.subject = jetstream.api(domain, f"CONSUMER.MSG.NEXT.{stream}.{durable}")
        self._inbox = client.new_inbox()
        self._number = 0
        self._reply_subject = ""  # for the end status of the current request
        self._error: Msg | None = None
        self._arrived: list[Msg] = []
        self._batch = PULL_MESSAGES
        self._done = asyncio.Event()

    async def open(self) -> None:
        await self._client.subscribe(f"{self._inbox}.*", cb=self._on_message)

    async def _on_message(self, message: Msg) -> None:
        # Late messages of earlier requests are accepted too: otherwise they would be delivered
        # again only after the ack wait. Their subject is the stream's; a status has the inbox's.
        if not message.subject.startswith(self._inbox):
            self._arrived.append(message)
            if len(self._arrived) >= self._batch:
                self._done.set()
        elif message.subject == self._reply_subject:
            if (message.headers or {}).get("Status") not in ENDS:
                self._error = message
            elif "MaxBytes" in (message.headers or {}).get("Description", ""):
                self._batch = 1  # a message larger than PULL_BYTES_MAX is next
            self._done.set()

    async def fetch(self, wait_sec: float) -> list[Msg]:
        """Returns the available messages; without any, waits for the first until the timeout."""
        self._number += 1
        self._reply_subject = f"{self._inbox}.{self._number}"
        self._error = None
        self._done.clear()
        # With expires and no_wait, the server waits only if it has no message.
        request = {"batch": self._batch, "expires": int(wait_sec * 1e9), "no_wait": True}
        if self._batch > 1:
            request["max_bytes"] = PULL_BYTES_MAX
        await self._client.publish(self.subject, msgspec.json.encode(request), self._reply_subject)
        try:
            async with asyncio.timeout(wait_sec):
                await self._done.wait()
        except TimeoutError:
            pass
        found, self._arrived = self._arrived, []
        if found:
            self._batch = PULL_MESSAGES
        elif self._error is not None:
            nats.js.errors.APIError.from_msg(self._error)
        return found


def delivery_number(message: Msg) -> int | None:
    """Returns the number of this delivery among all of its consumer, to any reader."""
    tokens = message.reply.split(".")  # $JS.ACK[.domain.account].stream.consumer.…
    at = 6 if len(tokens) == 9 else 8
    return int(tokens[at]) if len(tokens) > at and tokens[at].isdecimal() else None


def _delivered(found: ConsumerInfo) -> int:
    return found.delivered.consumer_seq if found.delivered is not None else 0


class DurableSource:
    """Reads with a durable consumer, which must have no other reader: two would share the
    messages, each with gaps, and collect some twice. errors: those of the connection."""

    def __init__(
        self,
        client: Client,
        *,
        stream: str,
        subjects: list[str],
        durable: str,
        ack_wait_sec: float = ACK_WAIT_SEC,
        errors: Sequence[Exception] = (),
        notify: Callable[[str], None] = lambda text: None,
        domain: str = "",
    ) -> None:
        self._client = client
        self._domain = domain
        self._stream = stream
        self._durable = durable
        self._notify = notify
        self._js = client.jetstream(timeout=API_TIMEOUT_SEC, domain=domain or None)
        self._config = ConsumerConfig(
            durable_name=durable,
            ack_policy=AckPolicy.EXPLICIT,
            deliver_policy=DeliverPolicy.ALL,
            ack_wait=ack_wait_sec,
            max_ack_pending=IN_FLIGHT_MAX,
            filter_subjects=subjects,
        )
        self.window = IN_FLIGHT_MAX
        consumer = f"{stream}.{durable}"
        self._refusals = Refusals(
            errors,
            "The role collector may use only the consumer that has the collector's name: set "
            f"--durable to that name, or run `netsonde nats setup --collector {durable}` and "
            "`netsonde nats streams`.",
            [jetstream.api(domain, f"CONSUMER.{verb}.{consumer}")
             for verb in ("INFO", "CREATE", "DURABLE.CREATE", "MSG.NEXT")]
            + [f"$JS.ACK.{consumer}.*"],
        )  # fmt: skip

    async def open(self) -> None:
        """Raises ConsumerError, or one of ERRORS."""
        found = await self.ensure()
        self.window = found.config.max_ack_pending or IN_FLIGHT_MAX
        await self._reject_second_reader(found)
        self._pull = Pull(
            self._client, stream=self._stream, durable=self._durable, domain=self._domain
        )
        self._pulls = 0  # without a foreign delivery
        self._next_delivery: int | None = None
        self._reconnects = self._client.stats["reconnects"]
        await self._pull.open()

    async def ensure(self) -> ConsumerInfo:
        """Creates or changes the consumer only if needed: a collector's key may lack the right.
        Raises ConsumerError."""
        found: ConsumerInfo | None = None
        try:
            found = await self._info()
        except nats.js.errors.NotFoundError:
            pass
        except (*NO_REPLY, nats.js.errors.ServerError):
            raise NotAnsweredError(
                f"{self._stream}: JetStream does not reply. Enable it on the server, or wait."
            ) from None
        if found is not None and self._fits(found):
            return found
        try:
            return await self._refusals.guard(self._js.add_consumer(self._stream, self._config))
        except nats.js.errors.NotFoundError:
            raise StreamMissingError(
                f"stream {self._stream} does not exist. Run `netsonde nats streams` to create it, "
                "or set `[flows] jetstream = true` on an agent that may create it."
            ) from None
        except nats.js.errors.APIError as error:
            kind = NotAnsweredError if (error.code or 500) >= 500 else ConsumerError
            raise kind(f"{self._stream}: {error.description}") from None
        except TimeoutError:
            what = "does not exist" if found is None else "has other hosts or another ack wait"
            raise NotAnsweredError(
                f"{self._stream}: the consumer {self._durable} {what}. This user may not change "
                "it, or JetStream does not reply. Run `netsonde nats streams` to create it."
            ) from None

    async def _info(self) -> ConsumerInfo:
        return await self._refusals.guard(self._js.consumer_info(self._stream, self._durable))

    def _fits(self, found: ConsumerInfo) -> bool:
        one, several = found.config.filter_subject, found.config.filter_subjects
        wanted = self._config
        return (
            set(several or [one or ">"]) == set(wanted.filter_subjects or ())
            and found.config.ack_policy == wanted.ack_policy
            and found.config.ack_wait == wanted.ack_wait
        )

    async def _reject_second_reader(self, found: ConsumerInfo) -> None:
        """Raises OtherReaderError if somebody pulls, or takes from the backlog. A killed reader's
        request ends within PULL_WAIT_SEC. The first delay is random: of two collectors that start
        together, one sees the other."""
        if not found.num_waiting and not found.num_pending:
            return
        wait_sec = random.uniform(*FIRST_POLL_SEC)  # noqa: S311 - no secret
        for _ in range(OTHER_READER_POLLS):
            await asyncio.sleep(wait_sec)
            before, found = found, await self._info()
            if not found.num_waiting and _delivered(found) == _delivered(before):
                return
            wait_sec = OTHER_READER_POLL_SEC
        raise self._other_reader()

    def _other_reader(self) -> OtherReaderError:
        return OtherReaderError(
            f"another collector reads with the consumer {self._durable} of {self._stream}. "
            "Stop it, or use --durable with another name."
        )

    async def fetch(self) -> list[Msg]:
        """Returns messages, or an empty list after PULL_WAIT_SEC. Raises OtherReaderError or one
        of ERRORS."""
        found = await self._pull.fetch(PULL_WAIT_SEC)
        self._refusals.check()
        if found and self._skips(found):
            if self._pulls < PULLS_UNTIL_OLDER:
                for message in found:
                    await self._client.publish(message.reply, b"-NAK")
                raise self._other_reader()
            self._notify(f"{self._other_reader().detail} This collector continues.")
        self._pulls += bool(found)
        return found

    def _skips(self, found: Sequence[Msg]) -> bool:
        """Returns whether deliveries before or between these went to another reader. After a
        reconnect, some may have been sent to the old connection."""
        first, last = delivery_number(found[0]), delivery_number(found[-1])
        if first is None or last is None:
            return False
        expected, self._next_delivery = self._next_delivery, last + 1
        if self._client.stats["reconnects"] != self._reconnects:
            self._reconnects = self._client.stats["reconnects"]
            return False
        return first != (expected or first) or last - first + 1 != len(found)

    async def acknowledge(self, messages: Sequence[Msg]) -> None:
        """Acks messages. After a lost ack the message is delivered again, as a duplicate."""
        for message in messages:
            await self._client.publish(message.reply, b"+ACK")
        await self._client.flush(timeout=API_TIMEOUT_SEC)

    async def drained(self) -> bool:
        """Unacked messages of an earlier reader count: they are delivered after the ack wait."""
        found = await self._info()
        return not found.num_pending and not found.num_ack_pending


class LiveSource:
    window = 2 * LIVE_MESSAGES_MAX

    def __init__(
        self, client: Client, *, subjects: list[str], errors: Sequence[Exception] = ()
    ) -> None:
        self._client = client
        self._subjects = subjects
        self._arrived: asyncio.Queue[Msg] = asyncio.Queue(maxsize=LIVE_MESSAGES_MAX)
        self._refusals = Refusals(
            errors,
            "The roles controller, operator and collector of `netsonde nats setup` may read it.",
            subjects,
        )

    async def open(self) -> None:
        for subject in self._subjects:
            await self._client.subscribe(
                subject,
                cb=self._arrived.put,
                pending_msgs_limit=LIVE_MESSAGES_MAX,
                pending_bytes_limit=LIVE_BYTES_MAX,
            )
        await self._client.flush(timeout=API_TIMEOUT_SEC)
        self._refusals.check()

    async def fetch(self) -> list[Msg]:
        self._refusals.check()
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

    async def drained(self) -> bool:
        return self._arrived.empty()
