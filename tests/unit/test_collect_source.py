"""Pulling from a real JetStream: the backlog first, in order, and resends until the ack."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import nats
import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg

from deadlines import TIMEOUT_SEC, eventually
from netsonde.bus.embedded import EmbeddedServer
from netsonde.collect import source as source_module
from netsonde.collect.source import (
    ERRORS,
    PULL_MESSAGES,
    DurableSource,
    OtherReaderError,
    delivery_number,
)

STREAM, SUBJECT = "CAPTURE_FLOWS", "capture.stream.flows.alpha"


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    async with EmbeddedServer(jetstream=True) as server:
        client = await nats.connect(server.url)
        await client.jetstream().add_stream(name=STREAM, subjects=["capture.stream.flows.>"])
        yield client
        await client.close()


def source_on(client: Client, *, ack_wait_sec: float = 30.0) -> DurableSource:
    return DurableSource(
        client, stream=STREAM, subjects=[SUBJECT], durable="d", ack_wait_sec=ack_wait_sec
    )


async def publish(client: Client, first: int, last: int) -> None:
    js = client.jetstream()
    for number in range(first, last + 1):
        # A record's Status header must not look like the end of a pull request.
        await js.publish(SUBJECT, b"%d" % number, headers={"Status": "404"})


def numbers(messages: list[Msg]) -> list[int]:
    return [int(message.data) for message in messages]


async def next_numbers(source: DurableSource) -> list[int]:
    """Fetches until messages arrive: a fetch returns none if the server pauses."""
    return numbers(await eventually(source.fetch, "messages"))


async def unacknowledged(client: Client) -> int:
    info = await client.jetstream().consumer_info(STREAM, "d")
    return int(info.num_ack_pending or 0)


async def test_fetch_returns_the_backlog_once_and_in_order(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = 2 * PULL_MESSAGES + 5
    await publish(client, 1, count)
    source = source_on(client)
    await source.open()
    with monkeypatch.context() as patched:
        # The server ends each request. By default a fetch ends early if the server pauses.
        patched.setattr(source_module, "PULL_WAIT_SEC", TIMEOUT_SEC)
        fetches = [await source.fetch() for _ in range(3)]
    assert [len(one) for one in fetches] == [PULL_MESSAGES, PULL_MESSAGES, 5]
    found = [message for one in fetches for message in one]
    assert numbers(found) == list(range(1, count + 1))
    await source.acknowledge(found)
    assert await source.fetch() == []

    async def all_acknowledged() -> bool:
        return await unacknowledged(client) == 0

    await eventually(all_acknowledged, "the acks to be counted")


async def test_fetch_returns_messages_published_while_it_waits(client: Client) -> None:
    source = source_on(client)
    await source.open()
    found: list[Msg] = []

    async def collect() -> None:
        while len(found) < 3:
            found.extend(await source.fetch())

    collecting = asyncio.create_task(collect())
    await publish(client, 1, 3)
    async with asyncio.timeout(60):
        await collecting
    assert numbers(found) == [1, 2, 3]


async def test_unacknowledged_messages_are_redelivered(client: Client) -> None:
    await publish(client, 1, 3)
    source = source_on(client, ack_wait_sec=0.2)
    await source.open()
    first = await eventually(source.fetch, "messages")
    assert numbers(first) == [1, 2, 3]
    await source.acknowledge(first[1:2])

    async def acknowledged() -> bool:
        return await unacknowledged(client) == 2

    await eventually(acknowledged, "the ack to be counted")
    again: list[int] = []

    async def redelivered() -> bool:
        again.extend(numbers(await source.fetch()))
        return {1, 3} <= set(again)

    await eventually(redelivered, "both that were not acknowledged")
    assert 2 not in again


async def test_deleted_consumer_raises(client: Client) -> None:
    source = source_on(client)
    await source.open()
    await client.jetstream().delete_consumer(STREAM, "d")

    async def refused() -> bool:
        try:
            return bool(await source.fetch())
        except ERRORS:
            return True

    await eventually(refused, "an error")
    await source.open()
    await publish(client, 1, 1)
    await eventually(lambda: fetched(source), "a message of the new consumer")


@pytest.mark.parametrize(
    ("reply", "number"),
    [
        ("$JS.ACK.S.d.1.9.7.1700000000000000000.0", 7),
        ("$JS.ACK.hub.hash.S.d.1.9.7.1700000000000000000.0", 7),
        ("$JS.ACK.hub.hash.S.d.1.9.7.1700000000000000000.0.token", 7),
        ("$JS.ACK.S.d.1.9.x.1700000000000000000.0", None),
        ("_INBOX.a.b", None),
        ("", None),
    ],
)
def test_the_ack_subject_has_the_number_of_the_delivery(reply: str, number: int | None) -> None:
    assert delivery_number(Msg(Client(), SUBJECT, reply=reply)) == number


# ---- another reader of the consumer ---------------------------------------------------------


async def taken_by_another(client: Client, number: int) -> None:
    async def nobody_waits() -> bool:
        return not (await client.jetstream().consumer_info(STREAM, "d")).num_waiting

    await eventually(nobody_waits, "the end of the source's request")
    await client.jetstream().publish(SUBJECT, b"%d" % number)
    other = await client.jetstream().pull_subscribe_bind("d", STREAM)
    (message,) = await other.fetch(1)
    await message.ack()
    await client.flush()


async def test_the_newer_reader_returns_what_it_read_and_ends(client: Client) -> None:
    source = source_on(client)
    await source.open()
    await publish(client, 0, 0)
    assert await next_numbers(source) == [0]
    await taken_by_another(client, 1)
    await publish(client, 2, 2)
    with pytest.raises(OtherReaderError, match="Stop it, or use --durable"):
        await next_numbers(source)
    assert await next_numbers(source) == [2]  # was returned to the stream


async def test_the_older_reader_reports_the_other_and_continues(client: Client) -> None:
    reported: list[str] = []
    source = DurableSource(
        client, stream=STREAM, subjects=[SUBJECT], durable="d", notify=reported.append
    )
    await source.open()
    for number in range(2):
        await publish(client, number, number)
        assert await next_numbers(source) == [number]
    await taken_by_another(client, 2)
    await publish(client, 3, 3)
    assert await next_numbers(source) == [3]
    assert len(reported) == 1
    assert reported[0].endswith("This collector continues.")


async def fetched(source: DurableSource) -> bool:
    return numbers(await source.fetch()) == [1]
