"""The demo's cast: a nats-server, an agent in a process of its own, a collector that shows
records as they arrive, and a shell that types the commands a user would type.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from ..bus.embedded import EmbeddedServer, die_with_parent
from ..collect.batches import read_batch
from ..config.sections import NatsSection
from ..errors import NetsondeError
from ..fleet.client import FleetClient, Pace, connect
from ..fleet.scatter import Reply
from ..fleet.stream import Ledger
from ..fleet.targeting import Target
from .flows import clock_time, describe_record

HOST = "demo"
READY_SEC_MAX = 8.0
LOG_LINES_SHOWN = 20
CONFIG = """\
[agent]
host = "{host}"
[agent.labels]
site = "here"
[nats]
servers = ["{url}"]
[capture]
live = false
replay_dirs = ["{directory}"]
[metrics]
interval_sec = 1
[http]
listen = ""
[log]
format = "console"
"""


@dataclass(slots=True)
class Stage:
    """What a play has at hand."""

    client: FleetClient
    config: Path
    directory: Path
    agent: asyncio.subprocess.Process
    records: list[dict[str, Any]] = field(default_factory=list)
    metrics: list[dict[str, Any]] = field(default_factory=list)
    ledger: Ledger = field(default_factory=Ledger)
    voice: asyncio.Lock = field(default_factory=asyncio.Lock)
    indented: bool = False

    async def type(self, *words: str) -> None:
        """Shows a command and runs it, as it is, in this process."""
        from . import main

        async with self.voice:
            print(f"\n$ netsonde {' '.join(words)}", flush=True)
            code = await asyncio.to_thread(main, [*words, "--config", str(self.config)])
            self.indented = False
        if code != 0:
            raise NetsondeError(f"'netsonde {words[0]}' ended with {code}.\n{self.log_tail()}")

    async def ask(self, verb: str) -> Reply:
        """The reply to a request without arguments, as a program would use it."""
        outcome = await self.client.ask(verb, {}, Target(hosts=(HOST,)), Pace(timeout_sec=5))
        if not outcome.complete:
            raise NetsondeError(f"The agent did not answer {verb!r}.\n{self.log_tail()}")
        return outcome.replies[0]

    async def collect_flows(self) -> None:
        """Keeps and prints every record that arrives, until cancelled."""
        async for message in self.client.follow("flows", [HOST]):
            batch = read_batch(message.data, message.headers)
            if self.ledger.note(batch.host, batch.boot, batch.seq):
                records = batch.objects()
                self.records += records
                await self.say([describe_record(record) for record in records])

    async def collect_metrics(self) -> None:
        """The same with metrics, one message a second."""
        async for message in self.client.follow("metrics", [HOST]):
            metrics = msgspec.json.decode(message.data, type=dict[str, Any])
            self.metrics.append(metrics)
            await self.say([describe_metrics(metrics)])

    async def say(self, lines: list[str]) -> None:
        """Prints, but never into the output of a command."""
        async with self.voice:
            gap = "" if self.indented else "\n"
            print(gap + "".join(f"  {line}\n" for line in lines), end="", flush=True)
            self.indented = True

    def log_tail(self) -> str:
        lines = (self.directory / "agent.log").read_text(errors="replace").splitlines()
        return "\n".join(["The agent's last words:", *lines[-LOG_LINES_SHOWN:]])


def describe_metrics(metrics: dict[str, Any]) -> str:
    return (
        f"{clock_time(metrics['time'])}  metrics {metrics['throughput_mbps']:.2f} Mbit/s, "
        f"{metrics['packets_per_sec']:,} packets/s, {metrics['active_flows']} active flows, "
        f"{metrics['packets_dropped']} packets dropped"
    )


@asynccontextmanager
async def open_stage(directory: Path) -> AsyncIterator[Stage]:
    """nats-server, agent and client, ended in the reverse order."""
    async with EmbeddedServer() as server:
        config = directory / "netsonde.toml"
        config.write_text(CONFIG.format(host=HOST, url=server.url, directory=directory))
        async with (
            run_agent(config, directory) as agent,
            connect(NatsSection(servers=[server.url])) as client,
        ):
            stage = Stage(client, config, directory, agent)
            await wait_ready(stage)
            yield stage


@asynccontextmanager
async def run_agent(config: Path, directory: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    with (directory / "agent.log").open("wb") as log:
        agent = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "netsonde", "run", "--config", str(config)),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            preexec_fn=die_with_parent,
            start_new_session=True,
        )
    try:
        yield agent
    finally:
        if agent.returncode is None:
            agent.terminate()
            try:
                async with asyncio.timeout(5):
                    await agent.wait()
            except TimeoutError:
                agent.kill()
                await agent.wait()


async def wait_ready(stage: Stage) -> None:
    target = Target(hosts=(HOST,))
    deadline = asyncio.get_running_loop().time() + READY_SEC_MAX
    while HOST not in (await stage.client.discover("PING", target, 0.5) or {}):
        if stage.agent.returncode is not None:
            raise NetsondeError(f"The agent ended by itself.\n{stage.log_tail()}")
        if asyncio.get_running_loop().time() > deadline:
            raise NetsondeError(f"The agent does not answer.\n{stage.log_tail()}")
        await asyncio.sleep(0.05)
