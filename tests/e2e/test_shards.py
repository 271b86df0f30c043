"""`[flows] shards`: agents, streams and collectors that share the shards; hosts that join late."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import subprocess
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import nats
import pytest
from nats.aio.client import Client

from agents import COMMAND, Fleet, client_flags
from bus import Bus
from deadlines import TIMEOUT_SEC, eventually
from followers import is_followed
from netsonde.spool.streams import flows_stream
from netsonde.wire.subjects import flows_subject, shard_of
from packets import SECOND_NS, UDP, at, ethernet, ipv4, udp, write_pcap
from replay import finished
from roles import ask, both_answer, entered, file_read, key_of, records_stored, setup
from servers import NatsServer
from stored import drained

SHARDS = 4
HOSTS = [f"host{number}" for number in range(24)]


pytestmark = pytest.mark.jetstream


@pytest.fixture
async def client(nats_server: NatsServer) -> AsyncIterator[Client]:
    client = await nats.connect(nats_server.url, pending_size=8 << 20)
    yield client
    await client.close()


def run(server: NatsServer, *words: str) -> subprocess.CompletedProcess[str]:
    command = [str(COMMAND), *words, *client_flags(server.url)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


class Collector:
    """`netsonde collect` as a process."""

    def __init__(self, server: NatsServer, directory: Path, *words: str) -> None:
        self.directory = directory
        command = [str(COMMAND), "collect", "-o", str(directory), "--json", *words]
        self.process = subprocess.Popen(
            [*command, *client_flags(server.url)], stderr=subprocess.PIPE, text=True
        )

    async def end(self, number: int | None = signal.SIGTERM) -> tuple[int, dict[str, Any]]:
        """Returns the exit code and the summary."""
        if number is not None:
            self.process.send_signal(number)
        _, text = await asyncio.to_thread(self.process.communicate, timeout=TIMEOUT_SEC)
        summaries = [line for line in text.splitlines() if line.startswith("{")]
        return self.process.returncode, json.loads(summaries[-1]) if summaries else {}


def follow(server: NatsServer, records: int) -> subprocess.Popen[str]:
    words = ("flows", "--follow", "--json", "-n", str(records))
    command = [str(COMMAND), *words, *client_flags(server.url)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def flow_ids(*directories: Path) -> Counter[str]:
    """Returns how often each record is in the files, also in those that still grow."""
    paths = {path for one in directories for path in one.rglob("flows-*.jsonl*")}
    return Counter(json.loads(line)["flow_id"] for line in whole_lines(paths))


def whole_lines(paths: Iterable[Path]) -> list[str]:
    """Returns the lines of files that a collector may be writing or renaming."""
    lines: list[str] = []
    for path in paths:
        with contextlib.suppress(FileNotFoundError):  # it has another name now
            lines += path.read_bytes().rpartition(b"\n")[0].decode().splitlines()
    return lines


def one_packet(directory: Path) -> Path:
    frame = ethernet(ipv4(udp(b"", 1000, 53), UDP, "10.0.0.1", "10.1.0.1"))
    return write_pcap(directory / "one.pcap", [at(SECOND_NS, frame)])


def batch(host: str, seq: int) -> bytes:
    record = {"flow_id": f"{host}-{seq}", "packets": 2, "bytes": 80}
    body = {"host": host, "boot": "b", "seq": seq, "session_id": "s", "records": [record]}
    return json.dumps(body).encode()


async def publish(client: Client, first: int, last: int) -> Counter[str]:
    """Publishes batches of each host to its shard. Returns the records."""
    for seq in range(first, last + 1):
        for host in HOSTS:
            subject = flows_subject("capture", host, shard_of(host, SHARDS))
            headers = {"Content-Type": "application/json"}
            await client.publish(subject, batch(host, seq), headers=headers)
    await client.flush()
    return Counter(f"{host}-{seq}" for host in HOSTS for seq in range(first, last + 1))


def streams(server: NatsServer) -> None:
    words = ("nats", "streams", "--host", "alpha", "--shards", str(SHARDS), "--collector", "all")
    done = run(server, *words)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "5 streams, 1 bucket, 4 consumers\n"


async def test_agents_publish_to_their_shard(
    fleet: Fleet, nats_server: NatsServer, bus: Bus, client: Client, tmp_path: Path
) -> None:
    frames = [
        at(SECOND_NS, ethernet(ipv4(udp(b"", port, 53), UDP, "10.0.0.1", "10.1.0.1")))
        for port in range(1000, 1050)
    ]
    capture = write_pcap(tmp_path / "one.pcap", frames)
    follower = follow(nats_server, 100)
    probe = flows_subject("capture", "probe", 0)
    await eventually(lambda: is_followed(client, "probe", probe), "the follower to subscribe")
    hosts = ["alpha", "beta"]
    assert shard_of("alpha", SHARDS) != shard_of("beta", SHARDS)
    for host in hosts:
        fleet.start(host, flows={"jetstream": True, "shards": SHARDS,
                                 "spool_dir": str(tmp_path / host / "spool")})  # fmt: skip
    for host in hosts:
        body = {"interface": str(capture), "backend": "file", "metering": {"enable": True}}
        await bus.ok("start", body, host=host)
    for host in hosts:
        await finished(bus, host)
    stopped = {host: await bus.ok("stop", host=host, timeout_sec=30) for host in hosts}
    for host in hosts:
        await drained(bus, host)
        reply, shard = stopped[host], shard_of(host, SHARDS)
        assert reply["packets_captured"] == 50 == reply["packets_recorded"]
        last = await client.jetstream().get_last_msg(
            flows_stream("capture", shard), flows_subject("capture", host, shard)
        )
        assert json.loads(last.data or b"")["host"] == host
    named = ("--host", "alpha", "--host", "beta", "--until-idle", "2")
    collector = Collector(nats_server, tmp_path / "out", "--shards", str(SHARDS), *named)
    code, summary = await collector.end(None)
    assert (code, summary["records"], summary["packets"]) == (0, 100, 100)
    out, _ = await asyncio.to_thread(follower.communicate, timeout=TIMEOUT_SEC)
    assert len(out.splitlines()) == 100


async def test_two_collectors_share_the_shards(
    nats_server: NatsServer, client: Client, tmp_path: Path
) -> None:
    streams(nats_server)
    words = ("--shards", str(SHARDS), "--durable", "all", "--max-shards", "2")
    both = [Collector(nats_server, tmp_path / name, *words) for name in ("one", "two")]
    sent = await publish(client, 1, 50)
    await eventually(
        lambda: sum(flow_ids(tmp_path).values()) >= len(sent), "every record in a file"
    )
    ends = [await one.end() for one in both]
    assert [code for code, _ in ends] == [0, 0]
    assert [summary["repeated"] for _, summary in ends] == [0, 0]
    assert flow_ids(tmp_path / "one", tmp_path / "two") == sent
    for name in ("one", "two"):
        assert len(list((tmp_path / name).glob("CAPTURE_FLOWS_?/flows-*.jsonl"))) == 2


async def test_another_collector_continues_after_a_kill(
    nats_server: NatsServer, client: Client, tmp_path: Path
) -> None:
    """Both use one directory. The killed one may have written batches that it did not ack."""
    streams(nats_server)
    words = ("--shards", str(SHARDS), "--durable", "all")
    first = Collector(nats_server, tmp_path / "out", *words)
    sent = await publish(client, 1, 50)
    await eventually(lambda: bool(flow_ids(tmp_path / "out")), "the first records")
    second = Collector(nats_server, tmp_path / "out", *words)
    sent += await publish(client, 51, 100)
    await first.end(signal.SIGKILL)
    sent += await publish(client, 101, 120)
    await eventually(
        lambda: flow_ids(tmp_path / "out").keys() >= sent.keys(),
        "the second collector to continue",
        within_sec=120,
    )
    code, summary = await second.end()
    assert (code, summary["gaps"]) == (0, [])
    assert flow_ids(tmp_path / "out") == sent


async def test_group_has_hosts_that_join_later(
    fleet: Fleet, nats_server: NatsServer, bus: Bus, tmp_path: Path
) -> None:
    capture = one_packet(tmp_path)

    async def meter(host: str, site: str) -> None:
        fleet.start(host, labels={"site": site}, flows={
            "jetstream": True, "spool_dir": str(tmp_path / host / "spool")})  # fmt: skip

        async def listed() -> bool:
            done = await asyncio.to_thread(run, nats_server, "ps", "--json")
            rows = [json.loads(line) for line in done.stdout.splitlines()]
            return any(row["host"] == host and "inventory" in row for row in rows)

        await eventually(listed, f"{host} in the inventory")
        body = {"interface": str(capture), "backend": "file", "metering": {"enable": True}}
        await bus.ok("start", body, host=host)

        async def finished() -> bool:  # a stop would end the reading of the file
            return bool((await bus.ok("status", host=host)).get("finished"))

        await eventually(finished, "the end of the file")
        await bus.ok("stop", host=host, timeout_sec=30)

    def hosts() -> set[str]:
        paths = (tmp_path / "out").glob("flows-*.jsonl*")
        return {json.loads(line)["host"] for line in whole_lines(paths)}

    await meter("early", "ams")
    collector = Collector(nats_server, tmp_path / "out", "--select", "site = ams")
    await eventually(lambda: hosts() == {"early"}, "the early host")
    await meter("other", "fra")
    await meter("late", "ams")
    await eventually(lambda: "late" in hosts(), "the late host")
    code, summary = await collector.end()
    assert hosts() == {"early", "late"}
    assert (code, summary["records"], summary["gaps"]) == (0, 2, [])


async def test_separate_keys_may_use_their_shards(tmp_path: Path, fleet: Fleet) -> None:
    """The keys of `nats setup --shards`: an agent's own shard, and a collector's leases."""
    config = setup(tmp_path, "--jetstream", str(tmp_path / "js2"), "--shards", str(SHARDS))
    server = NatsServer(tmp_path / "nats2", config=config.read_text()).start()
    try:
        key = ("--nkey", str(key_of(tmp_path, "streams")))
        words = ("nats", "streams", "--host", "alpha", "--host", "beta", "--collector", "col")
        made = await asyncio.to_thread(run, server, *words, "--shards", str(SHARDS), *key)
        assert (made.returncode, made.stderr) == (0, "")
        for host in ("alpha", "beta"):
            nats_section = {"servers": [server.url], "nkey": key_of(tmp_path, host)}
            flows = {"jetstream": True, "shards": SHARDS, "spool_dir": tmp_path / host / "spool"}
            fleet.agent(host, nats=nats_section, flows=flows).spawn()
        path = one_packet(tmp_path)
        body = {"interface": str(path), "backend": "file", "metering": {"enable": True}}
        async with entered(server, tmp_path, "ctl") as controller:
            await both_answer(controller)
            for host in ("alpha", "beta"):
                assert (await ask(controller, f"capture.host.{host}.start", body)).code == 200
                await eventually(partial(file_read, controller, host), "the end of the file")
                assert (await ask(controller, f"capture.host.{host}.stop")).code == 200
                await eventually(partial(records_stored, controller, host), "the record stored")
        key = ("--nkey", str(key_of(tmp_path, "col")))
        sharing = ("--shards", str(SHARDS), "--durable", "col", "--until-idle", "2")
        collector = Collector(server, tmp_path / "out", *sharing, *key)
        code, summary = await collector.end(None)
        assert (code, summary["records"], summary["gaps"]) == (0, 2, [])
    finally:
        for agent in fleet.agents:
            agent.kill()
        server.kill()
