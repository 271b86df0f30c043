"""The latency of `status` while the agent, on one core, renders and publishes records as fast as
it can, each acknowledged by a file-backed JetStream.

`stop` flushes a table of one-packet flows. Until it replies, the record ring is full. Requests
meanwhile use the other connection, to the same server or, with `apart`, to one that stores
nothing ([flows] servers). Requests alternate between the agent, a responder on the agent's core
that does nothing, and a PING to the server. No agent could answer sooner than the last two.
Everything except the agent and that responder shares the other core. The requester and the server
that stores nothing run with priority (SCHED_FIFO) there. They stand for separate machines, so
their wait for a core is not measured.

    .venv/bin/python tests/bench/stream_requests.py [apart] [ENCODING…]
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import nats
import uvloop
import workbench
from agent_replay import (
    REPLAY_WITHIN_SEC,
    ask,
    run_agent,
    serve,
    wait_until_finished,
    wait_until_ready,
)
from nats.aio.msg import Msg
from pinned import PREFIX, keep_off_the_meter_core
from table import p99_ms
from workbench import OUT, Trace

REQUESTS_MIN = 400  # per kind; with fewer a 99th percentile is meaningless
PAUSE_SEC = 0.002
PRIORITY = ("chrt", "-f", "1")
FLOWS = 1_500_000  # with one packet each
BARE_SUBJECT = "bare.status"
BARE_REPLY = b"x" * 3000  # about the size of a `status` reply


@dataclass(frozen=True)
class Latencies:
    taken_sec: list[float]
    bare_sec: list[float]  # a responder that does nothing
    ping_sec: list[float]
    records_per_sec: float  # during the requests


def measure(trace: Trace, encoding: str, *, apart: bool) -> Latencies:
    directory = OUT / "requests"
    shutil.rmtree(directory, ignore_errors=True)
    store = f"jetstream {{ store_dir: {json.dumps(str(directory / 'js'))} }}\n"
    settings = {
        "NETSONDE__FLOWS__JETSTREAM": "true",
        "NETSONDE__FLOWS__SPOOL_DIR": str(directory / "spool"),
    }
    with ExitStack() as stack:
        url = stack.enter_context(serve(directory / "nats", store))
        if apart:
            settings["NETSONDE__FLOWS__SERVERS"] = url
            url = stack.enter_context(serve(directory / "control", prefix=PRIORITY))
        stack.enter_context(run_agent(url, directory, encoding, settings=settings))
        stack.enter_context(run_bare(url))
        with priority():
            latencies = asyncio.run(time_status(url, trace))
    shutil.rmtree(directory)
    return latencies


@contextmanager
def priority() -> Iterator[None]:
    """Raises the priority of this process, but not of processes that it starts."""
    policy = os.SCHED_FIFO | os.SCHED_RESET_ON_FORK
    try:
        os.sched_setscheduler(0, policy, os.sched_param(1))
    except PermissionError:
        print("requests during the stream: no priority, needs root", file=sys.stderr)
    try:
        yield
    finally:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


@contextmanager
def run_bare(url: str) -> Iterator[None]:
    process = subprocess.Popen([*PREFIX, sys.executable, __file__, "respond", url])
    try:
        yield
    finally:
        process.terminate()
        process.wait()


async def respond(url: str) -> None:
    client = await nats.connect(url)

    async def reply(message: Msg) -> None:
        await client.publish(message.reply, BARE_REPLY)

    await client.subscribe(BARE_SUBJECT, cb=reply)
    await asyncio.Event().wait()


async def time_status(url: str, trace: Trace) -> Latencies:
    """Runs sessions until enough requests were measured."""
    client = await nats.connect(url)
    taken: list[float] = []
    bare: list[float] = []
    ping: list[float] = []
    records, seconds = 0, 0.0
    try:
        await wait_until_ready(client)
        await wait_until_ready(client, subject=BARE_SUBJECT)
        while len(taken) < REQUESTS_MIN:
            body = {"interface": str(trace.path), "backend": "file", "metering": {"enable": True}}
            await ask(client, "start", body, 30.0)
            before = await wait_until_finished(client)
            begin = time.perf_counter()
            stopping = asyncio.create_task(ask(client, "stop", {}, REPLAY_WITHIN_SEC))
            while not stopping.done():
                begun = time.perf_counter()
                await ask(client, "status", {}, 5.0)
                taken.append(time.perf_counter() - begun)
                await asyncio.sleep(PAUSE_SEC)
                begun = time.perf_counter()
                await client.request(BARE_SUBJECT, b"{}", timeout=5)
                bare.append(time.perf_counter() - begun)
                await asyncio.sleep(PAUSE_SEC)
                begun = time.perf_counter()
                await client.flush(5)
                ping.append(time.perf_counter() - begun)
                await asyncio.sleep(PAUSE_SEC)
            stopped = await stopping
            seconds += time.perf_counter() - begin
            records += stopped["records"] - before["records_sent"]
            if stopped["records_unsent"] or stopped["records_dropped"]:
                raise RuntimeError(f"records were not sent: {stopped}")
    finally:
        await client.close()
    return Latencies(taken, bare, ping, records / seconds)


def main(words: list[str]) -> int:
    apart = "apart" in words
    keep_off_the_meter_core()
    workbench.build_generator()
    trace = workbench.make_synthetic("flows-of-one", FLOWS, FLOWS)
    for encoding in [word for word in words if word != "apart"] or ["json", "msgpack", "ipfix"]:
        latencies = measure(trace, encoding, apart=apart)
        print(f"{encoding:8} {latencies.records_per_sec / 1e6:.2f} M records/s; half, 99 % within: "
              f"status {shown(latencies.taken_sec)}, bare {shown(latencies.bare_sec)}, "
              f"PING {shown(latencies.ping_sec)} ms ({len(latencies.taken_sec)} of each)",
              flush=True)  # fmt: skip
    return 0


def shown(seconds: list[float]) -> str:
    return f"{statistics.median(seconds) * 1e3:.1f}, {p99_ms(seconds):.1f}"


if __name__ == "__main__":
    if sys.argv[1:2] == ["respond"]:
        uvloop.run(respond(sys.argv[2]))
    else:
        sys.exit(main(sys.argv[1:]))
