"""The controller's and the collector's side of the bus.

`Bus.request` returns a reply's code, headers and decoded body, and checks the parts that every
reply must have. `Collector` keeps flow batches and checks each one.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec
import nats
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.errors import NoRespondersError

from deadlines import TIMEOUT_SEC, eventually

JSON, MSGPACK = "application/json", "application/msgpack"
RECORDS_MAX = 1000
BATCH_BYTES_MAX = 256 * 1024
REQUEST_TIMEOUT_SEC = 15.0


@dataclass(frozen=True)
class Reply:
    code: int
    headers: Mapping[str, str]
    body: dict[str, Any]
    raw: bytes = field(repr=False)

    @property
    def error(self) -> str | None:
        return self.body.get("error")

    @classmethod
    def of(cls, message: Msg) -> Reply:
        headers = dict(message.headers or {})
        assert message.data, f"a reply without a body on {message.subject}: {headers}"
        assert "Status" not in headers, "a header named Status is the NATS client's own"
        assert {"Status-Code", "Host", "Content-Type"} <= headers.keys(), headers
        body = decode(message.data, headers["Content-Type"])
        assert isinstance(body, dict), body
        code = int(headers["Status-Code"])
        assert body["host"] == headers["Host"]
        if code >= 400:
            assert body["code"] == code
            assert isinstance(body["error"], str)
            assert isinstance(body["detail"], str)
            assert body["detail"]
            assert headers["Nats-Service-Error-Code"] == str(code)
            assert headers["Nats-Service-Error"]
        else:
            assert "Nats-Service-Error-Code" not in headers
        return cls(code, headers, body, message.data)


def decode(data: bytes, content_type: str) -> Any:
    if content_type == MSGPACK:
        return msgspec.msgpack.decode(data)
    assert content_type == JSON, content_type
    return json.loads(data)


class Bus:
    def __init__(self, client: Client, root: str = "capture") -> None:
        self.client = client
        self.root = root
        self._reconnects = 0

    @classmethod
    async def connect(cls, url: str, root: str = "capture") -> Bus:
        client = await nats.connect(
            url,
            max_reconnect_attempts=-1,
            reconnect_time_wait=0.05,
            error_cb=_expected,  # servers are killed during tests
        )
        return cls(client, root)

    async def close(self) -> None:
        await self.client.close()

    async def returned(self) -> None:
        """Waits for the reconnection after a server restart. Counts reconnections, because the
        client may still believe it is connected to the server that is gone."""
        await eventually(
            lambda: self.client.stats["reconnects"] > self._reconnects, "the client to reconnect"
        )
        self._reconnects = self.client.stats["reconnects"]
        await settled(self.client)

    def subject(self, verb: str, host: str | None = None) -> str:
        return f"{self.root}.host.{host}.{verb}" if host else f"{self.root}.{verb}"

    async def request(
        self,
        verb: str,
        body: Any = None,
        *,
        host: str = "alpha",
        headers: Mapping[str, str] | None = None,
        timeout_sec: float = REQUEST_TIMEOUT_SEC,
    ) -> Reply:
        """Sends `body`: an object as JSON, bytes unchanged, or an empty body."""
        message = await self.client.request(
            self.subject(verb, host),
            body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode(),
            timeout=timeout_sec,
            headers=dict(headers) if headers else None,
        )
        return Reply.of(message)

    async def ok(self, verb: str, body: Any = None, **options: Any) -> dict[str, Any]:
        """Returns the body of a reply that must be a success."""
        reply = await self.request(verb, body, **options)
        assert reply.code < 300, reply
        return reply.body

    async def gather(self, subject: str, replies: int, body: bytes = b"") -> list[Msg]:
        """Returns all replies to one request. Exactly `replies` must arrive, and no more during one
        further round trip through every agent."""
        inbox = self.client.new_inbox()
        heard: list[Msg] = []
        subscription = await self.client.subscribe(inbox, cb=_keeper(heard))
        await self.client.publish(subject, body, reply=inbox)
        try:
            await eventually(lambda: len(heard) >= replies, f"{replies} replies to {subject}")
            await self.client.request("$SRV.PING.netsonde", timeout=REQUEST_TIMEOUT_SEC)
            await settled(self.client)
        finally:
            await subscription.unsubscribe()
        assert len(heard) == replies, [message.data for message in heard]
        return heard

    async def events(self, host: str = "*", kind: str = "*") -> Events:
        events = Events()
        await self.client.subscribe(
            f"{self.root}.stream.events.{host}.{kind}", cb=_keeper(events.messages)
        )
        await settled(self.client)
        return events

    async def messages(self, subject: str) -> list[Msg]:
        """Returns a list that grows with the messages published on `subject`."""
        heard: list[Msg] = []
        await self.client.subscribe(subject, cb=_keeper(heard))
        await settled(self.client)
        return heard


async def settled(client: Client) -> None:
    """Waits until the server has everything sent and its messages have arrived. nats-py sends a
    PING before the data in its flusher's queue; the first round trip lets the flusher run."""
    await client.flush()
    await client.flush()


async def gone(client: Client, *hosts: str) -> None:
    """Waits until the server has no subscription of these killed agents: it may notice the end of
    their connections later."""
    for host in hosts:

        async def unreachable(host: str = host) -> bool:
            try:
                await client.request(f"$SRV.PING.netsonde.{host}", timeout=0.5)
            except NoRespondersError:
                return True
            except TimeoutError:
                pass
            return False

        await eventually(unreachable, f"the end of the connections of {host}")


class Events:
    """The messages of the events stream, in order."""

    def __init__(self) -> None:
        self.messages: list[Msg] = []

    def all(self) -> list[dict[str, Any]]:
        return [json.loads(message.data) for message in self.messages]

    def kinds(self) -> list[str]:
        return [message.subject.rsplit(".", 1)[1] for message in self.messages]


class Collector:
    """Keeps and checks every flow batch of one host, or of all hosts."""

    def __init__(self, bus: Bus) -> None:
        self.bus = bus
        self.batches: list[dict[str, Any]] = []
        self.problems: list[str] = []
        self._seen: set[str] = set()
        self._subscription: Subscription | None = None

    @classmethod
    async def listen(cls, bus: Bus, host: str = "*") -> Collector:
        collector = cls(bus)
        collector._subscription = await bus.client.subscribe(
            f"{bus.root}.stream.flows.{host}", cb=collector._keep
        )
        await settled(bus.client)
        return collector

    async def close(self) -> None:
        assert self._subscription is not None
        await self._subscription.unsubscribe()

    async def _keep(self, message: Msg) -> None:
        headers = dict(message.headers or {})
        batch = decode(message.data, headers["Content-Type"])
        stamp = f"{batch['host']}:{batch['boot']}:{batch['seq']}"
        if not re.fullmatch(f"{stamp}:[0-9a-f]{{16}}", headers.get("Nats-Msg-Id", "")):
            self.problems.append(f"Nats-Msg-Id {headers.get('Nats-Msg-Id')} on batch {stamp}")
        if len(message.data) > BATCH_BYTES_MAX or len(batch["records"]) > RECORDS_MAX:
            self.problems.append(f"{stamp}: {len(batch['records'])} records, too large a batch")
        if message.subject != f"{self.bus.root}.stream.flows.{batch['host']}":
            self.problems.append(f"{stamp} came on {message.subject}")
        if stamp in self._seen:
            return  # sent again after a reconnection, with the same id
        self._seen.add(stamp)
        self.batches.append(batch)

    @property
    def records(self) -> list[dict[str, Any]]:
        return [record for batch in self.batches for record in batch["records"]]

    def of_session(self, session_id: str) -> list[dict[str, Any]]:
        return [
            record
            for batch in self.batches
            if batch["session_id"] == session_id
            for record in batch["records"]
        ]

    def packets(self, session_id: str) -> int:
        return sum(record["packets"] for record in self.of_session(session_id))

    async def packets_of(
        self, session_id: str, expected: int, *, within_sec: float = TIMEOUT_SEC
    ) -> list[dict[str, Any]]:
        """Returns the session's records once they hold exactly `expected` packets."""
        await eventually(
            lambda: self.packets(session_id) >= expected,
            f"records of {expected} packets, {self.packets(session_id)} arrived at first",
            within_sec=within_sec,
        )
        await settled(self.bus.client)
        await asyncio.sleep(0)  # lets callbacks run for the flushed messages
        assert self.packets(session_id) == expected
        assert self.problems == []
        return self.of_session(session_id)

    def gaps(self) -> list[str]:
        """Returns the missing numbers between the first and last batch of each boot of each
        host."""
        seqs: dict[tuple[str, str], set[int]] = {}
        for batch in self.batches:
            seqs.setdefault((batch["host"], batch["boot"]), set()).add(batch["seq"])
        return [
            f"{host}:{boot}:{seq}"
            for (host, boot), seen in seqs.items()
            for seq in range(min(seen), max(seen))
            if seq not in seen
        ]


def _keeper(heard: list[Msg]) -> Any:
    async def keep(message: Msg) -> None:
        heard.append(message)

    return keep


async def _expected(error: Exception) -> None:
    del error
