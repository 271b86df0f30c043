"""Ten thousand hostile requests over every verb: no crash, no leak, no file disclosed."""

from __future__ import annotations

import asyncio
import os
import re
from collections import Counter
from pathlib import Path

import hypothesis
from hypothesis import strategies as st
from nats.errors import MaxPayloadError

import netns
from agents import Agent, Fleet
from bus import Bus, Reply
from hostile import Request, certain, requests
from netsonde.wire.verbs import VERBS
from packets import UDP, at, ethernet, ipv4, udp, write_pcap
from servers import NatsServer

REQUESTS_AT_ONCE = 10
ROUNDS = 1000
WARM_ROUNDS = 300
GROWTH_KIB_MAX = 24 * 1024
SECRET = "s3cret-place"
SLIPS = re.compile(
    rf"{SECRET}|Traceback|site-packages|netsonde/|\.py\b|\w+Error\(|Exception|<class|0x[0-9a-f]{{8}}"
)


def victim(fleet: Fleet, tmp_path: Path) -> Agent:
    """An agent that may replay one directory with a capture and several traps."""
    allowed = tmp_path / SECRET
    (allowed / "directory").mkdir(parents=True)
    os.mkfifo(allowed / "fifo")
    (allowed / "link").symlink_to("/etc/passwd")
    (allowed / "key").write_bytes(bytes(32))
    (tmp_path / "secret").write_text("nobody's business")
    frame = ethernet(ipv4(udp(b"payload", 1000, 53), UDP, "10.0.0.1", "10.0.0.2"))
    write_pcap(allowed / "ok.pcap", [at(1_767_225_600_000_000_000, frame)] * 20)
    fleet.directory = tmp_path / "agents"
    return fleet.start(
        "alpha",
        labels={"site": "ams"},
        capture={"replay_dirs": [allowed], "ring_mb": 1},
        encryption={"key_dirs": [allowed]},
        firmware={"dirs": [allowed]},
        flows={"flow_table_size": 1024, "record_ring_size": 1024},
        log={"level": "error"},
    )


def test_hostile_requests_do_no_harm(
    wire: netns.Wire, nats_server: NatsServer, fleet: Fleet, tmp_path: Path
) -> None:
    """Runs in a network namespace, so that an export to a made-up collector stays inside."""
    agent = victim(fleet, tmp_path)
    seen: Counter[tuple[str, int]] = Counter()
    memory: list[int] = []
    with asyncio.Runner() as runner:
        bus = runner.run(Bus.connect(nats_server.url))

        @hypothesis.settings(
            max_examples=ROUNDS,
            deadline=None,
            database=None,
            derandomize=True,
            suppress_health_check=list(hypothesis.HealthCheck),
        )
        @hypothesis.given(
            st.lists(
                requests("capture", "alpha"),
                min_size=REQUESTS_AT_ONCE,
                max_size=REQUESTS_AT_ONCE,
            )
        )
        def attack(made: list[Request]) -> None:
            for request, reply in zip(made, runner.run(send(bus, made)), strict=True):
                check(request, reply)
                seen[request.subject.split(".", 1)[1], reply.code] += 1
            if sum(seen.values()) >= WARM_ROUNDS * REQUESTS_AT_ONCE and not memory:
                memory.append(runner.run(quiet(bus, agent)))

        for request, code in certain("capture", "alpha", "ok.pcap"):
            (reply,) = runner.run(send(bus, [request]))
            assert reply.code == code, (request, reply)
            check(request, reply)
            seen[request.subject.split(".", 1)[1], reply.code] += 1
        attack()
        memory.append(runner.run(quiet(bus, agent)))
        descriptors = len(os.listdir(f"/proc/{agent.pid}/fd"))
        runner.run(bus.close())
    assert sum(seen.values()) >= 10_000
    for verb in VERBS:
        assert sum(n for (subject, _), n in seen.items() if subject.endswith(verb)) > 100, verb
    assert {200, 204, 400, 403, 404, 409, 422} <= {code for _, code in seen}
    assert memory[1] - memory[0] < GROWTH_KIB_MAX, f"resident KiB: {memory}"
    assert descriptors < 64
    assert "incident" not in agent.log


async def send(bus: Bus, made: list[Request]) -> list[Reply]:
    return list(await asyncio.gather(*(ask(bus, request) for request in made)))


async def ask(bus: Bus, request: Request) -> Reply:
    try:
        message = await bus.client.request(
            request.subject, request.body, timeout=30, headers=request.headers
        )
    except MaxPayloadError:
        message = await bus.client.request(request.subject, b"[", timeout=30)
    return Reply.of(message)


def check(request: Request, reply: Reply) -> None:
    assert reply.code != 500, (request, reply)
    assert reply.code in (200, 204, 400, 403, 404, 409, 422, 429, 503), (request, reply)
    text = reply.raw.decode(errors="replace") + "\n".join(map(str, reply.headers.values()))
    slip = SLIPS.search(text)
    # A reply may repeat the requester's own words.
    asked = request.body.decode(errors="replace")
    assert slip is None or slip[0] in asked or reply.code < 300, (slip, request, reply)
    assert SECRET not in text, (request, reply)


async def quiet(bus: Bus, agent: Agent) -> int:
    """Returns the resident KiB without a session."""
    await bus.request("stop")
    assert (await bus.request("status")).code == 204
    return resident_kib(agent.pid)


def resident_kib(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))
