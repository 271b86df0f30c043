"""The NATS server dies, freezes, is unreachable or full; a cluster loses its leader and then its
majority; credentials expire. Every record arrives exactly once."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import nats
import pytest
from stage import LIVE_FLOWS, METERING, Stage, live_frames

import netns
from deadlines import eventually_now
from identities import USER, Identity, Operation, creds
from servers import NatsServer, free_port

SetStage = Callable[..., Stage]


def test_server_killed_and_restarted_loses_no_record(set_stage: SetStage) -> None:
    stage = set_stage()
    stage.agent()
    stage.collect()
    stage.start()
    for _ in range(2):
        time.sleep(1.2)
        stage.servers[0].kill()
        time.sleep(0.5)
        stage.servers[0].start()
    stage.settle("nats-server SIGKILL and restart, twice", stage.finish())


FROZEN_SEC = 60


def test_server_frozen_for_a_minute_loses_no_record(
    cluster: list[NatsServer], set_stage: SetStage
) -> None:
    """A single server: delivery waits for the thaw. In a cluster of three, agent and collector
    switch servers and finish before the thaw. Both cases run at the same time to save a minute."""
    alone, many = set_stage(name="alone"), set_stage(*cluster, name="many")
    agent = alone.agent()
    many.agent(flows={"stream_replicas": 3})
    alone.collect()
    many.collect()
    for stage in (alone, many):
        stage.start()
    time.sleep(1.5)
    for stage in (alone, many):
        stage.servers[0].freeze()  # both of this agent's connections use it
    frozen = time.monotonic()
    many.settle("nats-server SIGSTOP, two more in its cluster", many.finish())
    eventually_now(lambda: "does not answer, dropping" in agent.log, "the freeze to be reported")
    time.sleep(max(0.0, frozen + FROZEN_SEC - time.monotonic()))
    for stage in (alone, many):
        stage.servers[0].thaw()
    alone.settle("nats-server SIGSTOP for a minute", alone.finish())


# ---- partition, with live traffic --------------------------------------------------------


@pytest.fixture
def far_server(wire: netns.Wire, tmp_path: Path) -> Iterator[NatsServer]:
    """A server in the peer namespace, at the far end of the wire."""
    wire.address()
    wire.connect("sonde1", "peer1")
    server = NatsServer(
        tmp_path / "nats",
        config=f'jetstream {{ store_dir: "{tmp_path}/nats/js" }}\n',
        address=netns.PEER_ADDRESS,
        prefix=wire.peer_prefix,
    )
    yield server.start()
    server.kill()


def test_partition_while_capturing_loses_no_record(
    wire: netns.Wire, far_server: NatsServer, set_stage: SetStage
) -> None:
    stage = set_stage(far_server)
    stage.agent()
    stage.collect()
    stage.ask("start", {"interface": "sonde1", "backend": "af_packet", "metering": METERING})
    sender = wire.sender("peer1")
    frames = live_frames()
    third = LIVE_FLOWS // 3
    sender.send(frames[:third])
    wire.peer_ip("link", "set", "peer0", "down")
    sender.send(frames[third : 2 * third])
    time.sleep(8)
    wire.peer_ip("link", "set", "peer0", "up")
    sender.send(frames[2 * third :])
    sender.close()
    stage.until(lambda status: status["packets_captured"] >= LIVE_FLOWS, "every packet")
    stopped = stage.stop()
    assert stopped["packets_captured"] == LIVE_FLOWS
    stage.settle("partition of 8 s, live capture", stopped)


# ---- the server's disk is full -----------------------------------------------------------


def test_full_server_disk_loses_no_record(tmpfs: Path, set_stage: SetStage) -> None:
    server = NatsServer(
        tmpfs.parent / "nats", config=f'jetstream {{ store_dir: "{tmpfs}", max_file: 1GB }}\n'
    ).start()
    stage = set_stage(server)
    agent = stage.agent(flows={"fields": []})  # uncompressed records fill the disk sooner
    stage.start()
    stage.collect()
    log = server.directory / "nats-server.log"
    eventually_now(lambda: "no space left" in log.read_text(), "the disk to be full")
    eventually_now(lambda: "alarm: stream_" in agent.log, "the alarm")
    subprocess.run(["mount", "-o", "remount,size=1g", str(tmpfs)], check=True)
    server.kill()
    server.start()
    stage.settle("server's disk full (8 MiB), then not", stage.finish())


@pytest.fixture
def tmpfs(tmp_path: Path) -> Iterator[Path]:
    directory = tmp_path / "small"
    directory.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(directory)], check=True)
    yield directory
    subprocess.run(["umount", "-l", str(directory)], check=True)


# ---- a cluster ---------------------------------------------------------------------------


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[list[NatsServer]]:
    ports = [free_port() for _ in range(3)]
    routes = ", ".join(f'"nats://127.0.0.1:{port}"' for port in ports)
    servers = []
    for number, port in enumerate(ports):
        directory = tmp_path / f"nats{number}"
        config = (
            f'server_name: "n{number}"\njetstream {{ store_dir: "{directory}/js" }}\n'
            f'cluster {{ name: "c", listen: "127.0.0.1:{port}", routes: [{routes}] }}\n'
        )
        servers.append(NatsServer(directory, config=config).start())
    yield servers
    for server in servers:
        server.kill()


def leader(servers: list[NatsServer]) -> str | None:
    """Returns the server name of the stream's leader."""

    async def ask() -> str | None:
        client = await nats.connect([server.url for server in servers], connect_timeout=1)
        try:
            reply = await client.request("$JS.API.STREAM.INFO.CAPTURE_FLOWS", b"", timeout=2)
            found = json.loads(reply.data).get("cluster", {}).get("leader")
            return str(found) if found else None
        except (nats.errors.Error, TimeoutError):
            return None
        finally:
            await client.close()

    return asyncio.run(ask())


def test_cluster_without_leader_then_without_majority_loses_no_record(
    cluster: list[NatsServer], set_stage: SetStage
) -> None:
    stage = set_stage(*cluster)
    stage.agent(flows={"stream_replicas": 3})
    stage.collect()
    name = eventually_now(lambda: leader(cluster), "the stream and its leader")
    stage.start()
    time.sleep(1)
    first = cluster[int(name[1:])]
    first.kill()
    time.sleep(2)
    second = next(server for server in cluster if server is not first)
    second.kill()
    time.sleep(2)
    second.start()
    first.start()
    stage.settle("cluster of 3 loses its leader, then 2 of 3", stage.finish())


# ---- credentials -------------------------------------------------------------------------


def test_expired_credentials_lose_no_record(tmp_path: Path, set_stage: SetStage) -> None:
    operation = Operation(jetstream=True)
    server = NatsServer(
        tmp_path / "nats",
        config=operation.server_config() + f'jetstream {{ store_dir: "{tmp_path}/nats/js" }}\n',
    ).start()
    stage = set_stage(server)
    user = Identity(USER)
    lasting = creds(tmp_path, operation.user_jwt(user), user.seed).rename(tmp_path / "own.creds")
    path = creds(tmp_path, operation.user_jwt(user, lives_sec=10), user.seed)
    stage.creds = lasting
    agent = stage.agent(nats={"creds": path})
    stage.collect("--creds", str(lasting))
    stage.start()
    eventually_now(lambda: re.search("Expired|Violation", agent.log), "the expiry")
    time.sleep(1)
    creds(tmp_path, operation.user_jwt(user), user.seed)
    stage.settle("credentials expire and are renewed", stage.finish())
