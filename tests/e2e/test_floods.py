"""Floods of requests: bounded memory, a bounded wait for `status`, and a connection that holds."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Coroutine
from pathlib import Path

from agents import Agent, Fleet
from bus import Bus
from deadlines import TIMEOUT_SEC, eventually
from processes import run_delay_sec
from servers import NatsServer

GROWTH_KIB_MAX = 64 * 1024
STATUS_SEC_MAX = 2.0


def resident_kib(agent: Agent) -> int:
    lines = Path(f"/proc/{agent.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))


ATTACK = """
import asyncio, collections, sys, nats

async def attack(url, subject, count, size, pause):
    client = await nats.connect(url)
    codes = collections.Counter()
    async def note(message):
        codes[(message.headers or {}).get("Status-Code")] += 1
    await client.subscribe("answers", cb=note)
    body = b'{"reason": "' + b"x" * size + b'"}' if size else b"{}"
    headers = {"Request-Id": "r"} if size else None
    for _ in range(count):
        if pause:
            await note(await client.request(subject, body, timeout=30, headers=headers))
        else:
            await client.publish(subject, body, reply="answers", headers=headers)
    await client.flush(60)
    while seen := sum(codes.values()):
        await asyncio.sleep(0.5)
        if sum(codes.values()) == seen:
            break
    print(*(code for code in codes))
    await client.close()

url, subject, count, size, pause = sys.argv[1:]
asyncio.run(attack(url, subject, int(count), int(size), int(pause)))
"""


async def attack(url: str, subject: str, *, count: int, size: int, pause: bool) -> set[str]:
    """Sends the requests from another process. Returns the codes of the replies."""
    attacker = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", ATTACK, url, subject, str(count), str(size), str(int(pause))),
        stdout=asyncio.subprocess.PIPE,
    )
    out, _ = await attacker.communicate()
    assert attacker.returncode == 0
    return set(out.decode().split())


async def slowest_status(bus: Bus, flood: asyncio.Task[set[str]], *pids: int) -> float:
    """Asks for `status` until the flood has ended. Returns the longest wait for a reply, without
    the time in which these processes or the test wanted a processor and had none."""
    waits: list[float] = []
    while not waits or not flood.done():
        began = time.monotonic() - run_delay_sec(os.getpid(), *pids)
        assert (await bus.request("status", timeout_sec=TIMEOUT_SEC)).code in (204, 429)
        waits.append(time.monotonic() - run_delay_sec(os.getpid(), *pids) - began)
    return max(waits)


async def test_flood_of_schema_requests_does_not_fill_the_memory(
    alpha: Agent, bus: Bus, nats_server: NatsServer
) -> None:
    await bus.ok("schema")
    before = resident_kib(alpha)
    flood = asyncio.create_task(
        attack(nats_server.url, "capture.schema", count=10_000, size=0, pause=False)
    )
    slowest = await slowest_status(bus, flood, alpha.pid, nats_server.pid)
    assert resident_kib(alpha) - before < GROWTH_KIB_MAX
    assert await flood <= {"200", "429"}
    assert slowest < STATUS_SEC_MAX


async def test_connection_survives_large_retries(
    alpha: Agent, bus: Bus, nats_server: NatsServer
) -> None:
    flood = asyncio.create_task(
        attack(nats_server.url, "capture.stop", count=700, size=900_000, pause=True)
    )
    slowest = await slowest_status(bus, flood, alpha.pid, nats_server.pid)
    await flood
    assert slowest < STATUS_SEC_MAX
    assert "Connection lost" not in alpha.log
    assert "reset by peer" not in alpha.log


async def test_flood_of_large_bodies_does_not_cut_the_connection(tmp_path: Path) -> None:
    """The server cuts a client that is 64 MiB behind. It allows more here, because on a busy
    machine no client runs often enough. The agent must not drop the connection either: the PONG
    of its server is behind the flood."""
    server = NatsServer(tmp_path / "nats", config="max_pending: 1GB\n").start()
    fleet = Fleet(server, tmp_path)
    alpha = fleet.start("alpha")
    bus = await Bus.connect(server.url)
    try:
        before = resident_kib(alpha)
        floods = [
            attack(server.url, "capture.start", count=175, size=900_000, pause=False)
            for _ in range(4)
        ]
        flood = asyncio.create_task(all_codes(floods))
        await slowest_status(bus, flood)
        assert await flood <= {"422", "429"}

        async def counted() -> bool:  # also those whose body was dropped
            return await requests_of(bus, "start") == 700

        await eventually(counted, "every request to be counted")
        assert alpha.log.count('"event": "connected"') == 2  # control and data, once each
        assert resident_kib(alpha) - before < GROWTH_KIB_MAX
    finally:
        await bus.close()
        problems = fleet.dismiss()
        server.kill()
    assert not problems


async def requests_of(bus: Bus, verb: str) -> int:
    reply = await bus.client.request("$SRV.STATS.netsonde.alpha", b"", timeout=TIMEOUT_SEC)
    endpoints = json.loads(reply.data)["endpoints"]
    return next(int(one["num_requests"]) for one in endpoints if one["name"] == verb)


async def all_codes(floods: list[Coroutine[None, None, set[str]]]) -> set[str]:
    return set().union(*await asyncio.gather(*floods))
