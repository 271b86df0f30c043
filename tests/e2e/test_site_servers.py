"""The servers of deploy/nats/sites: a cluster whose leader dies, a leaf node whose link is cut, and
a cluster behind a gateway. No record is lost or doubled, and no host is missed or done twice."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import nats
import nats.errors
import nats.js.errors
import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js import JetStreamContext

from agents import COMMAND, Agent, Fleet, client_flags
from bus import Bus
from deadlines import eventually
from netsonde.bus.connection import order_servers
from netsonde.service.desired import BEHIND_SEC, REFRESH_SEC
from operators import policy
from packets import SECOND_NS, UDP, Packet, at, ethernet, ipv4, udp
from replay import check_conservation, finished
from servers import NatsServer
from sites import DOMAIN, Sites

FLOWS = 4000
SECONDS = 4
CUT_SEC = 30.0
METERING = {"enable": True, "flow_timeout_sec": 1}
STREAM = "CAPTURE_FLOWS"


@pytest.fixture
def sites(tmp_path: Path) -> Iterator[Sites]:
    sites = Sites(tmp_path / "servers")
    sites.start_hub()
    yield sites
    sites.kill()


@pytest.fixture
def nats_server(sites: Sites) -> NatsServer:
    return sites.hub[0]


def crowd(seconds: int = SECONDS, flows: int = FLOWS) -> list[Packet]:
    """One packet in each flow, spread over the seconds."""
    start_ns, gap_ns = 1_767_225_600 * SECOND_NS, seconds * SECOND_NS // flows

    def frame(number: int) -> bytes:
        source = f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}"
        return ethernet(ipv4(udp(b"", 1000, 53), UDP, source, "10.255.0.1"))

    return [at(start_ns + number * gap_ns, frame(number)) for number in range(flows)]


async def hub_client(sites: Sites) -> Client:
    return await nats.connect(sites.urls, error_cb=_expected)


async def _expected(error: Exception) -> None:
    """Servers are killed during the tests."""


async def ready(context: JetStreamContext) -> None:
    """Returns when the domain answers."""

    async def answers() -> bool:
        try:
            await context.account_info()
        except (nats.errors.Error, nats.js.errors.Error):
            return False
        return True

    await eventually(answers, "the hub's JetStream")


def run(*words: str, urls: str) -> subprocess.CompletedProcess[str]:
    command = (str(COMMAND), *words, *client_flags(urls), "--jetstream-domain", DOMAIN)
    return subprocess.run(command, capture_output=True, text=True, timeout=170)


async def make_streams(sites: Sites, *hosts: str) -> None:
    """Creates the streams at the hub, with three replicas."""
    client = await hub_client(sites)
    await ready(client.jetstream(domain=DOMAIN))
    await client.close()
    named = [word for host in hosts for word in ("--host", host)]
    command = ("nats", "streams", "--replicas", "3", "--bucket-mb", "8", *named)
    done = await asyncio.to_thread(run, *command, urls=",".join(sites.urls))
    assert done.returncode == 0, done.stderr


async def stored(context: JetStreamContext) -> list[dict[str, Any]]:
    """Returns the records of the flow stream."""
    state = (await context.stream_info(STREAM)).state
    sequence = range(state.first_seq, state.last_seq + 1)
    messages = [await context.get_msg(STREAM, seq=number) for number in sequence]
    return [one for message in messages for one in json.loads(message.data or b"")["records"]]


def check_records(records: list[dict[str, Any]], stopped: dict[str, Any]) -> None:
    """Checks that the hub has every metered record of the whole file exactly once."""
    check_stored(records, stopped)
    assert stopped["records"] == stopped["packets_captured"] == FLOWS


def check_stored(records: list[dict[str, Any]], stopped: dict[str, Any]) -> None:
    """Checks that the hub has every metered record exactly once."""
    assert stopped["records_dropped"] == 0
    keys = {(one["flow_id"], one["segment"]) for one in records}
    assert len(records) == len(keys) == stopped["records"]
    assert sum(one["packets"] for one in records) == stopped["packets_captured"]


def options(server: NatsServer, tmp_path: Path, *urls: str) -> dict[str, Any]:
    return {
        "nats": {"servers": list(urls) or [server.url], "jetstream_domain": DOMAIN},
        "flows": {"jetstream": True, "stream_replicas": 3, "spool_dir": str(tmp_path / "spool")},
    }


async def drained(bus: Bus) -> None:
    async def empty() -> bool:
        return bool((await bus.ok("status"))["spool"]["records_waiting"] == 0)

    await eventually(empty, "the spool to empty", interval_sec=0.1)


@pytest.mark.parametrize("file", ["leaf.conf", "leaf-jetstream.conf"])
async def test_a_cut_leaf_link_loses_and_doubles_no_record(
    file: str,
    sites: Sites,
    fleet: Fleet,
    tmp_path: Path,
    capture_file: Callable[[list[Packet]], Path],
) -> None:
    """The link is cut while records are in flight, and stays cut until the file has been read."""
    await make_streams(sites, "alpha")
    leaf = sites.start_leaf(file)
    bus = await Bus.connect(leaf.url)
    await ready(bus.client.jetstream(domain=DOMAIN))
    fleet.start(**options(leaf, tmp_path))
    hub_at = await hub_client(sites)
    hub = hub_at.jetstream(domain=DOMAIN)
    body = {"interface": str(capture_file(crowd())), "backend": "file", "replay_speed": 1.0}
    await bus.ok("start", {**body, "metering": METERING})

    async def some() -> bool:
        return (await hub.stream_info(STREAM)).state.messages > 0

    await eventually(some, "records at the hub")
    sites.links[0].cut()
    check_conservation(await finished(bus))
    stopped = await bus.ok("stop", timeout_sec=60)
    waiting = (await bus.ok("status"))["spool"]["records_waiting"]
    assert waiting > 0
    before = (await hub.stream_info(STREAM)).state.messages
    assert len(await stored(hub)) < FLOWS
    assert (await hub.stream_info(STREAM)).state.messages == before
    sites.links[0].heal()
    await drained(bus)
    check_records(await stored(hub), stopped)
    await bus.close()
    await hub_at.close()


@pytest.mark.parametrize(("file", "silent"), [("leaf.conf", True), ("leaf-jetstream.conf", False)])
async def test_half_a_minute_without_the_hub_loses_and_doubles_no_record(
    file: str,
    silent: bool,
    sites: Sites,
    fleet: Fleet,
    tmp_path: Path,
    capture_file: Callable[[list[Packet]], Path],
) -> None:
    """A capture runs before, during and after the cut. silent: the link drops every packet, so no
    server sees an end of the connection."""
    await make_streams(sites, "alpha")
    leaf = sites.start_leaf(file)
    bus = await Bus.connect(leaf.url)
    await ready(bus.client.jetstream(domain=DOMAIN))
    fleet.start(**options(leaf, tmp_path))
    hub_at = await hub_client(sites)
    hub = hub_at.jetstream(domain=DOMAIN)
    packets = crowd(int(CUT_SEC) + SECONDS)
    body = {"interface": str(capture_file(packets)), "backend": "file", "replay_speed": 1.0}
    await bus.ok("start", {**body, "metering": METERING})

    async def messages() -> int:
        return (await hub.stream_info(STREAM)).state.messages

    await eventually(messages, "records at the hub")
    link = sites.links[0]
    link.pause() if silent else link.cut()
    healed_sec = time.monotonic() + CUT_SEC
    counts = []
    while time.monotonic() < healed_sec:
        status = await bus.ok("status")
        check_conservation(status)
        counts.append(await messages())
        await asyncio.sleep(0.5)
    assert status["spool"]["records_waiting"] > 0
    assert counts[len(counts) // 2] == counts[-1], "records passed a cut link"
    link.resume() if silent else link.heal()
    check_conservation(await finished(bus))
    stopped = await bus.ok("stop", timeout_sec=60)
    await drained(bus)
    check_records(await stored(hub), stopped)
    await bus.close()
    await hub_at.close()


@pytest.mark.parametrize("place", ["west", "leaf.conf", "leaf-jetstream.conf"])
async def test_a_client_of_the_hub_reaches_other_sites(
    place: str,
    sites: Sites,
    fleet: Fleet,
    tmp_path: Path,
    capture_file: Callable[[list[Packet]], Path],
) -> None:
    """Requests, records, packets and inventory, through a gateway and through leaf nodes."""
    await make_streams(sites, "alpha")
    server = sites.start_west() if place == "west" else sites.start_leaf(place)
    near = await Bus.connect(server.url)
    await ready(near.client.jetstream(domain=DOMAIN))
    fleet.start(**options(server, tmp_path))
    bus = Bus(await hub_client(sites))

    async def reached() -> bool:
        try:
            await bus.ok("status", timeout_sec=2)
        except (nats.errors.NoRespondersError, TimeoutError):
            return False
        return True

    await eventually(reached, "the agent to answer at the hub")
    body = {"interface": str(capture_file(crowd())), "backend": "file", "metering": METERING}
    await bus.ok("start", body)
    check_conservation(await finished(bus))
    out = tmp_path / "out.pcapng"
    urls = ",".join(sites.urls)
    done = await asyncio.to_thread(run, "packets", "-w", str(out), urls=urls)
    assert done.returncode == 0, done.stderr
    assert out.stat().st_size > FLOWS * 42
    stopped = await bus.ok("stop", timeout_sec=60)
    await drained(bus)
    check_records(await stored(bus.client.jetstream(domain=DOMAIN)), stopped)
    listed = await asyncio.to_thread(run, "ps", "--json", urls=urls)
    assert listed.returncode == 0, listed.stderr
    assert '"alpha"' in listed.stdout
    await near.close()
    await bus.close()


HOSTS = ["web1", "web2", "web3", "web4"]


@pytest.fixture
async def bus(sites: Sites) -> AsyncIterator[Bus]:
    client = await nats.connect(sites.urls, error_cb=_expected, max_reconnect_attempts=-1)
    yield Bus(client)
    await client.close()


async def test_a_killed_stream_leader_in_a_rollout_misses_and_repeats_no_host(
    sites: Sites, fleet: Fleet, bus: Bus, tmp_path: Path
) -> None:
    await make_streams(sites, *HOSTS)
    hub = bus.client.jetstream(domain=DOMAIN)
    events = await bus.messages("capture.stream.events.*.capture")
    for host in HOSTS:
        fleet.start(host, **options(sites.hub[0], tmp_path / host, *sites.urls))
    file = tmp_path / "fleet.toml"
    file.write_text(policy("all", "host ~ 'web*'", rollout={"canary": 1, "batch": 1, "soak": "1s"}))
    urls = ",".join(sites.urls)

    async def known() -> bool:
        return (await hub.stream_info("KV_capture-hosts")).state.messages == len(HOSTS)

    await eventually(known, "the hosts in the inventory")
    rollout = asyncio.ensure_future(asyncio.to_thread(run, "apply", str(file), urls=urls))

    def started() -> list[str]:
        told = [json.loads(one.data) for one in events]
        return [one["host"] for one in told if one["event"] == "started"]

    await eventually(started, "the canary to start")
    assert not rollout.done()
    cluster = (await hub.stream_info("KV_capture-policy")).cluster
    assert cluster is not None
    number = int(str(cluster.leader).removeprefix("hub")) - 1
    sites.hub[number].kill()
    await asyncio.to_thread(sites.hub[number].start)
    done = await rollout
    if done.returncode:  # the client's server was the one that died
        done = await asyncio.to_thread(run, "apply", "--resume", urls=urls)
    assert done.returncode == 0, done.stdout + done.stderr
    for host in HOSTS:
        status = await bus.ok("status", host=host, timeout_sec=10)
        assert status["wanted_by"] == "policy"
        await bus.ok("stop", {"override": True}, host=host, timeout_sec=10)
    assert sorted(started()) == HOSTS


@pytest.mark.parametrize("file", ["leaf.conf", "leaf-jetstream.conf"])
async def test_a_release_reaches_an_agent_behind_a_leaf_without_a_poll(
    file: str, sites: Sites, fleet: Fleet, bus: Bus, tmp_path: Path
) -> None:
    """The agent has read the first release, so its next poll is REFRESH_SEC later."""
    await make_streams(sites, "alpha")
    leaf = sites.start_leaf(file)
    near = await Bus.connect(leaf.url)
    await ready(near.client.jetstream(domain=DOMAIN))
    fleet.start(**options(leaf, tmp_path))
    hub = bus.client.jetstream(domain=DOMAIN)

    async def known() -> bool:
        return (await hub.stream_info("KV_capture-hosts")).state.messages == 1

    await eventually(known, "the host in the inventory")
    urls, file_of = ",".join(sites.urls), tmp_path / "fleet.toml"
    reads_sec: list[float] = []

    async def note(message: Msg) -> None:
        reads_sec.append(time.monotonic())

    await near.client.subscribe(f"$JS.{DOMAIN}.API.DIRECT.GET.KV_capture-policy.>", cb=note)
    for revision, words in ((1, "tcp"), (2, "udp")):
        file_of.write_text(policy("all", "host ~ '*'", rollout={"canary": 1}, filter=words))
        began_sec = time.monotonic()
        done = await asyncio.to_thread(run, "apply", str(file_of), urls=urls)
        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stderr.splitlines()[-1] == f"revision {revision}, 1 host: 1 applied"
        if revision == 1:  # after a connect and a release the agent reads more often
            await eventually(
                lambda: reads_sec and time.monotonic() - reads_sec[-1] > BEHIND_SEC,
                "the agent to rest",
            )
    assert time.monotonic() - began_sec < REFRESH_SEC / 3
    await near.close()


# Runs the command with a return after three seconds, instead of one to ten minutes.
RETURNING = """
import runpy
import sys
from netsonde.bus import preferred
preferred.RETURN_SEC_MIN = preferred.RETURN_SEC_MAX = 3.0
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def servers_of(agent: Agent) -> dict[str, str]:
    """Returns the server that each connection of the agent used last."""
    events = [json.loads(line) for line in agent.log.splitlines() if line.startswith("{")]
    return {one["connection"]: one["server"] for one in events if one["event"] == "connected"}


async def ask_forever(bus: Bus, answered: list[float]) -> None:
    """Asks again at once while the agent has no subscription, and when a request was lost with
    a connection. Keeps the times of the replies."""
    while True:
        with contextlib.suppress(nats.errors.Error, TimeoutError):
            await bus.ok("status", timeout_sec=1)
            answered.append(time.monotonic())
        await asyncio.sleep(0.01)


async def test_an_agent_returns_to_its_server_while_it_captures(
    sites: Sites,
    fleet: Fleet,
    tmp_path: Path,
    capture_file: Callable[[list[Packet]], Path],
) -> None:
    """Its server is killed and started again, twice. The moves lose and double no record, and
    requests are answered."""
    await make_streams(sites, "alpha")
    wrapper = tmp_path / "returning.py"
    wrapper.write_text(RETURNING)
    fleet.prefix = (sys.executable, str(wrapper))
    agent = fleet.start(**options(sites.hub[0], tmp_path, *sites.urls))
    home = order_servers(sites.urls, "alpha")[0]
    server = next(one for one in sites.hub if one.url == home)
    elsewhere = [one.url for one in sites.hub if one is not server]
    client = await nats.connect(elsewhere, error_cb=_expected, max_reconnect_attempts=-1)
    bus, hub = Bus(client), client.jetstream(domain=DOMAIN)

    def home_count() -> int:
        return list(servers_of(agent).values()).count(home.removeprefix("nats://"))

    async def count() -> int:
        """Returns 0 while the stream has no leader."""
        try:
            return (await hub.stream_info(STREAM)).state.messages
        except (nats.errors.Error, nats.js.errors.Error):
            return 0

    async def more_stored() -> None:
        before = await eventually(count, "records at the hub")

        async def more() -> bool:
            return await count() > before

        await eventually(more, "further records at the hub")

    async def leave_and_return() -> None:
        await more_stored()
        server.kill()
        await eventually(lambda: home_count() == 0, "the agent elsewhere")
        await asyncio.to_thread(server.start)
        answered: list[float] = []
        asking = asyncio.create_task(ask_forever(bus, answered))
        await eventually(lambda: home_count() == 2, "the agent's return")
        returned_sec = time.monotonic()
        await eventually(lambda: answered and answered[-1] > returned_sec, "a reply at home")
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        gaps = [later - earlier for earlier, later in itertools.pairwise(answered)]
        assert max(gaps) < 5, "requests were not answered during the move"
        await ready(hub)
        await more_stored()

    await eventually(lambda: home_count() == 2, "the agent at its server")
    file = str(capture_file(crowd(300, 60_000)))
    body = {"interface": file, "backend": "file", "replay_speed": 1.0}
    await bus.ok("start", {**body, "metering": METERING})
    for _ in range(2):
        await leave_and_return()
        status = await bus.ok("status")
        assert not status["finished"]
        check_conservation(status)
    stopped = await bus.ok("stop", timeout_sec=60)
    await drained(bus)
    check_stored(await stored(hub), stopped)
    await client.close()


# ---- a site without its hub ------------------------------------------------------------------


@pytest.mark.parametrize("silent", [True, False])
async def test_hosts_behind_a_lost_link_are_not_forgotten(
    sites: Sites, fleet: Fleet, tmp_path: Path, silent: bool
) -> None:
    """The site cannot read the inventory. The agents there must not pass for the whole fleet."""
    await make_streams(sites, "alpha", "beta")
    leaf = sites.start_leaf("leaf.conf")
    fleet.start("alpha", **options(leaf, tmp_path / "alpha"))
    fleet.start("beta", **options(sites.hub[0], tmp_path / "beta"))

    async def both_listed() -> bool:
        done = await asyncio.to_thread(run, "ps", "--json", urls=leaf.url)
        found = [json.loads(line) for line in done.stdout.splitlines()]
        return [one["host"] for one in found if one.get("inventory")] == ["alpha", "beta"]

    await eventually(both_listed, "both hosts in the inventory")
    link = sites.links[-1]
    link.pause() if silent else link.cut()
    done = await asyncio.to_thread(run, "status", "--json", urls=leaf.url)
    hosts = [json.loads(line)["host"] for line in done.stdout.splitlines()]
    assert (done.returncode, hosts) == (1, ["alpha"]), done.stderr
    assert "Hosts that are missing are not known." in done.stderr
    done = await asyncio.to_thread(run, "drift", urls=leaf.url)
    assert done.returncode == 1, done.stdout
    link.resume() if silent else link.heal()
