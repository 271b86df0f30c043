"""The demo's processes: a nats-server, an agent, and a client that prints what arrives."""

from __future__ import annotations

import asyncio
import os
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
from ..fleet.stream import GapCounter
from ..fleet.targeting import Target
from ..wire.quantity import counted
from .flows import clock_time, describe_record
from .output import put_lines

HOST = "demo"
TARGET = Target(hosts=(HOST,))
READY_SEC_MAX = 8.0
STOP_SEC_MAX = 5.0
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
[flows]
labels = ["dns", "http"]
[metrics]
interval_sec = 1
[http]
listen = ""
[log]
format = "console"
"""


@dataclass(slots=True)
class Lab:
    """A running agent, and everything that has arrived from it."""

    client: FleetClient
    config: Path
    directory: Path
    agent: asyncio.subprocess.Process
    records: list[dict[str, Any]] = field(default_factory=list)
    metrics: list[dict[str, Any]] = field(default_factory=list)
    counter: GapCounter = field(default_factory=GapCounter)
    output: asyncio.Lock = field(default_factory=asyncio.Lock)
    indented: bool = False

    async def type(self, *words: str) -> None:
        """Prints a command and runs it in this process. Raises NetsondeError if it fails."""
        from . import main

        async with self.output:
            put_lines(f"\n$ netsonde {' '.join(words)}", flush=True)
            code = await asyncio.to_thread(main, [*words, "--config", str(self.config)])
            self.indented = False
        if code != 0:
            raise self.failure(f"'netsonde {words[0]}' exited with {code}.")

    async def ask(self, verb: str) -> Reply:
        """Returns the agent's reply to a request without arguments."""
        outcome = await self.client.ask(verb, {}, TARGET, Pace(timeout_sec=5))
        if not outcome.complete:
            raise self.failure(f"The agent did not reply to {verb!r}.")
        return outcome.replies[0]

    @asynccontextmanager
    async def follow(self) -> AsyncIterator[None]:
        """Keeps and prints flow records and metrics as they arrive. An error ends the demo."""
        async with asyncio.TaskGroup() as tasks:
            followers = [tasks.create_task(self.follow_flows())]
            followers += [tasks.create_task(self.follow_metrics())]
            try:
                yield
            finally:
                for follower in followers:
                    follower.cancel()

    async def follow_flows(self) -> None:
        async for message in self.client.follow("flows", [HOST]):
            batch = read_batch(message.subject, message.data, message.headers)
            if self.counter.note(batch.host, batch.boot, batch.seq):
                records = batch.objects()
                await self.show([describe_record(record) for record in records])
                self.records += records

    async def follow_metrics(self) -> None:
        async for message in self.client.follow("metrics", [HOST]):
            metrics = msgspec.json.decode(message.data, type=dict[str, Any])
            self.metrics.append(metrics)
            await self.show([describe_metrics(metrics)])

    async def show(self, lines: list[str]) -> None:
        """Prints lines, never in the middle of a command's output."""
        async with self.output:
            gap = "" if self.indented else "\n"
            put_lines(gap + "".join(f"  {line}\n" for line in lines), flush=True)
            self.indented = True

    def failure(self, words: str) -> NetsondeError:
        lines = (self.directory / "agent.log").read_text(errors="replace").splitlines()
        tail = "\n".join(lines[-LOG_LINES_SHOWN:])
        return NetsondeError(f"{words}\nThe end of the agent's log:\n{tail}")


def describe_metrics(metrics: dict[str, Any]) -> str:
    return (
        f"{clock_time(metrics['time'])}  metrics {metrics['throughput_mbps']:.2f} Mbit/s, "
        f"{metrics['packets_per_sec']:,} packets/s, "
        f"{counted(metrics['active_flows'], 'active flow')}, "
        f"{counted(metrics['packets_dropped'], 'packet')} dropped"
    )


@asynccontextmanager
async def open_lab(directory: Path) -> AsyncIterator[Lab]:
    """Starts nats-server, agent and client. Stops them in reverse order."""
    async with EmbeddedServer() as server:
        config = directory / "netsonde.toml"
        config.write_text(CONFIG.format(host=HOST, url=server.url, directory=directory))
        async with (
            run_agent(config) as agent,
            connect(NatsSection(servers=[server.url])) as client,
        ):
            lab = Lab(client, config, directory, agent)
            await wait_ready(lab)
            yield lab


@asynccontextmanager
async def run_agent(config: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    with config.with_name("agent.log").open("wb") as log:
        agent = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "netsonde", "run", "--config", str(config)),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            preexec_fn=die_with_parent,
            start_new_session=True,
            # A start that this host's own agent keeps must not run in the demo.
            env={**os.environ, "STATE_DIRECTORY": str(config.with_name("state"))},
        )
    try:
        yield agent
    finally:
        if agent.returncode is None:
            agent.terminate()
            try:
                async with asyncio.timeout(STOP_SEC_MAX):
                    await agent.wait()
            except TimeoutError:
                agent.kill()
                await agent.wait()


async def wait_ready(lab: Lab) -> None:
    """Returns when the agent replies. Raises NetsondeError if it exits or stays silent."""
    deadline = asyncio.get_running_loop().time() + READY_SEC_MAX
    while HOST not in (await lab.client.discover("PING", TARGET, 0.5) or {}):
        if lab.agent.returncode is not None:
            raise lab.failure(f"The agent exited with {lab.agent.returncode}.")
        if asyncio.get_running_loop().time() > deadline:
            raise lab.failure(f"The agent did not reply within {READY_SEC_MAX:g} s.")
        await asyncio.sleep(0.05)
