"""`netsonde collect` and `flows --follow` next to publishers that lie, and to other collectors."""

from __future__ import annotations

import asyncio
import json
import subprocess
import time
from base64 import b64decode
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import nats
import pytest
from nats.aio.client import Client

from agents import COMMAND, client_flags
from bus import settled
from deadlines import eventually
from netsonde.collect.ledger import HOSTS_MAX
from roles import key_of, setup
from servers import NatsServer

STREAM = "CAPTURE_FLOWS"


pytestmark = pytest.mark.jetstream


@pytest.fixture
async def client(nats_server: NatsServer) -> AsyncIterator[Client]:
    client = await nats.connect(nats_server.url, pending_size=8 << 20)
    yield client
    await client.close()


@pytest.fixture
async def stream(client: Client) -> None:
    await client.jetstream().add_stream(name=STREAM, subjects=["capture.stream.flows.>"])


def batch(host: str, seq: int, *, boot: str = "b", records: Any = None) -> bytes:
    record = {"flow_id": f"{seq:016x}", "packets": 2, "bytes": 80,
              "first_seen": "2026-01-02T03:04:05.000000900Z",
              "last_seen": "2026-01-02T03:04:06.000001800Z"}  # fmt: skip
    found = {"host": host, "boot": boot, "seq": seq, "session_id": "s"}
    return json.dumps({**found, "records": [record] if records is None else records}).encode()


async def publish(client: Client, subject: str, data: bytes, **headers: str) -> None:
    named = {"Content-Type": "application/json", **headers}
    await client.publish(f"capture.stream.flows.{subject}", data, headers=named)


async def stored(client: Client, messages: int) -> None:
    async def arrived() -> bool:
        info = await client.jetstream().stream_info(STREAM)
        return info.state.messages >= messages

    await client.flush()
    await eventually(arrived, f"{messages} messages in the stream", within_sec=60)


def spawn(server: NatsServer, *words: str) -> subprocess.Popen[str]:
    command = [str(COMMAND), *words, *client_flags(server.url)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


async def collect(
    server: NatsServer, directory: Path, *words: str, idle_sec: str = "1"
) -> tuple[int, dict[str, Any], str]:
    """Returns the exit code, the summary and what was reported."""
    process = spawn(
        server, "collect", "-o", str(directory), "--json", "--until-idle", idle_sec, *words
    )
    _, reported = await asyncio.to_thread(process.communicate, timeout=120)
    summaries = [line for line in reported.splitlines() if line.startswith("{")]
    return process.returncode, json.loads(summaries[-1]) if summaries else {}, reported


def lines_of(directory: Path) -> list[dict[str, Any]]:
    paths = sorted(directory.glob("flows-*.jsonl"))
    return [json.loads(line) for path in paths for line in path.read_text().splitlines()]


# ---- messages that cannot be read or believed ------------------------------------------------


async def test_unbelievable_batches_are_dead_letters(
    client: Client, stream: None, nats_server: NatsServer, tmp_path: Path
) -> None:
    await publish(client, "alpha", batch("alpha", 1))
    await publish(client, "mallory", batch("alpha", 2), Evil="yes")  # another host's name
    await publish(client, "alpha", b"\xff{")
    own_host = [{"flow_id": "1", "packets": 1, "host": "beta"}]
    await publish(client, "alpha", batch("alpha", 2, records=own_host))
    await publish(client, "alpha", b"x" * 100, **{
        "Content-Type": "application/ipfix", "Host": "alpha", "Boot": "b", "Seq": "3",
        "Session-Id": "s", "Records": "7"})  # fmt: skip
    await publish(client, "alpha", batch("alpha", 2))
    await stored(client, 6)
    code, summary, _ = await collect(nats_server, tmp_path / "out")
    assert code == 1
    assert (summary["batches"], summary["dead_letters"], summary["gaps"]) == (2, 4, [])
    found = lines_of(tmp_path / "out")
    assert [line["host"] for line in found] == ["alpha", "alpha"]
    assert [line["duration_us"] for line in found] == [1_000_000, 1_000_000]

    text = (tmp_path / "out" / "dead-letters.jsonl").read_text()
    letters = [json.loads(line) for line in text.splitlines()]
    assert [letter["subject"].rsplit(".", 1)[1] for letter in letters] == [
        "mallory", "alpha", "alpha", "alpha",
    ]  # fmt: skip
    assert set(letters[0]) == {"subject", "reason", "time", "headers", "data"}
    assert "names host 'alpha'" in letters[0]["reason"]
    assert b64decode(letters[0]["data"]) == batch("alpha", 2)
    assert letters[0]["headers"]["Evil"] == "yes"
    assert b64decode(letters[1]["data"]) == b"\xff{"
    # Another run adds nothing, and still says that letters wait.
    code, summary, _ = await collect(nats_server, tmp_path / "out")
    assert (code, summary["dead_letters"]) == (1, 4)
    assert (tmp_path / "out" / "dead-letters.jsonl").read_text() == text
    # Until a person has moved them away.
    (tmp_path / "out" / "dead-letters.jsonl").rename(tmp_path / "settled")
    code, summary, _ = await collect(nats_server, tmp_path / "out")
    assert (code, summary["dead_letters"], summary["batches"]) == (0, 0, 2)


async def test_a_follower_refuses_another_hosts_batch(
    client: Client, nats_server: NatsServer
) -> None:
    process = spawn(nats_server, "flows", "--follow", "-n", "1", "--json")

    async def followed() -> bool:
        """NATS reports "no responders" at once."""
        inbox = client.new_inbox()
        refusals = await client.subscribe(inbox)
        empty = batch("alpha", time.time_ns(), records=[])
        await client.publish("capture.stream.flows.alpha", empty, reply=inbox)
        await settled(client)
        found = refusals.pending_msgs == 0
        await refusals.unsubscribe()
        return found

    await eventually(followed, "the follower to subscribe")
    await publish(client, "mallory", batch("alpha", 1, boot="c"))
    await publish(client, "beta", batch("beta", 1))
    await client.flush()
    out, errors = await asyncio.to_thread(process.communicate, timeout=60)
    assert [json.loads(line)["host"] for line in out.splitlines()] == ["beta"]
    assert "mallory: the batch names host 'alpha'" in errors
    assert process.returncode == 1


async def test_invented_boots_do_not_push_the_real_one_out(
    client: Client, stream: None, nats_server: NatsServer, tmp_path: Path
) -> None:
    for seq in range(1, 15):
        await publish(client, "alpha", batch("alpha", seq, boot="real"))
    for number in range(65):
        await publish(client, "alpha", batch("alpha", 1, boot=f"invented-{number}"))
    for seq in range(1, 15):
        await publish(client, "alpha", batch("alpha", seq, boot="real"))
    await stored(client, 14 + 65 + 14)
    _, summary, _ = await collect(nats_server, tmp_path / "out")
    assert (summary["batches"], summary["repeated"]) == (14 + 65, 14)


async def test_the_state_is_bounded_with_invented_hosts(
    client: Client, stream: None, nats_server: NatsServer, tmp_path: Path
) -> None:
    invented = 30_000
    for seq in (1, 2):
        await publish(client, "real", batch("real", seq))
    for number in range(invented):
        host = f"invented-{number:05d}"
        await publish(client, host, batch(host, 1 << 62))
        if number % 1000 == 0:
            await client.flush()
    for seq in (1, 2, 3):
        await publish(client, "real", batch("real", seq))
    await stored(client, invented + 5)
    code, summary, _ = await collect(nats_server, tmp_path / "out", idle_sec="2")
    assert (summary["batches"], summary["repeated"]) == (invented + 3, 2)
    assert summary["forgotten"]["hosts"] == invented + 1 - HOSTS_MAX
    assert code == 1
    assert (tmp_path / "out" / "state.json").stat().st_size < 1 << 20


# ---- the end ---------------------------------------------------------------------------------


async def test_until_idle_takes_what_an_earlier_reader_left_unacked(
    client: Client, stream: None, nats_server: NatsServer, tmp_path: Path
) -> None:
    """Also with a consumer whose window is full."""
    count = 300
    for seq in range(1, count + 1):
        await publish(client, "alpha", batch("alpha", seq))
    await stored(client, count)
    config = nats.js.api.ConsumerConfig(
        durable_name="netsonde-collect", ack_policy=nats.js.api.AckPolicy.EXPLICIT,
        ack_wait=4.0, max_ack_pending=100, filter_subjects=["capture.stream.flows.*"],
    )  # fmt: skip
    await client.jetstream().add_consumer(STREAM, config)
    reader = await client.jetstream().pull_subscribe_bind("netsonde-collect", STREAM)
    assert len(await reader.fetch(100, timeout=10)) == 100
    await reader.unsubscribe()
    code, summary, _ = await collect(
        nats_server, tmp_path / "out", "--ack-wait", "4", idle_sec="0.1"
    )
    assert (code, summary["batches"], summary["gaps"]) == (0, count, [])


async def test_until_idle_ends_without_a_stream(nats_server: NatsServer, tmp_path: Path) -> None:
    code, summary, reported = await collect(nats_server, tmp_path / "out")
    assert (code, summary["batches"]) == (1, 0)
    assert "stream CAPTURE_FLOWS does not exist" in reported
    assert "netsonde nats streams" in reported


async def test_until_idle_ends_without_jetstream(tmp_path: Path) -> None:
    server = NatsServer(tmp_path / "plain").start()
    try:
        code, _, reported = await collect(server, tmp_path / "out")
    finally:
        server.kill()
    assert code == 1
    assert "JetStream does not reply" in reported


# ---- other collectors and other users --------------------------------------------------------


async def test_a_second_collector_on_a_consumer_is_refused(
    client: Client, stream: None, nats_server: NatsServer, tmp_path: Path
) -> None:
    async def wait_pulled() -> bool:
        try:
            info = await client.jetstream().consumer_info(STREAM, "netsonde-collect")
        except nats.js.errors.NotFoundError:
            return False
        return bool(info.num_waiting)

    first = spawn(nats_server, "collect", "-o", str(tmp_path / "first"), "--json")
    await eventually(wait_pulled, "the first collector to pull")
    await publish(client, "alpha", batch("alpha", 1))
    code, _, reported = await collect(nats_server, tmp_path / "second")
    assert code == 1
    assert "another collector reads with the consumer netsonde-collect" in reported
    await publish(client, "alpha", batch("alpha", 2))

    def written() -> bool:
        state = tmp_path / "first" / "state.json"
        return state.exists() and json.loads(state.read_text())["totals"]["batches"] == 2

    await eventually(written, "the first collector to have both")
    first.terminate()
    await asyncio.to_thread(first.communicate, timeout=60)
    assert first.returncode == 0
    assert lines_of(tmp_path / "second") == []


async def test_two_busy_collectors_collect_nothing_twice(
    client: Client, stream: None, nats_server: NatsServer, tmp_path: Path
) -> None:
    """Neither waits for messages, so only the numbers of the deliveries show the other one."""
    count = 30_000
    for seq in range(1, count + 1):
        await publish(client, "alpha", batch("alpha", seq))
    await stored(client, count)
    both = await asyncio.gather(
        *(collect(nats_server, tmp_path / name, "--ack-wait", "3") for name in ("one", "two"))
    )
    found = [line["flow_id"] for name in ("one", "two") for line in lines_of(tmp_path / name)]
    assert len(found) == len(set(found))
    assert 1 in [code for code, _, _ in both]
    assert any("another collector" in reported for _, _, reported in both)


def test_a_refused_consumer_ends_the_command_at_once(tmp_path: Path) -> None:
    config = setup(tmp_path, "--jetstream", str(tmp_path / "js")).read_text()
    server = NatsServer(tmp_path / "nats", config=config).start()
    try:
        for words, subject in (
            (("--durable", "other"), "$JS.API.CONSUMER.INFO.CAPTURE_FLOWS.other"),
            (("--live", "--root", "elsewhere"), "elsewhere.stream.flows.*"),
        ):
            begin = time.monotonic()
            done = subprocess.run(
                [str(COMMAND), "collect", *words, "-o", str(tmp_path / "out"),
                 "--nats", server.url, "--nkey", str(key_of(tmp_path, "col"))],
                capture_output=True, text=True, timeout=60,
            )  # fmt: skip
            assert done.returncode == 1
            assert f"NATS refuses {subject} to this user" in done.stderr
            assert "collector" in done.stderr
            assert time.monotonic() - begin < 30
    finally:
        server.kill()
