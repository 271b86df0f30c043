"""The desired state: plan, apply, drift and rollback against real agents."""

from __future__ import annotations

import json
import re
import signal
from pathlib import Path

import pytest
from nats.js.api import SubjectTransform
from nats.js.errors import APIError

from agents import Agent, Fleet
from bus import Bus
from deadlines import TIMEOUT_SEC, eventually
from netsonde.bus.nats_client import GuardedClient
from netsonde.service.desired import REFRESH_SEC
from operators import Operator, entries, known, policy
from servers import NatsServer

pytestmark = pytest.mark.jetstream


def started(fleet: Fleet, *hosts: str, **labels: str) -> list[Agent]:
    return [fleet.start(host, labels=labels) for host in hosts]


async def test_apply_reaches_the_selected_hosts(
    fleet: Fleet, client: GuardedClient, operator: Operator, bus: Bus
) -> None:
    started(fleet, "web1", "web2", role="web")
    started(fleet, "db1", role="db")
    await known(client, "web1", "web2", "db1")
    operator.write(policy("web", "role = web"))

    planned = operator.rows("plan", str(operator.file))
    assert {host: row["action"] for host, row in planned.items()} == {
        "web1": "create", "web2": "create", "db1": "none",
    }  # fmt: skip
    assert operator.run("plan", str(operator.file), "--exit-code").returncode == 2

    done = operator.run("apply", str(operator.file))
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[0] == "revision 1"
    assert done.stderr.splitlines()[-1] == "revision 1, 3 hosts: 3 applied"
    now = await entries(client)
    assert {host: entry.applied_rev for host, entry in now.items()} == dict.fromkeys(now, 1)
    assert now["web1"].session is not None
    assert now["db1"].session is None
    status = await bus.ok("status", host="web1")
    assert status["wanted_by"] == "policy"
    assert operator.run("plan", str(operator.file), "--exit-code").returncode == 0
    assert operator.run("drift").returncode == 0


async def test_change_that_needs_no_restart_keeps_the_session(
    fleet: Fleet, client: GuardedClient, operator: Operator
) -> None:
    started(fleet, "web1")
    await known(client, "web1")
    operator.write(policy("all", "host ~ '*'"))
    assert operator.run("apply", str(operator.file)).returncode == 0
    before = (await entries(client))["web1"].session
    operator.write(policy("all", "host ~ '*'", metering={"enable": True}))
    assert operator.run("apply", str(operator.file)).returncode == 0
    after = (await entries(client))["web1"].session
    assert before is not None
    assert after is not None
    assert before.session_id == after.session_id


async def test_drift_shows_an_override_and_rollback_restores(
    fleet: Fleet, client: GuardedClient, operator: Operator, bus: Bus
) -> None:
    started(fleet, "web1")
    await known(client, "web1")
    operator.write(policy("all", "host ~ '*'", filter="tcp"))
    assert operator.run("apply", str(operator.file)).returncode == 0
    refused = await bus.request("stop", host="web1")
    assert (refused.code, refused.error) == (409, "managed")
    await bus.ok("stop", {"override": True}, host="web1")

    async def drifts() -> bool:
        return bool((await entries(client))["web1"].drift)

    await eventually(drifts, "the override in the inventory")
    done = operator.run("drift")
    assert done.returncode == 1
    assert "overridden by the verb stop" in done.stdout
    drift = (await entries(client))["web1"].drift
    assert re.fullmatch(r"overridden by the verb stop until [0-9T:-]{19}Z", drift)

    operator.write(policy("all", "host ~ '*'", filter="udp"))
    assert operator.run("apply", str(operator.file)).stdout.startswith("revision 2")
    back = operator.run("rollback", "1")
    assert back.stdout.startswith("revision 3"), back.stderr
    planned = operator.rows("plan", str(operator.file))
    assert planned["web1"]["changes"]["filter"] == {"old": "tcp", "new": "udp"}
    assert operator.run("rollback", "9").returncode == 1


async def test_rollout_stops_at_failed_hosts_and_resumes(
    fleet: Fleet, client: GuardedClient, operator: Operator
) -> None:
    hosts = [f"h{number}" for number in range(6)]
    started(fleet, *hosts)
    await known(client, *hosts)
    operator.write(policy("all", "host ~ '*'"))
    assert operator.run("apply", str(operator.file)).returncode == 0
    rollout = {"canary": 1, "batch": 2, "max_failed": 0}
    operator.write(policy("all", "host ~ '*'", rollout, interface="absent0"))
    stopped = operator.run("apply", str(operator.file))
    assert stopped.returncode == 1
    assert "max_failed is 0" in stopped.stderr
    assert "to continue: netsonde apply --resume" in stopped.stderr
    now = await entries(client)
    [canary] = [host for host, entry in now.items() if entry.wanted_rev == 2]
    assert {entry.applied_rev for entry in now.values()} == {1}
    assert [host for host, entry in now.items() if entry.error] == [canary]
    # The others still capture under revision 1. A rollback repairs the canary only.
    sessions = {host: entry.session for host, entry in now.items() if host != canary}
    assert operator.run("rollback", "1").returncode == 0
    later = await entries(client)
    assert {entry.applied_rev for entry in later.values()} == {3}
    for host, session in sessions.items():
        kept = later[host].session
        assert session is not None
        assert kept is not None
        assert kept.session_id == session.session_id


async def test_killed_controller_is_succeeded_by_another(
    fleet: Fleet, client: GuardedClient, operator: Operator
) -> None:
    hosts = [f"h{number}" for number in range(5)]
    started(fleet, *hosts)
    await known(client, *hosts)
    rollout = {"canary": 1, "batch": 1, "soak": "300s"}
    operator.write(policy("all", "host ~ '*'", rollout))
    controller = operator.spawn("apply", str(operator.file))

    async def applied() -> int:
        return sum(entry.applied_rev == 1 for entry in (await entries(client)).values())

    await eventually(applied, "the canary")
    second = operator.run("apply", "--resume")
    assert second.returncode == 1
    assert "rolls a revision out" in second.stderr  # the first one still has the lease
    controller.send_signal(signal.SIGINT)  # gives the lease back
    controller.wait()
    assert await applied() == 1
    # Without the soak of the file, a resumed rollout still waits: end it by a new revision.
    operator.write(policy("all", "host ~ '*'"))
    assert operator.run("apply", str(operator.file)).returncode == 0
    assert await applied() == 0
    assert {entry.applied_rev for entry in (await entries(client)).values()} == {2}


async def test_late_and_rebooted_hosts_converge(
    fleet: Fleet, client: GuardedClient, operator: Operator, nats_server: NatsServer
) -> None:
    first = fleet.start("web1")
    await known(client, "web1")
    operator.write(policy("all", "host ~ '*'"))
    assert operator.run("apply", str(operator.file)).returncode == 0
    fleet.start("web2")

    async def converged(host: str) -> bool:
        entry = (await entries(client)).get(host)
        return entry is not None and entry.applied_rev == 1 and entry.session is not None

    await eventually(lambda: converged("web2"), "the late host")
    first.kill()
    nats_server.kill()
    first.spawn()
    await eventually(
        lambda: first.log.count("capture: started") == 2, "the cached policy without NATS"
    )
    nats_server.start()


async def test_write_that_is_stored_after_its_notice_is_found_soon(
    fleet: Fleet, client: GuardedClient, operator: Operator
) -> None:
    """In a cluster, agents hear of a write before its stream has stored it."""
    fleet.start("web1")
    await known(client, "web1")
    operator.write(policy("all", "host ~ '*'"))
    assert operator.run("apply", str(operator.file)).returncode == 0
    context = client.jetstream()
    bucket = (await context.stream_info("KV_capture-policy")).config
    bucket.subjects = ["$KV.capture-policy.>", "unheard.>"]
    bucket.subject_transform = SubjectTransform("unheard.>", "$KV.capture-policy.>")
    bucket.republish = None  # the copy would be a second notice
    await context.update_stream(bucket)
    revision = json.loads((await context.get_last_msg(*_stored("revision.1"))).data or b"")
    await context.publish(
        "$KV.capture-policy.revision.2", json.dumps(revision | {"revision": 2}).encode()
    )
    release = json.dumps({"revision": 2, "complete": True}).encode()
    lost = {"Nats-Expected-Last-Subject-Sequence": "0"}
    with pytest.raises(APIError, match="wrong last sequence"):  # every agent hears of it
        await context.publish("$KV.capture-policy.release", release, headers=lost)
    entry = (await entries(client))["web1"]
    assert entry.applied_rev == 1
    await context.publish("unheard.release", release)

    async def found() -> bool:
        return (await entries(client))["web1"].applied_rev == 2

    await eventually(found, "revision 2", within_sec=REFRESH_SEC * 0.75)


def _stored(key: str) -> tuple[str, str]:
    return "KV_capture-policy", f"$KV.capture-policy.{key}"


async def test_agent_keeps_its_policy_if_the_next_one_is_too_new(
    fleet: Fleet, client: GuardedClient, operator: Operator
) -> None:
    fleet.start("web1")
    await known(client, "web1")
    operator.write(policy("all", "host ~ '*'"))
    assert operator.run("apply", str(operator.file)).returncode == 0
    newer = {"schema": 99, "revision": 2}
    await client.request(
        "$KV.capture-policy.release", json.dumps(newer).encode(), timeout=TIMEOUT_SEC
    )

    async def reported() -> bool:
        return "unsupported_rev" in (await entries(client))["web1"].error

    await eventually(reported, "the error in the inventory")
    entry = (await entries(client))["web1"]
    assert entry.applied_rev == 1
    assert entry.session is not None


async def test_host_that_forbids_policies_keeps_its_state(
    fleet: Fleet, client: GuardedClient, operator: Operator
) -> None:
    fleet.start("web1", policy={"allow": {"*": ["read"]}})
    await known(client, "web1")
    operator.write(policy("all", "host ~ '*'"))
    done = operator.run("apply", str(operator.file))
    assert done.returncode == 1
    assert "policy_denied" in done.stdout
    assert (await entries(client))["web1"].session is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[[policy]]\nname = 'a'\n", "required field `select`"),
        (policy("a", "site ="), "policy a: selector, at character 7"),
        (policy("a", "site = x") * 2, "the name is used twice"),
        (policy("a", "site = x", {"batch": "0%"}), "batch must be at least 1 host"),
        (policy("a", "site = x", {"soak": "soon"}), "not a time"),
        (policy("a", "site = x", colour="red"), "unknown field `colour`"),
        ("[[policy", "fleet.toml"),
    ],
)
def test_malformed_policy_file_is_rejected(operator: Operator, text: str, words: str) -> None:
    operator.file.write_text(text)
    done = operator.run("apply", str(operator.file))
    assert done.returncode == 2
    assert words in done.stderr


def test_policies_need_an_inventory(tmp_path: Path) -> None:
    server = NatsServer(tmp_path / "plain").start()
    try:
        operator = Operator(server, tmp_path)
        operator.write(policy("a", "site = x"))
        done = operator.run("apply", str(operator.file))
        assert done.returncode == 1
        assert "There is no inventory" in done.stderr
    finally:
        server.kill()
