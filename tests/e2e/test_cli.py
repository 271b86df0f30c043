"""The command line as a process, against a real server and real agents."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nats
import pytest

from agents import COMMAND, Agent, Fleet, client_flags
from bus import settled
from deadlines import TIMEOUT_SEC, eventually_now
from packets import Packet, at, ethernet, ipv4, udp
from servers import NatsServer, free_port

SECOND_NS = 1_000_000_000
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run(nats_server: NatsServer) -> Run:
    """`run("status", "--json")` runs the command against the test's server."""

    def run_command(*words: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [COMMAND, *words, *client_flags(nats_server.url)],
            capture_output=True,
            text=True,
            timeout=TIMEOUT_SEC,
        )
        assert "Traceback" not in done.stderr, done.stderr
        return done

    return run_command


@pytest.fixture
def pair(fleet: Fleet) -> list[Agent]:
    """Two agents at different sites."""
    return [
        fleet.start("alpha", labels={"site": "ams"}, metrics={"interval_sec": 0.2}),
        fleet.start("beta", labels={"site": "lon"}, metrics={"interval_sec": 0.2}),
    ]


def conversation(count: int) -> list[Packet]:
    """Returns `count` flows of one datagram each, 10 ms apart."""
    return [
        at(
            1_700_000_000 * SECOND_NS + number * SECOND_NS // 100,
            ethernet(ipv4(udp(b"netsonde", 1000 + number, 53), 17, "198.18.0.1", "198.18.0.2")),
        )
        for number in range(count)
    ]


def objects(done: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in done.stdout.splitlines()]


def wait_for_end_of_file(run: Run) -> None:
    """Returns when each host has read its file. A stop would end the reading."""

    def read() -> bool:
        return all(one.get("finished") for one in objects(run("status", "--json")))

    eventually_now(read, "the file to be read")


def rows(done: subprocess.CompletedProcess[str]) -> list[list[str]]:
    """Returns the cells of a piped table without its header."""
    return [line.split() for line in done.stdout.splitlines()[1:]]


# ---- targets -------------------------------------------------------------------------------


def test_ps_lists_agents_with_their_labels(run: Run, pair: list[Agent]) -> None:
    done = run("ps")
    assert done.returncode == 0, done.stderr
    assert [row[0] for row in rows(done)] == ["alpha", "beta"]
    assert "site=ams" in rows(done)[0]
    assert [info["id"] for info in objects(run("ps", "--json"))] == ["alpha", "beta"]
    assert [info["id"] for info in objects(run("ps", "--json", "--group", "site=lon"))] == ["beta"]
    missing = run("ps", "--host", "alpha", "--host", "gamma")
    assert missing.returncode == 1
    assert [row[0] for row in rows(missing)] == ["alpha"]
    assert missing.stderr.startswith("gamma: ")


def test_ps_accepts_the_rollout_flags(run: Run, pair: list[Agent], tmp_path: Path) -> None:
    for flags, hosts in (
        (["--limit", "50%"], ["alpha"]),
        (["--batch", "1", "--max-failures", "0"], ["alpha", "beta"]),
    ):
        done = run("ps", "--json", *flags)
        assert (done.returncode, [info["id"] for info in objects(done)]) == (0, hosts), flags
    (tmp_path / "nodes").write_text("gamma\nalpha\n")
    done = run("ps", "--nodes", str(tmp_path / "nodes"), "--max-failures", "0")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.splitlines() == [
        "alpha: not asked",
        "gamma: not connected",
        "2 asked: 1 not connected, 1 not asked",
    ]


@pytest.mark.parametrize(
    ("flags", "hosts"),
    [
        ([], ["alpha", "beta"]),
        (["--host", "beta"], ["beta"]),
        (["--host", "beta", "--host", "alpha"], ["alpha", "beta"]),
        (["--group", "site=ams"], ["alpha"]),
        (["--limit", "1"], ["alpha"]),
        (["--batch", "1"], ["alpha", "beta"]),
    ],
    ids=["all", "host", "two hosts", "group", "limit", "batch"],
)
def test_each_target_flag_reaches_its_hosts(
    run: Run, pair: list[Agent], flags: list[str], hosts: list[str]
) -> None:
    done = run("status", "--json", *flags)
    assert done.returncode == 0, done.stderr
    assert [body["host"] for body in objects(done)] == hosts
    assert all(body["running"] is False for body in objects(done))


def test_host_in_nodes_file_that_is_not_connected_is_reported(
    run: Run, pair: list[Agent], tmp_path: Path
) -> None:
    nodes = tmp_path / "nodes"
    nodes.write_text("alpha\ngamma  # long gone\n")
    began = time.monotonic()
    done = run("status", "--nodes", str(nodes), "--timeout", "20")
    assert time.monotonic() - began < 10
    assert done.returncode == 1
    assert [row[0] for row in rows(done)] == ["alpha"]
    not_connected, summary = done.stderr.splitlines()
    assert not_connected == "gamma: not connected"
    assert summary.startswith("2 asked: 1 ok, 1 not connected; request ")


def test_no_reply_exits_with_1_and_a_message(run: Run) -> None:
    for flags in ([], ["--group", "site=ams"]):
        done = run("status", *flags)
        assert (done.returncode, done.stdout) == (1, "")
        assert "no agent replied" in done.stderr


def test_nats_url_is_used_and_unreachable_server_exits_with_69(
    nats_server: NatsServer, alpha: Agent
) -> None:
    done = subprocess.run(
        [COMMAND, "status", "--json", "--config", os.devnull],
        capture_output=True,
        text=True,
        env={**os.environ, "NATS_URL": nats_server.url},
    )
    assert (done.returncode, json.loads(done.stdout)["host"]) == (0, "alpha")
    began = time.monotonic()
    done = subprocess.run(
        [COMMAND, "status", *client_flags(f"nats://127.0.0.1:{free_port()}")],
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (69, "")
    assert done.stderr.count("\n") == 1
    assert time.monotonic() - began < 8


# ---- a session -----------------------------------------------------------------------------


def test_session_from_start_to_stop(
    run: Run, alpha: Agent, capture_file: Callable[[list[Packet]], Path]
) -> None:
    path = capture_file(conversation(7))
    start = run("start", "-i", str(path), "--backend", "file", "--buffer-mb", "8", "--json")
    assert start.returncode == 0, start.stderr
    (started,) = objects(start)
    assert (started["status"], started["backend"], started["buffer_size_mb"]) == (
        "started",
        "file",
        8,
    )
    again = run("start", "-i", str(path), "--backend", "file")
    assert (again.returncode, again.stdout) == (1, "")
    assert again.stderr.startswith("alpha: 409 session_active: ")
    assert objects(run("start", "-i", str(path), "-b", "file", "--json"))[0]["code"] == 409

    wait_for_end_of_file(run)
    assert rows(run("status"))[0][:5] == ["alpha", "finished", str(path), "file", "7"]
    assert len(rows(run("flows"))) == 7
    assert len(rows(run("flows", "-n", "3"))) == 3
    (flow,) = objects(run("flows", "--port", "1004", "--json"))[0]["flows"]
    assert (flow["source_port"], flow["packets"]) == (1004, 1)
    assert objects(run("metrics", "--json"))[0]["packets_captured"] == 7
    assert run("metrics").returncode == 0
    top = run("top", "-n", "2", "--interval", "0.1", "--flows", "3")
    assert top.returncode == 0, top.stderr
    tables = [table.splitlines() for table in top.stdout.strip().split("\n\n")]
    assert [len(table) for table in tables] == [2, 4, 2, 4]
    assert tables[0][1].startswith("alpha ")
    metrics, flows = objects(run("top", "-n", "1", "--json"))
    assert (metrics["packets_captured"], len(flows["flows"])) == (7, 7)

    stop = run("stop", "--reason", "tested")
    assert stop.returncode == 0, stop.stderr
    assert rows(stop)[0][:3] == ["alpha", "stopped", "7"]
    for words in (["stop"], ["metrics"], ["flows"], ["meter", "on"], ["top", "-n", "1"]):
        done = run(*words)
        assert done.returncode == 1
        assert done.stderr.startswith("alpha: 400 no_session: ")


def test_rejected_request_names_the_invalid_field(run: Run, alpha: Agent) -> None:
    done = run("start", "-i", "nowhere0", "--backend", "af_packet", "--workers", "65")
    assert done.returncode == 1
    assert "alpha: 422 invalid_request: $.workers: expected " in done.stderr
    done = run("packets", "--delete", "--older-than", "0s")
    assert done.returncode == 1
    assert done.stderr.count("$.older_than") == 1


def test_repeated_request_id_returns_the_first_reply(
    run: Run, alpha: Agent, capture_file: Callable[[list[Packet]], Path]
) -> None:
    words = ["start", "-i", str(capture_file(conversation(1))), "-b", "file", "--json"]
    first = run(*words, "--request-id", "only-once")
    second = run(*words, "--request-id", "only-once")
    assert (first.returncode, second.returncode) == (0, 0)
    assert objects(first) == objects(second)


def test_meter_and_follow_print_every_record(
    run: Run,
    nats_server: NatsServer,
    alpha: Agent,
    capture_file: Callable[[list[Packet]], Path],
) -> None:
    watcher = follow(nats_server, "--host", "alpha", "--host", "watched")
    eventually_now(lambda: is_followed(nats_server, "watched"), "the watcher to subscribe")
    follower = follow(nats_server, "-n", "7", "--json")
    eventually_now(lambda: is_followed(nats_server, "any"), "the follower to subscribe")
    path = capture_file(conversation(7))
    start = run("start", "-i", str(path), "-b", "file", "--meter", "--flow-timeout", "1")
    assert start.returncode == 0, start.stderr
    wait_for_end_of_file(run)
    off = run("meter", "off", "--json")
    assert objects(off)[0]["status"] == "disabled"
    assert run("stop").returncode == 0

    out, errors = follower.communicate(timeout=TIMEOUT_SEC)
    assert errors == "7 records from 2 hosts\n"
    records = [json.loads(line) for line in out.splitlines()]
    assert follower.returncode == 0
    assert sorted(record["source_port"] for record in records) == list(range(1000, 1007))
    assert {record["host"] for record in records} == {"alpha"}

    assert watcher.stdout is not None
    lines = [watcher.stdout.readline() for _ in range(7)]
    assert all("198.18.0.2:53  1 packet  36 bytes" in line for line in lines)
    watcher.send_signal(signal.SIGINT)
    assert watcher.wait(TIMEOUT_SEC) == 0
    assert watcher.stderr is not None
    assert watcher.stderr.read() == "7 records from 2 hosts\n"


def test_group_and_limit_select_the_followed_hosts(
    run: Run,
    nats_server: NatsServer,
    pair: list[Agent],
    capture_file: Callable[[list[Packet]], Path],
) -> None:
    follower = follow(nats_server, "--limit", "1", "--json")
    eventually_now(lambda: is_followed(nats_server, "alpha"), "the follower to subscribe")
    assert not is_followed(nats_server, "beta")
    collector = spawn(nats_server, "collect", "--live", "--group", "site=lon")
    eventually_now(lambda: is_followed(nats_server, "beta"), "the collector to subscribe")
    path = capture_file(conversation(3))
    assert run("start", "-i", str(path), "-b", "file", "--meter").returncode == 0
    wait_for_end_of_file(run)
    assert run("stop").returncode == 0
    for process, host in ((follower, "alpha"), (collector, "beta")):
        assert process.stdout is not None
        records = [json.loads(process.stdout.readline()) for _ in range(3)]
        assert {record["host"] for record in records} == {host}
        process.send_signal(signal.SIGINT)
        out, errors = process.communicate(timeout=TIMEOUT_SEC)
        assert (process.returncode, out) == (0, ""), errors

    for words in (["collect", "--live"], ["flows", "--follow"]):
        nobody = run(*words, "--group", "site=fra")
        assert (nobody.returncode, nobody.stdout) == (1, "")
        assert nobody.stderr == "netsonde: no agent replied (group site=fra)\n"


def follow(server: NatsServer, *flags: str) -> subprocess.Popen[str]:
    return spawn(server, "flows", "--follow", *flags)


def spawn(server: NatsServer, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [COMMAND, *words, *client_flags(server.url)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def is_followed(server: NatsServer, host: str) -> bool:
    """Returns whether the host's flows have a subscriber. Without one, NATS reports "no responders"
    before it answers the next PING."""

    async def probe() -> bool:
        client = await nats.connect(server.url)
        seq = time.time_ns()
        empty = {"host": host, "boot": "1", "seq": seq, "session_id": "s", "records": []}
        inbox = client.new_inbox()
        refusals = await client.subscribe(inbox)
        subject = f"capture.stream.flows.{host}"
        await client.publish(subject, json.dumps(empty).encode(), reply=inbox)
        await settled(client)
        followed = refusals.pending_msgs == 0
        await client.close()
        return followed

    return asyncio.run(probe())


def test_closed_pipe_ends_the_command_silently(
    nats_server: NatsServer, run: Run, pair: list[Agent]
) -> None:
    flags = " ".join(client_flags(nats_server.url))
    done = subprocess.run(
        f"set -o pipefail; {COMMAND} schema {flags} | head -c 1",
        shell=True,
        executable="/bin/bash",
        capture_output=True,
        text=True,
    )
    assert done.stdout == "{"
    assert done.stderr == ""
    assert done.returncode == 141


def test_backends_and_schema_are_printed(run: Run, alpha: Agent) -> None:
    (body,) = objects(run("backends", "--json"))
    table = rows(run("backends"))
    named = [entry["name"] for entry in [*body["available"], *body["unavailable"]]]
    assert [row[1] for row in table] == named
    assert [row[2] for row in table][: len(body["available"])] == ["available"] * len(
        body["available"]
    )
    document = json.loads(run("schema").stdout)
    assert document["asyncapi"].startswith("3.")
    assert objects(run("schema", "--json")) == [{"host": "alpha", **document}]
