"""The pipeline on a real JetStream: acknowledgements, refusals, resends, restarts."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import nats
import pytest
from nats.js.errors import NotFoundError

from deadlines import TIMEOUT_SEC, eventually
from netsonde.bus.connection import Connection, PayloadTooLargeError
from netsonde.bus.embedded import EmbeddedServer
from netsonde.config.sections import NatsSection
from netsonde.spool import pipeline as pipeline_module
from netsonde.spool.format import Message
from netsonde.spool.pipeline import WINDOW_MESSAGES, Pipeline
from netsonde.spool.spool import Spool
from netsonde.spool.streams import StreamSettings, complaints, flows_stream, stream_config
from servers import free_port

SUBJECT = "capture.stream.flows.alpha"


def message(number: int, *, size: int = 200) -> Message:
    head = f"NATS/1.0\r\nNats-Msg-Id: alpha:b:{number}\r\n\r\n".encode()
    return Message(SUBJECT.encode(), head, b"%06d" % number + b"x" * (size - 6), 2, 5)


class Alarms:
    def __init__(self) -> None:
        self.rung: list[tuple[str, str, dict[str, int]]] = []

    def __call__(self, name: str, words: str, data: dict[str, int]) -> None:
        self.rung.append((name, words, data))

    @property
    def names(self) -> set[str]:
        return {name for name, _, _ in self.rung}


@asynccontextmanager
async def running(
    url: str, directory: Path, *, mib: int = 8
) -> AsyncIterator[tuple[Pipeline, Alarms]]:
    connection = Connection(NatsSection(servers=[url]), host="alpha", purpose="data")
    spool = Spool(directory, bytes_max=mib << 20)
    spool.open()
    alarms = Alarms()
    pipeline = Pipeline(connection, spool, root="capture", settings=StreamSettings(), alarm=alarms)
    works = [asyncio.create_task(connection.run()), asyncio.create_task(pipeline.run())]
    try:
        yield pipeline, alarms
    finally:
        for work in works:
            work.cancel()
        await asyncio.gather(*works, return_exceptions=True)
        spool.close()


@asynccontextmanager
async def jetstream(url: str) -> AsyncIterator[Any]:
    client = await nats.connect(url)
    try:
        yield client.jetstream()
    finally:
        await client.close()


async def stored(url: str) -> list[int]:
    """Returns the numbers of the messages in the stream, in order."""
    async with jetstream(url) as js:
        count = (await js.stream_info("CAPTURE_FLOWS")).state.messages
        found = [await js.get_msg("CAPTURE_FLOWS", seq) for seq in range(1, count + 1)]
        return [int(one.data[:6]) for one in found]


async def config_of(js: Any, stream: str) -> Any:
    """Returns the configuration of a stream as soon as the agent has created it."""

    async def created() -> Any:
        try:
            return (await js.stream_info(stream)).config
        except NotFoundError:
            return None

    return await eventually(created, stream)


async def test_streams_are_created_as_documented(tmp_path: Path) -> None:
    async with (
        EmbeddedServer(jetstream=True) as server,
        running(server.url, tmp_path / "s") as (pipeline, alarms),
    ):
        assert (pipeline.messages_acked, pipeline.messages_resent) == (0, 0)
        await pipeline.append(message(1))
        assert await pipeline.settled(TIMEOUT_SEC)
        assert pipeline.messages_acked == 1
        async with jetstream(server.url) as js:
            for name, subject in (
                ("CAPTURE_FLOWS", "capture.stream.flows.>"),
                ("CAPTURE_EVENTS", "capture.stream.events.>"),
            ):
                config = await config_of(js, name)
                assert config.subjects == [subject]
                assert config.duplicate_window >= 600
                assert str(config.compression) in ("s2", "StoreCompression.S2")
                assert str(config.storage) in ("file", "StorageType.FILE")
        # Rejections from before the stream existed raise no alarm.
        assert "stream_misconfigured" not in alarms.names
        assert pipeline.last_refusal == ""


async def test_each_message_arrives_once(tmp_path: Path) -> None:
    async with (
        EmbeddedServer(jetstream=True) as server,
        running(server.url, tmp_path / "s") as (pipeline, _),
    ):
        for number in range(1000):
            await pipeline.append(message(number))
            assert pipeline.messages_in_flight <= WINDOW_MESSAGES
        assert await pipeline.settled(TIMEOUT_SEC)
        assert sorted(await stored(server.url)) == list(range(1000))
        assert pipeline.spool.records_unfinished == 0


async def test_killed_server_loses_and_duplicates_nothing(tmp_path: Path) -> None:
    server = EmbeddedServer(
        port=free_port(), jetstream=True, arguments=("-sd", str(tmp_path / "js"))
    )
    await server.start()
    try:
        async with running(server.url, tmp_path / "s") as (pipeline, _):
            for number in range(300):
                await pipeline.append(message(number, size=20_000))
                if number == 150:
                    assert server.process is not None
                    server.process.kill()
                    await server.stop()
                await asyncio.sleep(0)
            await server.start()
            assert await pipeline.settled(TIMEOUT_SEC)
            assert sorted(await stored(server.url)) == list(range(300))
    finally:
        await server.stop()


async def test_without_jetstream_the_spool_keeps_everything(tmp_path: Path) -> None:
    port = free_port()
    async with running(f"nats://127.0.0.1:{port}", tmp_path / "s") as (pipeline, alarms):
        async with EmbeddedServer(port=port):
            await pipeline.append(message(1))
            await eventually(lambda: "stream_refuses" in alarms.names, "the refusal")
            assert pipeline.spool.records_unfinished == 2
        async with EmbeddedServer(port=port, jetstream=True) as server:
            assert await pipeline.settled(TIMEOUT_SEC)
            assert await stored(server.url) == [1]


async def test_next_run_publishes_the_backlog(tmp_path: Path) -> None:
    port = free_port()
    url = f"nats://127.0.0.1:{port}"
    async with running(url, tmp_path / "s") as (pipeline, _):
        for number in range(5):
            await pipeline.append(message(number))
    async with (
        EmbeddedServer(port=port, jetstream=True),
        running(url, tmp_path / "s") as (pipeline, _),
    ):
        assert await pipeline.settled(TIMEOUT_SEC)
        assert sorted(await stored(url)) == list(range(5))


async def test_full_spool_evicts_the_oldest_and_raises_an_alarm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline_module, "FLOWING_SEC", 0.0)
    port = free_port()
    url = f"nats://127.0.0.1:{port}"
    async with running(url, tmp_path / "s", mib=1) as (pipeline, alarms):
        for number in range(40):
            await pipeline.append(message(number, size=100_000))
        lost = pipeline.spool.records_lost
        assert lost > 0
        assert alarms.rung[-1][0] == "records_lost"
        assert alarms.rung[-1][2]["records_lost"] == lost
        async with EmbeddedServer(port=port, jetstream=True):
            assert await pipeline.settled(TIMEOUT_SEC)
            numbers = sorted(await stored(url))
        assert numbers == list(range(40 - len(numbers), 40))
        assert 2 * len(numbers) + lost == 80


async def test_full_stream_is_retried(tmp_path: Path) -> None:
    async with EmbeddedServer(jetstream=True) as server, jetstream(server.url) as js:
        config = stream_config("CAPTURE_FLOWS", "capture.stream.flows.>", StreamSettings())
        config |= {"max_msgs": 3, "discard": "new"}
        await js._api_request("$JS.API.STREAM.CREATE.CAPTURE_FLOWS", json.dumps(config).encode())
        async with running(server.url, tmp_path / "s") as (pipeline, alarms):
            for number in range(6):
                await pipeline.append(message(number))
            await eventually(lambda: "stream_refuses" in alarms.names, "the refusal")
            assert pipeline.spool.records_lost == 0
            config["max_msgs"] = -1
            await js._api_request(
                "$JS.API.STREAM.UPDATE.CAPTURE_FLOWS", json.dumps(config).encode()
            )
            assert await pipeline.settled(TIMEOUT_SEC)
            assert sorted(await stored(server.url)) == list(range(6))
            assert pipeline.last_refusal == ""


async def test_oversized_message_blocks_no_other(tmp_path: Path) -> None:
    async with (
        EmbeddedServer(jetstream=True, config="max_payload: 8192\n") as server,
        running(server.url, tmp_path / "s") as (pipeline, alarms),
    ):
        await pipeline.append(message(1, size=9000))
        await pipeline.append(message(2))
        assert await pipeline.settled(TIMEOUT_SEC)
        assert await stored(server.url) == [2]
        assert pipeline.spool.records_lost == 2
        assert "records_lost" in alarms.names


def test_stream_with_weaker_settings_is_reported() -> None:
    subject = "capture.stream.flows.>"
    good = stream_config(flows_stream("capture"), subject, StreamSettings())
    assert complaints(good, subject) == []
    for change, words in (
        ({"duplicate_window": 120 * 10**9}, "duplicate_window"),
        ({"storage": "memory"}, "memory"),
        ({"subjects": ["other"]}, "does not bind"),
        ({"subjects": ["capture.stream.flows.web1"]}, "does not bind"),
        ({"subjects": ["capture.stream.flows.*.*"]}, "does not bind"),
        ({"retention": "interest"}, "keeps nothing"),
        ({"max_msgs_per_subject": 1}, "only 1 message of"),
        ({"no_ack": True}, "no_ack"),
    ):
        assert words in complaints(good | change, subject)[0]
    for wider in ("capture.stream.flows.*", "capture.stream.>", "*.stream.flows.>", ">"):
        assert complaints(good | {"subjects": ["other", wider]}, subject) == []
    for pattern, bound in (("*.*", True), (">", True), ("*", False), ("*.audit", False)):
        found = good | {"subjects": [f"capture.stream.events.{pattern}"]}
        assert (complaints(found, "capture.stream.events.>") == []) == bound
    assert flows_stream("acme.capture") == "ACME_CAPTURE_FLOWS"


async def test_message_acked_while_its_send_fails_counts_once(tmp_path: Path) -> None:
    """The server stores the message; then the client finds the same message too large."""
    async with (
        EmbeddedServer(jetstream=True) as server,
        running(server.url, tmp_path / "s") as (pipeline, alarms),
    ):
        await pipeline.append(message(0))
        assert await pipeline.settled(TIMEOUT_SEC)
        connection = pipeline._connection
        publish_ready = connection.publish_ready

        async def stores_and_fails(*arguments: Any, **options: Any) -> bool:
            assert await publish_ready(*arguments, **options)
            await eventually(lambda: pipeline.messages_in_flight == 0, "the ack")
            raise PayloadTooLargeError("too large")

        connection.publish_ready = stores_and_fails  # type: ignore[method-assign]
        await pipeline.append(message(1))
        assert await pipeline.settled(TIMEOUT_SEC)
        connection.publish_ready = publish_ready  # type: ignore[method-assign]
        await pipeline.append(message(2))  # the pipeline still runs
        assert await pipeline.settled(TIMEOUT_SEC)
        assert await stored(server.url) == [0, 1, 2]
        assert pipeline.messages_acked == 3
        assert pipeline.spool.records_lost == 0
        assert "records_lost" not in alarms.names
