"""How long `status` takes while the agent, on its one core, renders and publishes records as fast
as it can, each acknowledged by a file-backed JetStream.

A table full of flows of one packet is handed over by `stop`: until it replies, the record ring
is full. What is asked meanwhile goes over the other connection. Asked in turns with the agent: a
responder that does nothing, on the agent's core. What that takes is the way through the server
and the waiting for a core, and no agent could answer sooner.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import nats
import uvloop
from agent_replay import (
    REPLAY_WITHIN_SEC,
    ask,
    run_agent,
    serve,
    wait_until_finished,
    wait_until_ready,
)
from nats.aio.msg import Msg
from pinned import PREFIX
from workbench import OUT, Trace

ASKED_MIN = 200  # below that a 99th percentile says nothing
PAUSE_SEC = 0.002
BARE_SUBJECT = "bare.status"
BARE_REPLY = b"x" * 3000  # about what `status` says


@dataclass(frozen=True)
class Asked:
    taken_sec: list[float]
    bare_sec: list[float]  # the responder that does nothing
    records_per_sec: float  # meanwhile


def measure(trace: Trace, encoding: str) -> Asked:
    directory = OUT / "requests"
    shutil.rmtree(directory, ignore_errors=True)
    store = f"jetstream {{ store_dir: {json.dumps(str(directory / 'js'))} }}\n"
    settings = {
        "NETSONDE__FLOWS__JETSTREAM": "true",
        "NETSONDE__FLOWS__SPOOL_DIR": str(directory / "spool"),
    }
    with (
        serve(directory / "nats", store) as url,
        run_agent(url, directory, encoding, settings=settings),
        run_bare(url),
    ):
        asked = asyncio.run(time_status(url, trace))
    shutil.rmtree(directory)
    return asked


@contextmanager
def run_bare(url: str) -> Iterator[None]:
    process = subprocess.Popen([*PREFIX, sys.executable, __file__, url])
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


async def time_status(url: str, trace: Trace) -> Asked:
    """Session after session, until enough was asked."""
    client = await nats.connect(url)
    taken: list[float] = []
    bare: list[float] = []
    records, seconds = 0, 0.0
    try:
        await wait_until_ready(client)
        await wait_until_ready(client, subject=BARE_SUBJECT)
        while len(taken) < ASKED_MIN:
            body = {"interface": str(trace.path), "backend": "file", "metering": {"enable": True}}
            await ask(client, "start", body, 30.0)
            before = await wait_until_finished(client)
            begin = time.perf_counter()
            stopping = asyncio.create_task(ask(client, "stop", {}, REPLAY_WITHIN_SEC))
            while not stopping.done():
                asked = time.perf_counter()
                await ask(client, "status", {}, 5.0)
                taken.append(time.perf_counter() - asked)
                await asyncio.sleep(PAUSE_SEC)
                asked = time.perf_counter()
                await client.request(BARE_SUBJECT, b"{}", timeout=5)
                bare.append(time.perf_counter() - asked)
                await asyncio.sleep(PAUSE_SEC)
            stopped = await stopping
            seconds += time.perf_counter() - begin
            records += stopped["records"] - before["records_sent"]
            if stopped["records_unsent"] or stopped["records_dropped"]:
                raise RuntimeError(f"records were not sent: {stopped}")
    finally:
        await client.close()
    return Asked(taken, bare, records / seconds)


if __name__ == "__main__":
    uvloop.run(respond(sys.argv[1]))
