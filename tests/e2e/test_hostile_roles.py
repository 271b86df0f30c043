"""100,000 hostile requests over all verbs and roles: no fault, bounded memory, prompt `status`."""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import hypothesis
import pytest
from hypothesis import strategies as st
from nats.errors import MaxPayloadError

import netns
from agents import Agent, Fleet
from deadlines import eventually
from echo import echoing
from hostile import Request, certain, requests
from netsonde.wire.verbs import VERBS
from packets import UDP, at, ethernet, ipv4, udp, write_pcap
from roles import RoleClient, answers, entered, key_of, setup
from servers import NatsServer
from tapping import p99

REQUESTS = 100_000
POOL_ROUNDS = 200
AT_ONCE = 24
GROWTH_KIB_MAX = 100 * 1024
STATUS_P99_SEC_MAX = 0.1
SEED = 14

# Asks for `status` from another process, so that this one's work is not measured. Each time it
# also asks beta, whose replies cost nothing: its waits, which the test prints, are those of the
# machine as it is.
PROBE = """
import asyncio, json, sys, time
from pathlib import Path

from netsonde.bus.credentials import Login
from netsonde.bus.nats_client import GuardedClient
from netsonde.config.sections import NatsSection

async def probe(url, key):
    client = GuardedClient()
    client.login = Login(NatsSection(nkey=key))
    await client.connect(url, **client.login.options)
    waits = {"alpha": [], "beta": []}
    end = asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    while not end.done():
        for host, found in waits.items():
            began = time.monotonic()
            await client.request(f"capture.host.{host}.status", b"", timeout=30)
            found.append(time.monotonic() - began)
        await asyncio.sleep(0.02)
    print(json.dumps(waits))
    await client.close()

asyncio.run(probe(*sys.argv[1:]))
"""


@pytest.fixture
def nats_server(wire: netns.Wire, tmp_path: Path) -> Iterator[NatsServer]:
    """Replaces the suite's server. Runs in a network namespace, so that an export to a made-up
    collector stays inside."""
    server = NatsServer(tmp_path / "nats", config=setup(tmp_path).read_text()).start()
    yield server
    server.kill()


@pytest.fixture
def agent(fleet: Fleet, tmp_path: Path) -> Agent:
    allowed = tmp_path / "allowed"
    (allowed / "directory").mkdir(parents=True)
    os.mkfifo(allowed / "fifo")
    (allowed / "link").symlink_to("/etc/passwd")
    (allowed / "key").write_bytes(bytes(32))
    frame = ethernet(ipv4(udp(b"payload", 1000, 53), UDP, "10.0.0.1", "10.0.0.2"))
    write_pcap(allowed / "ok.pcap", [at(1_767_225_600_000_000_000, frame)] * 20)
    return fleet.agent(
        "alpha",
        labels={"site": "ams"},
        nats={"nkey": key_of(tmp_path, "alpha")},
        policy={"identity": "server"},
        capture={"replay_dirs": [allowed], "ring_mb": 1},
        encryption={"key_dirs": [allowed]},
        firmware={"dirs": [allowed]},
        flows={"flow_table_size": 1024, "record_ring_size": 1024},
        log={"level": "error"},
    ).spawn()


def pool() -> list[Request]:
    """Returns a few thousand different requests."""
    made: list[Request] = []

    @hypothesis.settings(
        max_examples=POOL_ROUNDS,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(st.lists(requests("capture", "alpha"), min_size=20, max_size=20))
    def collect(some: list[Request]) -> None:
        made.extend(some)

    collect()
    return made


def damaged(request: Request, chance: random.Random) -> Request:
    """Returns the request, or one with a changed, missing or doubled byte, or a new Request-Id."""
    kind, body, headers = chance.randrange(6), bytearray(request.body), request.headers
    place = chance.randrange(len(body)) if body else 0
    if kind == 0 and body:
        body[place] ^= 1 << chance.randrange(8)
    elif kind == 1 and body:
        del body[place:]
    elif kind == 2:
        body[place:place] = body[place : place + 1]
    elif kind == 3:
        headers = (headers or {}) | {"Request-Id": str(chance.randrange(10**6))}
    return Request(request.subject, bytes(body), headers)


def verb_of(request: Request) -> str:
    return re.sub(r"^capture\.(host\.alpha\.|group\.site\.ams\.)?", "", request.subject)


async def attack(
    numbers: Iterator[int], made: list[Request], roles: list[RoleClient], seen: Counter[int]
) -> None:
    """The first role waits for replies. The others may not send every request, so only publish."""
    controller, *others = roles
    for number in numbers:
        chance = random.Random(SEED + number)
        request = damaged(chance.choice(made), chance)
        body = request.body
        try:
            if number % 4 == 3:
                someone = others[number // 4 % len(others)]
                await someone.client.publish(
                    request.subject, body, reply="_INBOX.dropped", headers=request.headers
                )
                continue
            reply = await controller.client.request(
                request.subject, body, timeout=60, headers=request.headers
            )
        except MaxPayloadError:
            continue
        code = int((reply.headers or {})["Status-Code"])
        assert code != 500, (request, reply.data)
        seen[code] += 1


async def test_hundred_thousand_hostile_requests(
    agent: Agent, nats_server: NatsServer, tmp_path: Path
) -> None:
    made = await asyncio.to_thread(pool)
    assert {verb_of(request) for request in made} == set(VERBS)
    made += [one for one, code in certain("capture", "alpha", "") if code == 403] * 20
    async with AsyncExitStack() as stack:
        control = "capture.host.beta.status"
        stack.enter_context(echoing(nats_server.url, control, key_of(tmp_path, "beta")))
        roles = [
            await stack.enter_async_context(entered(nats_server, tmp_path, name))
            for name in ("ctl", "ops", "col", "beta")
        ]
        status = "capture.host.alpha.status"
        await eventually(lambda: answers(roles[0], status), "the agent to answer")
        before = resident_kib(agent, "VmRSS")
        probe = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", PROBE, nats_server.url, str(key_of(tmp_path, "ctl"))),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        seen: Counter[int] = Counter()
        shared = iter(range(REQUESTS))
        await asyncio.gather(*(attack(shared, made, roles, seen) for _ in range(AT_ONCE)))
        out, _ = await probe.communicate(b"")
        waits = json.loads(out)
        await roles[0].client.request("capture.host.alpha.stop", b"", timeout=60)
        after = resident_kib(agent, "VmRSS")
    took, least = p99(waits["alpha"]), p99(waits["beta"])
    print(f"codes {dict(seen)}; p99 {took} s, control {least} s; resident {before} to {after} KiB")
    assert {200, 204, 400, 403, 409, 422} <= set(seen)
    assert after - before < GROWTH_KIB_MAX
    assert took < STATUS_P99_SEC_MAX
    assert "incident" not in agent.log


def resident_kib(agent: Agent, name: str) -> int:
    lines = Path(f"/proc/{agent.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name))
