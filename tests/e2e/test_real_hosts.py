"""Real agents, each in its own network namespace: absent hosts, rollouts, hosts that join late.

FLEET_HOSTS=30 runs the same tests with 30 hosts; `pytest -s` prints how long each step took.
"""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest

from agents import Fleet
from bus import Bus, gone, settled
from deadlines import TIMEOUT_SEC, eventually
from machines import COUNT, HUB_ADDRESS, LAN_DEVICE, Machines, Network, Stopwatch
from netns import entered
from netsonde.bus.nats_client import GuardedClient
from netsonde.wire.inventory import HostEntry
from netsonde.wire.policy import Release, point
from operators import Operator, entries, listed, policy
from replay import check_conservation
from servers import NatsServer

pytestmark = pytest.mark.jetstream

EACH = max(COUNT // 6, 2)  # hosts killed, frozen, and cut off
LOST_WITHIN_SEC, BACK_WITHIN_SEC, CONVERGED_WITHIN_SEC = 95.0, 35.0, 15.0
ALL = "host ~ '*'"
CAPTURE = ("-b", "af_packet", "--buffer-mb", "1")


@pytest.fixture
def network() -> Iterator[Network]:
    """The namespaces. The test's thread is in the hub."""
    network = Network()
    try:
        network.create()
        with entered(network.hub):
            yield network
    finally:
        network.delete()


@pytest.fixture
def nats_server(tmp_path: Path, network: Network) -> Iterator[NatsServer]:
    directory = tmp_path / "nats"
    server = NatsServer(
        directory,
        config=f'jetstream {{ store_dir: "{directory}" }}',
        address=HUB_ADDRESS,
        prefix=("ip", "netns", "exec", network.hub),
    ).start()
    yield server
    server.kill()


@pytest.fixture
def machines(network: Network, fleet: Fleet) -> Machines:
    return Machines(network, fleet)


@pytest.fixture
def watch() -> Stopwatch:
    return Stopwatch()


async def listed_hosts(client: GuardedClient, hosts: tuple[str, ...]) -> None:
    async def all_known() -> bool:
        return set(hosts) <= (await entries(client)).keys()

    await eventually(all_known, "every host in the inventory", interval_sec=0.1)


def shown(done: subprocess.CompletedProcess[str]) -> dict[str, str]:
    """Returns "ok", the error, or the reason of absence by host, from the output of `--json`."""
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    return {row["host"]: row.get("absent") or row.get("error") or "ok" for row in rows}


# ---- hosts that are away -------------------------------------------------------------------


def commands_of(directory: Path) -> dict[str, tuple[str, ...]]:
    """The commands that every absent host must be seen in. `stop` and `start` come last."""
    return {
        "ps": ("ps",),
        "status": ("status",),
        "metrics": ("metrics",),
        "flows": ("flows",),
        "packets": ("packets", "--timeout", "4", "-w", str(directory / "fetched.pcapng")),
        "top": ("top", "-n", "1"),
        "meter": ("meter", "on"),
        "stop": ("stop", "--timeout", "4"),
        "start": ("start", "-i", LAN_DEVICE, *CAPTURE, "--timeout", "4"),
    }


async def test_absent_hosts_are_shown_lost_and_come_back(
    machines: Machines,
    client: GuardedClient,
    operator: Operator,
    bus: Bus,
    tmp_path: Path,
    watch: Stopwatch,
) -> None:
    network, hosts = machines.network, machines.network.hosts
    dead, frozen, cut = (hosts[index * EACH : (index + 1) * EACH] for index in range(3))
    well = hosts[3 * EACH :]
    machines.start(*hosts)
    watch.lap("all agents reply")
    await listed_hosts(client, hosts)
    assert operator.run("start", "-i", "lo", *CAPTURE, "--meter").returncode == 0
    operator.write(policy("nobody", "host = nobody"))
    assert operator.run("apply", str(operator.file)).returncode == 0
    machines.send_traffic(*hosts)
    before = {host: (await bus.ok("status", host=host))["session_id"] for host in hosts}

    watch.lap("start, apply, traffic")
    for host in dead:
        machines.kill(host)
    await gone(client, *dead)
    for host in frozen:
        machines.freeze(host)
    for host in cut:
        network.cut(host)
    away = Stopwatch()
    reasons = dict.fromkeys(dead, "not connected") | dict.fromkeys((*frozen, *cut), "no answer")
    for name, words in commands_of(tmp_path).items():
        watch.lap("")
        done = operator.run(*words, "--json")
        watch.lap(name)
        assert shown(done) == reasons | dict.fromkeys(well, "ok"), (name, done.stderr)
        assert done.returncode == 1, name
        summary = f"{COUNT} asked: {len(well)} ok, {EACH} not connected, {2 * EACH} no answer"
        assert any(line.startswith(summary) for line in done.stderr.splitlines()), done.stderr
    print(f"commands ended {away.elapsed_sec:.1f} s after the faults")

    lost = dict.fromkeys((*dead, *frozen, *cut), "lost") | dict.fromkeys(well, "ok")

    async def all_lost() -> bool:
        now = (await listed(client)).hosts
        return {host: "lost" if one.lost else "ok" for host, one in now.items()} == lost

    await eventually(all_lost, "absent hosts to be lost", within_sec=180, interval_sec=0.1)
    assert away.lap("all lost after") <= LOST_WITHIN_SEC
    for words in (("ps",), ("status",), ("top", "-n", "1")):
        done = operator.run(*words, "--json")
        assert (shown(done), done.returncode) == (lost, 1), words
    check_drift_and_plan(operator, lost)

    watch.lap("")
    for host in frozen:
        machines.thaw(host)
    for host in cut:
        network.heal(host)
    for host in dead:
        machines.agents[host].spawn()

    async def all_back() -> bool:
        return not any(one.lost for one in (await listed(client)).hosts.values())

    await eventually(all_back, "every host to be back", within_sec=120, interval_sec=0.1)
    assert watch.lap("all back after") <= BACK_WITHIN_SEC
    done = operator.run("ps", "--json")
    assert (shown(done), done.returncode) == (dict.fromkeys(hosts, "ok"), 0), done.stderr
    for host in (*frozen, *cut):  # an expired `stop` or `start` was not executed
        status = await bus.ok("status", host=host)
        assert status["session_id"] == before[host]
        check_conservation(status)


def check_drift_and_plan(operator: Operator, states: dict[str, str]) -> None:
    done = operator.run("drift", "--json")
    rows = map(json.loads, done.stdout.splitlines())
    found = {row["host"]: (row["drift"] or "ok").partition(":")[0] for row in rows}
    assert found == states
    assert done.returncode == 1
    operator.write(policy("all", ALL))
    planned = operator.rows("plan", str(operator.file))
    assert {host: "lost" if row["lost"] else "ok" for host, row in planned.items()} == states


# ---- rollouts ------------------------------------------------------------------------------


class Rollouts:
    """Every write of the release and of the hosts' entries, in the server's order."""

    def __init__(self) -> None:
        self.writes: list[tuple[str, Any]] = []

    async def listen(self, client: GuardedClient) -> Rollouts:
        async def keep(message: Any) -> None:
            kind = "release" if message.subject.endswith(".release") else "host"
            body = json.loads(message.data)
            self.writes.append((kind, body))

        await client.subscribe("$KV.*.*", cb=keep)
        await client.flush()
        return self

    def ended(self, revision: int) -> bool:
        return any(
            kind == "release" and body["revision"] == revision and body["complete"]
            for kind, body in self.writes
        )

    async def steps(self, revision: int, hosts: tuple[str, ...]) -> list[set[str]]:
        """Returns the hosts of each widening. Checks that it came after all hosts of the earlier
        ones had applied the revision."""
        await eventually(lambda: self.ended(revision), "the writes of the rollout")
        applied: set[str] = set()
        steps: list[set[str]] = []
        for kind, body in self.writes:
            if kind == "host" and body.get("applied_rev") == revision:
                applied.add(body["host"])
            if kind != "release" or body["revision"] != revision:
                continue
            limit = max(body["limits"].values(), default=0)
            reached = {host for host in hosts if point(revision, host) < limit}
            new = reached - set().union(*steps)
            if new:
                assert set().union(*steps) <= applied
                steps.append(new)
        return steps


async def test_rollout_goes_in_batches_stops_and_resumes_elsewhere(
    machines: Machines,
    client: GuardedClient,
    operator: Operator,
    nats_server: NatsServer,
    tmp_path: Path,
    watch: Stopwatch,
) -> None:
    network, hosts = machines.network, machines.network.hosts
    machines.start(*hosts)
    await listed_hosts(client, hosts)
    operator.write(policy("all", ALL, metering={"enable": True}))
    watch.lap("")
    assert operator.run("apply", str(operator.file)).returncode == 0
    watch.lap("apply to all at once")

    # One host lacks the interface: it fails, and no host after its batch changes.
    order = sorted(hosts, key=lambda host: point(2, host))
    batch = max(COUNT // 5, 2)
    bad, reached = order[1 + batch], set(order[: 1 + 2 * batch])
    network.lan_delete(bad)
    rollouts = await Rollouts().listen(client)
    rollout = {"canary": 1, "batch": batch, "max_failed": 0}
    lan = policy("all", ALL, rollout, interface=LAN_DEVICE, metering={"enable": True})
    operator.write(lan)
    before = await entries(client)
    stopped = operator.run("apply", str(operator.file), "--json")
    watch.lap("apply until the failed host")
    assert stopped.returncode == 1
    assert "max_failed is 0" in stopped.stderr
    now = await entries(client)
    assert {host for host, entry in now.items() if entry.wanted_rev == 2} == reached
    assert {host for host, entry in now.items() if entry.error} == {bad}
    assert session_ids(now, *set(hosts) - reached) == session_ids(before, *set(hosts) - reached)
    network.lan_add(bad)
    await eventually(lambda: applied(client, 2, bad), "the failed host to converge")

    watch.lap("")
    elsewhere = Operator(nats_server, tmp_path / "elsewhere", state=tmp_path / "elsewhere")
    resumed = elsewhere.run("apply", "--resume")
    watch.lap("apply --resume")
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    steps = await rollouts.steps(2, hosts)
    assert [len(step) for step in steps[:3]] == [1, batch, batch]
    assert all(len(step) <= batch for step in steps)
    assert [host for step in steps for host in sorted(step, key=order.index)] == order
    await check_no_restart(operator, client, hosts, rollout)
    watch.lap("apply without restart")

    back = operator.run("rollback", "1")
    watch.lap("rollback")
    assert (back.returncode, back.stdout.splitlines()[0]) == (0, "revision 4"), back.stderr
    now = await entries(client)
    assert {entry.applied_rev for entry in now.values()} == {4}
    assert {entry.session.interface for entry in now.values() if entry.session} == {"lo"}
    assert operator.run("drift").returncode == 0


async def check_no_restart(
    operator: Operator, client: GuardedClient, hosts: tuple[str, ...], rollout: dict[str, Any]
) -> None:
    before = session_ids(await entries(client), *hosts)
    metering = {"enable": True, "flow_timeout_sec": 20}
    operator.write(policy("all", ALL, rollout, interface=LAN_DEVICE, metering=metering))
    done = operator.run("apply", str(operator.file))
    assert done.returncode == 0, done.stdout + done.stderr
    now = await entries(client)
    assert {entry.applied_rev for entry in now.values()} == {3}
    assert session_ids(now, *hosts) == before


def session_ids(found: dict[str, HostEntry], *hosts: str) -> dict[str, str]:
    sessions = {host: found[host].session for host in hosts}
    return {host: one.session_id for host, one in sessions.items() if one is not None}


async def test_killed_controller_is_succeeded_and_no_host_changes_twice(
    machines: Machines,
    client: GuardedClient,
    operator: Operator,
    bus: Bus,
    nats_server: NatsServer,
    tmp_path: Path,
    watch: Stopwatch,
) -> None:
    hosts = machines.network.hosts
    machines.start(*hosts)
    await listed_hosts(client, hosts)
    events = await bus.events(kind="capture")
    rollouts = await Rollouts().listen(client)
    rollout = {"canary": 1, "batch": max(COUNT // 5, 2), "soak": "2s"}
    operator.write(policy("all", ALL, rollout, metering={"enable": True}))
    controller = operator.spawn("apply", str(operator.file))

    async def some_applied() -> bool:
        done = sum(entry.applied_rev == 1 for entry in (await entries(client)).values())
        return 1 < done < COUNT

    await eventually(some_applied, "the first batch")
    controller.send_signal(signal.SIGKILL)
    controller.wait()
    watch.lap("")
    elsewhere = Operator(nats_server, tmp_path / "elsewhere", state=tmp_path / "elsewhere")

    async def resumed() -> bool:
        done = elsewhere.run("apply", "--resume")
        assert done.returncode == 0 or "if that client is gone, try again in" in done.stderr
        return done.returncode == 0

    await eventually(resumed, "the rollout to be resumed", interval_sec=0.5)
    watch.lap("resume after a killed controller")
    now = await entries(client)
    assert {entry.applied_rev for entry in now.values()} == {1}
    steps = await rollouts.steps(1, hosts)
    assert sorted(host for step in steps for host in step) == sorted(hosts)

    def named(event: str) -> list[str]:
        return sorted(one["host"] for one in events.all() if one["event"] == event)

    def heard_from_all(event: str) -> bool:
        return set(named(event)) == set(hosts)

    # Another connection carries the events: they may come later than the entries.
    for event in ("policy_changed", "started"):
        await eventually(partial(heard_from_all, event), f"{event} of all hosts")
    await settled(bus.client)
    for event in ("policy_changed", "started"):
        assert named(event) == sorted(hosts)


# ---- hosts that join or boot ---------------------------------------------------------------


async def test_hosts_that_join_or_boot_converge_at_once(
    machines: Machines,
    client: GuardedClient,
    operator: Operator,
    nats_server: NatsServer,
    watch: Stopwatch,
) -> None:
    hosts = machines.network.hosts
    late, rebooted, present = hosts[0], hosts[1:-1], hosts[-1:]
    machines.start(*hosts[1:])
    await listed_hosts(client, hosts[1:])
    operator.write(policy("all", ALL))
    assert operator.run("apply", str(operator.file)).returncode == 0
    for host in rebooted:
        machines.kill(host)
    operator.write(policy("all", ALL, metering={"enable": True}))
    updating = operator.spawn("apply", str(operator.file))
    await eventually(lambda: applied(client, 2, *present), "the release of revision 2")
    updating.kill()
    updating.wait()
    # The last step of a rollout over a large fleet: running hosts wait up to 30 s.
    release = Release(revision=2, complete=True, hosts=1_000_000)
    await put_release(client, release)

    watch.lap("")
    machines.start(late, *rebooted)
    took = Stopwatch()
    await eventually(lambda: applied(client, 2, *hosts), "every host to have revision 2")
    assert took.lap("joined and rebooted hosts converge") <= CONVERGED_WITHIN_SEC

    nats_server.kill()
    for host in rebooted:
        machines.kill(host)
    starts = {host: capture_starts(machines, host) for host in rebooted}
    for host in rebooted:
        machines.agent(host).spawn()
    for host, before in starts.items():
        await cached_policy_runs(machines, host, before)
    watch.lap("cached policy runs without NATS")
    nats_server.start()
    await eventually(lambda: applied(client, 2, *hosts), "every host to be back")
    assert operator.run("drift").returncode == 0


async def put_release(client: GuardedClient, release: Release) -> None:
    body = msgspec.json.encode(release)
    reply = await client.request("$KV.capture-policy.release", body, timeout=TIMEOUT_SEC)
    assert "seq" in json.loads(reply.data)


async def applied(client: GuardedClient, revision: int, *hosts: str) -> bool:
    found = await entries(client)
    return all(
        host in found
        and found[host].applied_rev == revision
        and found[host].session is not None
        and not found[host].error
        for host in hosts
    )


def capture_starts(machines: Machines, host: str) -> int:
    return machines.agents[host].log.count("capture: started")


async def cached_policy_runs(machines: Machines, host: str, before: int) -> None:
    await eventually(lambda: capture_starts(machines, host) > before, f"{host} to capture")
