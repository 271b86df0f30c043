"""The client against a fleet with a far, a dead, a frozen, a doubled and a broken host.

Each command has to show the state of every expected host, and exit with 1. A rollout that loses
its server is resumed, and no host executes it twice.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import re
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import nats
import pytest
import pytest_asyncio
from nats.aio.client import Client

from agents import COMMAND, Fleet, client_flags
from bus import settled
from deadlines import TIMEOUT_SEC, eventually
from fake_agents import FakeAgent
from packets import UDP, at, ethernet, ipv4, udp, write_pcap
from processes import has_read_all
from servers import NatsServer

Result = tuple[int, str, str]
Run = Callable[..., Awaitable[Result]]
FAR_SEC = 0.3
FROZEN_TIMEOUT = ("--timeout", "3")


@pytest.fixture
def run(nats_server: NatsServer) -> Run:
    async def run_command(*words: str) -> Result:
        process = await spawn(nats_server, *words)
        async with asyncio.timeout(TIMEOUT_SEC):
            out, errors = await process.communicate()
        assert b"Traceback" not in errors, errors.decode()
        assert process.returncode is not None
        return process.returncode, out.decode(), errors.decode()

    return run_command


async def spawn(server: NatsServer, *words: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        COMMAND,
        *words,
        *client_flags(server.url),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


@pytest_asyncio.fixture
async def agents_client(nats_server: NatsServer) -> AsyncIterator[Client]:
    client = await nats.connect(nats_server.url, reconnect_time_wait=0.05)
    yield client
    await client.close()


# ---- every kind of host ------------------------------------------------------------------------

HOSTS = ("alpha", "broken", "dead", "far", "frozen", "twin")
LABEL = {"site": "ams"}


@pytest_asyncio.fixture
async def mixed(fleet: Fleet, agents_client: Client, tmp_path: Path) -> AsyncIterator[Path]:
    """Returns an inventory of six hosts, of which two are well: `alpha` and `far`."""
    fleet.start("alpha", labels=LABEL)
    frozen = fleet.start("frozen", labels=LABEL)
    await FakeAgent(agents_client, "far", labels=LABEL, delay_sec=FAR_SEC).start()
    await FakeAgent(agents_client, "twin", labels=LABEL).start()
    await FakeAgent(agents_client, "twin", labels=LABEL, delay_sec=0.1).start()
    await FakeAgent(agents_client, "broken", labels=LABEL, raw=b'{"host": \x9b]').start()
    frozen.freeze()
    inventory = tmp_path / "inventory"
    inventory.write_text("".join(f"{host} site=ams  # {host}\n" for host in HOSTS))
    yield inventory
    frozen.thaw()


START = ("start", "-i", "eth0", "-b", "pcap", "--batch", "2")
COMMANDS = [("ps",), ("status",), START, ("stop",), ("packets",), ("top", "-n", "1")]


@pytest.mark.parametrize(
    ("words", "targets"),
    [*((words, "inventory") for words in COMMANDS), (("ps",), "nodes"), (("stop",), "nodes"),
     (START, "nodes"), (START, "group")],
    ids=lambda value: value if isinstance(value, str) else value[0],
)  # fmt: skip
async def test_each_command_shows_the_state_of_every_host(
    run: Run, mixed: Path, words: tuple[str, ...], targets: str, tmp_path: Path
) -> None:
    flags = {
        "inventory": ("--inventory", str(mixed)),
        "nodes": ("--nodes", str(nodes_of(mixed))),
        "group": ("--inventory", str(mixed), "--group", "site=ams"),
    }[targets]
    failed = tmp_path / "failed"
    code, out, errors = await run(*words, *flags, *FROZEN_TIMEOUT, "--failed-to", str(failed))
    assert code == 1, errors
    assert "dead: not connected\n" in errors
    assert "frozen: no answer\n" in errors
    assert "twin: 409 name_taken: " in errors
    summary = errors.splitlines()[-1]
    assert summary.startswith("6 asked: "), errors
    for part in ("1 two agents", "1 not connected", "1 no answer"):
        assert part in summary, errors
    if words[0] != "ps":
        assert "broken: 500 unreadable: " in errors
        assert "1 malformed" in summary
        assert re.search(r"; request [0-9a-f]{32}$", summary)
    assert "far: " not in errors
    assert re.search(r"^far ", out, re.MULTILINE), out
    names = failed.read_text().splitlines()
    assert {"dead", "frozen", "twin"} <= set(names)
    assert "far" not in names

    code, out, errors = await run(*words, *flags, *FROZEN_TIMEOUT, "--json")
    assert code == 1
    assert out.isascii()
    objects = {body["host"]: body for body in map(json.loads, out.splitlines())}
    assert objects.keys() == set(HOSTS)
    assert objects["dead"] == {"host": "dead", "absent": "not connected"}
    assert objects["frozen"] == {"host": "frozen", "absent": "no answer"}
    assert objects["twin"]["error"] == "name_taken"
    assert "error" not in objects["far"]
    if words[0] != "ps":
        assert objects["broken"]["error"] == "unreadable"


def nodes_of(inventory: Path) -> Path:
    nodes = inventory.with_name("nodes")
    nodes.write_text("\n".join(line.split()[0] for line in inventory.read_text().splitlines()))
    return nodes


async def test_discovery_waits_for_a_far_host(run: Run, agents_client: Client) -> None:
    near = await FakeAgent(agents_client, "near").start()
    far = await FakeAgent(agents_client, "far", delay_sec=FAR_SEC).start()
    for words in (("ps",), ("status",), ("stop",), ("status", "--batch", "1"), ("ps", "--json")):
        code, out, errors = await run(*words)
        assert code == 0, errors
        assert "far" in out
    assert near.executed.count("stop") == far.executed.count("stop") == 1


async def test_reply_of_a_host_that_discovery_missed_is_a_row(
    run: Run, agents_client: Client
) -> None:
    await FakeAgent(agents_client, "known").start()
    hidden = FakeAgent(agents_client, "hidden", delay_sec=FAR_SEC)
    hidden.discoverable = False
    await hidden.start()
    code, out, errors = await run("stop", "--json")
    assert code == 0, errors
    assert [json.loads(line)["host"] for line in out.splitlines()] == ["hidden", "known"]
    assert errors.startswith("2 asked: 2 ok; request ")


async def test_agents_behind_an_imported_prefix_are_found(run: Run, agents_client: Client) -> None:
    """Their discovery names another root, or is not imported."""
    agent = FakeAgent(agents_client, "web1", root="other.capture")
    agent.discoverable = False
    await agent.start()
    for words in (("ps",), ("start", "-i", "eth0", "-b", "pcap"), ("start", "-i", "x", "-b", "y",
                  "--batch", "1")):  # fmt: skip
        async with asyncio.timeout(20):
            code, out, errors = await run(*words, "--root", "other.capture")
        assert (code, out.count("web1 ")) == (0, 1), errors
    assert agent.executed.count("start") == 2


async def test_groups_are_combined_and_hosts_excluded(run: Run, agents_client: Client) -> None:
    for host, site, role in (("a", "ams", "web"), ("b", "ams", "db"), ("c", "fra", "web")):
        await FakeAgent(agents_client, host, labels={"site": site, "role": role}).start()
    for flags, hosts in (
        (("--group", "site=ams"), ["a", "b"]),
        (("--group", "site=ams", "--group", "role=web"), ["a"]),
        (("--exclude", "b", "--exclude", "C"), ["a"]),
        (("--group", "site=ams", "--exclude", "a"), ["b"]),
        (("--host", "a", "--host", "c", "--exclude", "a"), ["c"]),
    ):
        for command in ("status", "ps"):
            code, out, errors = await run(command, "--json", *flags)
            assert code == 0, errors
            assert [json.loads(line)["host"] for line in out.splitlines()] == hosts, flags


# ---- runs that are cut off ---------------------------------------------------------------------


@pytest.mark.parametrize("cut", ["interrupt", "server"])
@pytest.mark.parametrize(
    "words",
    [("ps",), ("status",), ("metrics",), ("flows",), ("packets",), ("stop",)],
    ids=lambda words: words[0],
)
async def test_command_that_is_cut_off_prints_what_is_known(
    nats_server: NatsServer, agents_client: Client, words: tuple[str, ...], cut: str
) -> None:
    near = await FakeAgent(agents_client, "near").start()
    slow = await FakeAgent(agents_client, "slow", delay_sec=TIMEOUT_SEC).start()
    process = await spawn(nats_server, *words, *hosts_of("near", "slow"), "--timeout", "60")
    if words[0] == "ps":
        heard = (near.introduced, slow.introduced)
    else:
        heard = (near.executed, slow.executed)
    await eventually(lambda: all(heard), "both hosts to hear the request")
    await eventually(lambda: not near.in_flight, "a reply")
    await settled(agents_client)
    await eventually(lambda: has_read_all(process.pid), "the client to read the reply")
    if cut == "interrupt":
        process.send_signal(signal.SIGINT)
    else:
        nats_server.kill()
    out, errors = await process.communicate()
    text = errors.decode()
    assert "Traceback" not in text
    assert process.returncode == (130 if cut == "interrupt" else 69), text
    assert "slow: no answer\n" in text
    assert len(re.findall("^2 asked: 1 ok, 1 no answer", text, re.MULTILINE)) == 1, text
    assert out.decode().splitlines()[-1].startswith("near ") or words[0] == "flows", out
    assert ("--resume" in text) == (words[0] in ("stop", "packets"))
    assert ("connection to NATS was lost" in text) == (cut == "server")


@pytest.mark.parametrize("cut", ["interrupt", "server"])
async def test_listing_that_is_cut_off_between_pages_prints_the_first(
    nats_server: NatsServer, agents_client: Client, cut: str
) -> None:
    agent = await FakeAgent(agents_client, "web1").start()
    flow = {"protocol": "UDP", "source_ip": "198.18.0.1", "dest_ip": "198.18.0.2",
            "packets": 1, "bytes": 1}  # fmt: skip
    agent.bodies["flows"] = {"flows": [flow], "active_flows": 2, "truncated": True, "next": "x"}

    def execute(verb: str, headers: dict[str, str]) -> dict[str, Any]:
        agent.executed.append(verb)
        agent.delay_sec = 0.0 if len(agent.executed) == 1 else TIMEOUT_SEC
        return {"host": "web1", **agent.bodies[verb]}

    agent._execute = execute  # type: ignore[method-assign]  # this agent only
    process = await spawn(nats_server, "flows", "-n", "9", "--host", "web1", "--timeout", "60")
    await eventually(lambda: len(agent.executed) == 2, "the second page to be asked for")
    if cut == "interrupt":
        process.send_signal(signal.SIGINT)
    else:
        nats_server.kill()
    out, errors = await process.communicate()
    assert process.returncode == (130 if cut == "interrupt" else 69), errors
    assert out.decode().count("web1 ") == 1
    assert errors.decode().startswith("1 asked: 1 ok; request ")


async def test_follower_that_is_interrupted_prints_what_it_has_read(
    nats_server: NatsServer, agents_client: Client
) -> None:
    process = await spawn(nats_server, "flows", "--follow")
    record = {"protocol": "UDP", "packets": 1, "bytes": 1}
    assert process.stdout is not None
    line = asyncio.create_task(process.stdout.readline())
    for seq in range(1, 1000):
        body = {"host": "web1", "boot": "b", "seq": seq, "session_id": "s", "records": [record]}
        await agents_client.publish("capture.stream.flows.web1", json.dumps(body).encode())
        done, _ = await asyncio.wait([line], timeout=0.1)
        if done:
            break
    process.send_signal(signal.SIGINT)
    _, errors = await process.communicate()
    assert process.returncode == 0
    assert re.search(r"^(1 record|[0-9]+ records) from 1 host$", errors.decode(), re.MULTILINE)


# ---- agents that lie about their name ----------------------------------------------------------


@pytest.mark.parametrize("command", ["ps", "status", "stop", "flows"])
async def test_reply_under_the_name_of_a_dead_host_is_not_believed(
    run: Run, agents_client: Client, tmp_path: Path, command: str
) -> None:
    """Nobody but `dead` may subscribe to its subjects, so the lie is seen in broadcasts only."""
    liar = await FakeAgent(agents_client, "liar").start()
    await liar.lie("dead")
    inventory = tmp_path / "inventory"
    inventory.write_text("liar\ndead\n")
    for flags in ((), ("--inventory", str(inventory)), ("--host", "liar", "--host", "dead")):
        code, out, errors = await run(command, "--json", *flags)
        assert code == 1, errors
        assert "dead: not connected\n" in errors
        assert errors.splitlines()[-1].startswith("2 asked: 1 ok, 1 not connected"), errors
        objects = {body["host"]: body for body in map(json.loads, out.splitlines())}
        assert objects.keys() == {"liar", "dead"}
        assert objects["dead"] == {"host": "dead", "absent": "not connected"}


async def test_lie_about_a_connected_host_changes_nothing(run: Run, agents_client: Client) -> None:
    victim = await FakeAgent(agents_client, "victim", labels={"site": "fra"}).start()
    liar = await FakeAgent(agents_client, "liar", labels={"site": "ams"}).start()
    await liar.lie("victim", labels={"site": "ams"})
    code, out, errors = await run("stop", "--json")
    assert code == 0, errors
    assert [json.loads(line)["host"] for line in out.splitlines()] == ["liar", "victim"]
    assert victim.executed.count("stop") == 1

    for pace in ((), ("--batch", "1")):
        code, out, errors = await run("stop", "--json", "--group", "site=ams", *pace)
        assert code == 0, errors
        assert [json.loads(line)["host"] for line in out.splitlines()] == ["liar"]
    assert victim.executed.count("stop") == 1
    code, out, errors = await run("ps", "--json", "--group", "site=fra")
    assert [json.loads(line)["host"] for line in out.splitlines()] == ["victim"]


async def test_reply_of_a_host_with_another_name_in_it_is_malformed(
    run: Run, agents_client: Client
) -> None:
    """In the body only: two names. In the header too: another host's reply."""
    await FakeAgent(agents_client, "web1", raw=b'{"host": "db1", "running": false}').start()
    web2 = await FakeAgent(agents_client, "web2").start()
    web2.host = "db2"
    for flags in (("--host", "web1", "--host", "web2"), ("--host", "web1")):
        code, out, errors = await run("status", "--json", "--timeout", "3", *flags)
        assert code == 1
        bodies = [json.loads(line) for line in out.splitlines()]
        assert [body["host"] for body in bodies] == list(flags[1::2])
        assert {body["error"] for body in bodies} == {"unreadable"}
        assert "two host names: web1 and 'db1'" in bodies[0]["detail"]
    _, out, errors = await run("status", "--json", "--timeout", "3", "--host", "web2")
    assert json.loads(out)["detail"] == "the reply names another host: db2"
    assert "web2: reply ignored, it names another host: db2" in errors


async def test_page_of_flows_from_another_host_is_refused(run: Run, agents_client: Client) -> None:
    agent = await FakeAgent(agents_client, "web1").start()
    flow = {"protocol": "UDP", "source_ip": "198.18.0.1", "dest_ip": "198.18.0.2",
            "packets": 1, "bytes": 1}  # fmt: skip
    agent.bodies["flows"] = {"flows": [flow], "active_flows": 2, "truncated": True, "next": "x"}

    def execute(verb: str, headers: dict[str, str]) -> dict[str, Any]:
        agent.executed.append(verb)
        name = "web1" if agent.executed.count("flows") == 1 else "db1"
        return {"host": name, **agent.bodies[verb]}

    agent._execute = execute  # type: ignore[method-assign]  # this agent only
    code, out, _ = await run("flows", "--json", "-n", "2", "--host", "web1")
    assert code == 1
    assert json.loads(out)["error"] == "unreadable"


async def test_stream_that_stores_requests_is_named_and_does_no_harm(
    tmp_path: Path,
) -> None:
    config = f'jetstream {{ store_dir: "{tmp_path / "js"}" }}\n'
    server = NatsServer(tmp_path / "stored", config=config).start()
    client = await nats.connect(server.url)
    try:
        await client.jetstream().add_stream(name="ALL", subjects=["capture.>"])
        await FakeAgent(client, "web1").start()

        async def named(flags: tuple[str, ...]) -> bool:
            process = await spawn(server, "status", *flags)
            out, errors = await process.communicate()
            assert process.returncode == 0, errors.decode()
            assert b"web1 " in out
            return b"the JetStream stream ALL stores requests" in errors

        # A busy disk delays the stream's acknowledgement, from which a command knows its name.
        for flags in ((), ("--host", "web1"), ("--batch", "1")):
            await eventually(partial(named, flags), f"the name of the stream with {flags}")
        process = await spawn(server, "stop", "--host", "web1", "--host", "dead")
        _, errors = await process.communicate()
        assert process.returncode == 1
        assert b"dead: not connected" in errors
    finally:
        await client.close()
        server.kill()


# ---- rollouts ----------------------------------------------------------------------------------


async def test_silent_host_does_not_delay_the_others(
    nats_server: NatsServer, agents_client: Client
) -> None:
    silent = FakeAgent(agents_client, "a0", delay_sec=TIMEOUT_SEC)
    await silent.start()
    agents = [await FakeAgent(agents_client, f"b{n}").start() for n in range(12)]
    flags = [word for agent in (silent, *agents) for word in ("--host", agent.host)]
    process = await spawn(
        nats_server, "start", "-i", "e", "-b", "b", "--batch", "2", *flags, "--timeout", "30"
    )
    await eventually(lambda: all(agent.executed for agent in agents), "all others", within_sec=15)
    process.kill()
    await process.wait()


async def test_failure_limit_counts_hosts_that_are_slow(run: Run, agents_client: Client) -> None:
    await FakeAgent(agents_client, "a0", delay_sec=TIMEOUT_SEC).start()
    agents = [await FakeAgent(agents_client, f"b{n:02}", delay_sec=0.2).start() for n in range(40)]
    code, _, errors = await run(
        *("start", "-i", "e", "-b", "b", "--batch", "2", "--max-failures", "0"),
        *("--timeout", "6", *hosts_of("a0", *(agent.host for agent in agents))),
    )
    assert code == 1
    assert "a0: no answer" in errors
    assert 0 < sum(bool(agent.executed) for agent in agents) < 20
    assert "not asked" in errors.splitlines()[-1]


def hosts_of(*names: str) -> list[str]:
    return [word for name in names for word in ("--host", name)]


async def test_frozen_agent_does_not_execute_what_has_expired(
    run: Run, fleet: Fleet, tmp_path: Path
) -> None:
    agent = fleet.start("alpha")
    path = capture(tmp_path)
    agent.freeze()
    code, _, errors = await run(
        "start", "-i", str(path), "-b", "file", "--host", "alpha", "--timeout", "1"
    )
    assert (code, "alpha: no answer" in errors) == (1, True)
    agent.thaw()
    await eventually(lambda: "expired" in agent.log, "the agent to refuse the request")
    _, out, _ = await run("status", "--json", "--host", "alpha")
    assert json.loads(out)["running"] is False


def capture(directory: Path) -> Path:
    frame = ethernet(ipv4(udp(b"netsonde", 1000, 53), UDP, "198.18.0.1", "198.18.0.2"))
    return write_pcap(directory / "made.pcap", [at(1_700_000_000_000_000_000, frame)] * 7)


@pytest.mark.parametrize("complete_command", [True, False])
async def test_rollout_that_lost_its_server_is_resumed(
    nats_server: NatsServer, agents_client: Client, run: Run, complete_command: bool
) -> None:
    """30 hosts; the server dies when 10 have started. The replies in flight are lost."""
    hosts = [f"web{number:02}" for number in range(30)]
    agents = [await FakeAgent(agents_client, host, delay_sec=0.05).start() for host in hosts]
    words = ["start", "-i", "eth0", "-b", "pcap", "--batch", "5"]
    process = await spawn(nats_server, *words)
    await eventually(
        lambda: sum(bool(agent.executed) for agent in agents) >= 10, "ten hosts to start"
    )
    nats_server.kill()
    out, errors = await process.communicate()
    assert process.returncode == 69, errors.decode()
    (request_id,) = re.findall(r"30 asked: .*; request ([0-9a-f]{32})\n", errors.decode())
    started = [line.split()[0] for line in out.decode().splitlines()[1:]]
    assert 0 < len(started) < 30
    nats_server.start()
    await eventually(lambda: agents_client.stats["reconnects"], "the agents to return")
    await asyncio.wait_for(agents_client.flush(), TIMEOUT_SEC)

    again = words if complete_command else ["start"]
    code, text, said = await run(*again, "--resume", request_id)
    assert code == 0, said
    assert [line.split()[0] for line in text.splitlines()[1:]] == hosts
    assert f"30 asked: 30 ok; request {request_id}" in said
    assert [agent.executed.count("start") for agent in agents] == [1] * 30
    assert journalled(request_id) == set(hosts)


def journalled(request_id: str) -> set[str]:
    """Returns the hosts with a reply of code 200 in the journal."""
    journal = Path(os.environ["XDG_STATE_HOME"], "netsonde/runs", f"{request_id}.jsonl")
    assert journal.stat().st_mode & 0o777 == 0o600
    lines = [json.loads(line) for line in journal.read_text().splitlines()]
    return {line["host"] for line in lines if line.get("code") == 200}


async def test_real_agents_execute_a_resumed_run_once(
    nats_server: NatsServer, run: Run, fleet: Fleet, tmp_path: Path
) -> None:
    """The client is killed after one of two agents has replied and the other is in flight."""
    path = capture(tmp_path)
    for host in ("alpha", "beta"):
        fleet.start(host)
    beta = fleet.agents[1]
    beta.freeze()
    words = ["start", "-i", str(path), "-b", "file", *hosts_of("alpha", "beta")]
    process = await spawn(nats_server, *words, "--request-id", "rollout-1")
    journal = Path(os.environ["XDG_STATE_HOME"], "netsonde/runs/rollout-1.jsonl")
    await eventually(
        lambda: journal.exists() and '"code":200' in journal.read_text(), "alpha to reply"
    )
    process.kill()
    await process.wait()
    beta.thaw()
    await eventually(lambda: "session_started" in beta.log or "started" in beta.log, "beta")
    code, out, errors = await run("start", "--resume", "rollout-1", "--json")
    assert code == 0, errors
    assert [json.loads(line)["status"] for line in out.splitlines()] == ["started"] * 2
    for flags in (("--reason", "x"), ()):
        code, _, errors = await run("stop", *flags, "--resume", "rollout-1")
        assert code == 2
        assert "was another request" in errors

    async def read() -> bool:  # a stop would end the reading of the files
        _, out, _ = await run("status", "--json")
        return [json.loads(line).get("finished") for line in out.splitlines()] == [True, True]

    await eventually(read, "both files to be read")
    _, out, _ = await run("stop", "--json")
    for body in map(json.loads, out.splitlines()):
        assert body["packets_captured"] + body["packets_dropped"] == 7


# ---- retrieved packets -------------------------------------------------------------------------


async def test_downloads_are_verified_and_one_failure_does_not_end_them(
    tmp_path: Path,
) -> None:
    config = f'jetstream {{ store_dir: "{tmp_path / "js"}" }}\n'
    server = NatsServer(tmp_path / "objects", config=config).start()
    client = await nats.connect(server.url)
    try:
        store = await client.jetstream().create_object_store("b")
        data = bytes(range(256)) * 2000
        await store.put("o", data)
        digest = hashlib.sha256(data).hexdigest()
        bodies: dict[str, dict[str, Any]] = {
            "good": {"sha256": digest},
            "wrong": {"sha256": "0" * 64},
            "gone": {"object": "x\x9b\u202e", "sha256": digest},
            "odd": {"bucket": 7, "sha256": None},
        }
        for host, body in bodies.items():
            agent = FakeAgent(client, host)
            agent.bodies["packets"] = {**agent.bodies["packets"], **body}
            await agent.start()
        for host in bodies:
            (tmp_path / f"cap-{host}.pcapng").write_text("old")
        split = ("--split", "-w", str(tmp_path / "cap.pcapng"))
        process = await spawn(server, "packets", *split)
        out, errors = await process.communicate()
        assert process.returncode == 1
        text = (out + errors).decode()
        assert "Traceback" not in text
        assert "\x9b" not in text
        assert "\u202e" not in text
        assert (tmp_path / "cap-good.pcapng").read_bytes() == data
        for host in ("wrong", "gone", "odd"):
            assert (tmp_path / f"cap-{host}.pcapng").read_text() == "old"
            assert f"\n{host}: 500 " in f"\n{text}", text
        assert not [name for name in os.listdir(tmp_path) if ".part" in name]
        assert "4 asked: 1 ok, 3 refused" in text
        process = await spawn(server, "packets", "-w", "-")
        out, errors = await process.communicate()
        assert (process.returncode, out) == (1, data)
    finally:
        await client.close()
        server.kill()


async def test_large_replies_are_fetched_a_few_at_a_time(run: Run, agents_client: Client) -> None:
    """Otherwise nats-server disconnects the client as a slow consumer."""
    agents = [FakeAgent(agents_client, f"web{n:03}", delay_sec=0.3) for n in range(80)]
    flow = {"protocol": "UDP", "source_ip": "198.18.0.1", "dest_ip": "198.18.0.2",
            "packets": 1, "bytes": 1, "padding": "x" * 1000}  # fmt: skip
    for agent in agents:
        agent.bodies["flows"] = {"flows": [flow] * 2, "active_flows": 2, "truncated": False}
        await agent.start()
    flying: list[int] = []

    async def count() -> None:
        while True:
            flying.append(sum(agent.in_flight for agent in agents))
            await asyncio.sleep(0.01)

    counter = asyncio.create_task(count())
    code, out, errors = await run("flows", "--json", "--timeout", "20")
    counter.cancel()
    assert code == 0, errors
    assert len(out.splitlines()) == 80
    assert 0 < max(flying) <= 32
