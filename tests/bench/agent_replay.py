"""The whole agent on one core: `netsonde run`, a capture started over NATS, and its records
collected from the stream and added up. Also the memory of an idle agent.

The nats-server and the collector (this process) use the other cores.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import nats
from engine import FLOW_TABLE_SIZE, ConservationError, audit
from nats.aio.client import Client
from nats.aio.msg import Msg
from pinned import PREFIX
from workbench import OUT, Trace

HOST = "bench"
SUBJECT = f"capture.host.{HOST}"
READY_WITHIN_SEC = 30.0
REPLAY_WITHIN_SEC = 120.0
POLL_SEC = 0.02
IDLE_SEC = 5.0
BIN = Path(sys.executable).parent


class RecordCount(msgspec.Struct):
    packets: int


class Batch(msgspec.Struct):
    seq: int
    records: list[RecordCount]


@dataclass(frozen=True)
class Replayed:
    seconds: float  # from the start request to the stop reply, when all records are sent
    records: int
    bytes: int


def missing() -> str | None:
    """Returns the missing program and how to install it, or None."""
    for name in ("netsonde", "nats-server"):
        if not (BIN / name).exists():
            return f"no {BIN / name}: run `make setup`"
    return None


def wait_for(ask: Any, what: str, within_sec: float) -> Any:
    deadline = time.monotonic() + within_sec
    while not (answer := ask()):
        if time.monotonic() > deadline:
            raise RuntimeError(f"timed out waiting for {what}")
        time.sleep(POLL_SEC)
    return answer


@contextmanager
def serve(directory: Path, more: str = "", prefix: Sequence[str] = ()) -> Iterator[str]:
    """A nats-server with limits so high that it never drops a slow collector. `more` is added to
    its configuration. `prefix` goes before the command."""
    directory.mkdir(parents=True, exist_ok=True)
    for stale in directory.glob("*.ports"):
        stale.unlink()
    config = directory / "nats.conf"
    config.write_text(f'max_pending: 2GB\nwrite_deadline: "60s"\n{more}')
    command = [*prefix, BIN / "nats-server", "-c", config, "-a", "127.0.0.1", "-p", "-1"]
    with (directory / "nats-server.log").open("wb") as log:
        process = subprocess.Popen(
            [*map(str, command), "--ports_file_dir", str(directory)],
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        ports = directory / f"nats-server_{process.pid}.ports"
        yield wait_for(lambda: read_url(ports), "nats-server", READY_WITHIN_SEC)
    finally:
        process.terminate()
        process.wait()


def read_url(ports: Path) -> str | None:
    try:
        return str(json.loads(ports.read_text())["nats"][0])
    except (FileNotFoundError, json.JSONDecodeError):
        return None  # missing, or half written


@contextmanager
def run_agent(
    url: str,
    directory: Path,
    encoding: str,
    more: str = "",
    prefix: Sequence[str] = (),
    settings: Mapping[str, str] | None = None,
    pin: Sequence[str] = PREFIX,
) -> Iterator[subprocess.Popen[bytes]]:
    """`more` is added to the configuration, `settings` to the environment. `prefix` goes before
    the command. `pin` keeps the agent on its cores."""
    config = directory / "agent.toml"
    config.write_text(
        f'[agent]\nhost = "{HOST}"\n'
        f'[nats]\nservers = ["{url}"]\n'
        f"[capture]\nreplay_dirs = [{json.dumps(str(OUT))}]\n"
        f'[flows]\nencoding = "{encoding}"\nflow_table_size = {FLOW_TABLE_SIZE}\n'
        f'[http]\nlisten = ""\n{more}'
    )
    environment = {k: v for k, v in os.environ.items() if not k.startswith("NETSONDE__")}
    environment.update(settings or {})
    with (directory / "agent.log").open("wb") as log:
        process = subprocess.Popen(
            [*prefix, *pin, str(BIN / "netsonde"), "run", "--config", str(config)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment,
        )
    try:
        yield process
        if process.poll() is not None:
            raise RuntimeError(f"the agent exited with {process.returncode}, see {log.name}")
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


async def ask(client: Client, verb: str, body: dict[str, Any], timeout_sec: float) -> Any:
    message = await client.request(
        f"{SUBJECT}.{verb}", msgspec.json.encode(body), timeout=timeout_sec
    )
    reply = msgspec.json.decode(message.data)
    if int((message.headers or {})["Status-Code"]) >= 400:
        raise RuntimeError(f"{verb}: {reply}")
    return reply


async def wait_until_ready(
    client: Client, poll_sec: float = POLL_SEC, subject: str = f"{SUBJECT}.status"
) -> None:
    """Waits until a responder answers on the subject."""
    deadline = time.monotonic() + READY_WITHIN_SEC
    while True:
        try:
            await client.request(subject, b"{}", timeout=1.0)
        except (nats.errors.NoRespondersError, nats.errors.TimeoutError):
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(poll_sec)
        else:
            return


def counters_of(status: dict[str, Any]) -> dict[str, int]:
    names = ("captured", "dropped", "recorded", "active", "non_flow", "unmetered")
    return {name: status.get(f"packets_{name}", 0) for name in names}


async def wait_until_finished(client: Client) -> dict[str, Any]:
    deadline = time.monotonic() + REPLAY_WITHIN_SEC
    while True:
        status: dict[str, Any] = await ask(client, "status", {}, 10.0)
        if status["finished"]:
            return status
        if time.monotonic() > deadline:
            raise RuntimeError(f"the replay does not finish: {status}")
        await asyncio.sleep(POLL_SEC)


def audit_stream(batches: list[bytes], encoding: str, packets: int, where: str) -> int:
    """Returns the number of records. Checks that none is missing and that the packets match."""
    codec = msgspec.json if encoding == "json" else msgspec.msgpack
    decoder = codec.Decoder(Batch)
    decoded = [decoder.decode(batch) for batch in batches]
    sequence = [batch.seq for batch in decoded]
    if sequence != list(range(sequence[0], sequence[0] + len(sequence))):
        raise ConservationError(f"{where}: batches are missing or out of order: {sequence}")
    total = sum(record.packets for batch in decoded for record in batch.records)
    if total != packets:
        raise ConservationError(f"{where}: {total} packets in records, not {packets}")
    return sum(len(batch.records) for batch in decoded)


async def drive(url: str, trace: Trace, encoding: str) -> Replayed:
    where = f"{trace.name} through the agent, {encoding}"
    client = await nats.connect(url)
    batches: list[bytes] = []

    async def keep(message: Msg) -> None:
        batches.append(message.data)

    await client.subscribe(
        f"capture.stream.flows.{HOST}", cb=keep, pending_msgs_limit=-1, pending_bytes_limit=-1
    )
    await wait_until_ready(client)
    begin = time.monotonic()
    body = {"interface": str(trace.path), "backend": "file", "metering": {"enable": True}}
    await ask(client, "start", body, 30.0)
    status = await wait_until_finished(client)
    stopped = await ask(client, "stop", {}, REPLAY_WITHIN_SEC)
    seconds = time.monotonic() - begin
    audit(counters_of(status), trace.packets, where)
    audit(counters_of(stopped), trace.packets, f"{where}, stopped")
    records = int(stopped["records"])
    await collect(client, batches)
    await client.close()
    metered = trace.packets - int(stopped["packets_non_flow"])
    if audit_stream(batches, encoding, metered, where) != records:
        raise ConservationError(f"{where}: the agent made {records} records")
    return Replayed(seconds, records, sum(map(len, batches)))


async def collect(client: Client, batches: list[bytes]) -> None:
    """Reads all batches published before the stop reply."""
    deadline = time.monotonic() + REPLAY_WITHIN_SEC
    seen, quiet_since = -1, time.monotonic()
    while time.monotonic() - quiet_since < 0.5 and time.monotonic() < deadline:
        await client.flush(30)
        if len(batches) != seen:
            seen, quiet_since = len(batches), time.monotonic()
        await asyncio.sleep(POLL_SEC)


def replay(trace: Trace, encoding: str) -> Replayed:
    directory = OUT / "agent"
    with serve(directory) as url, run_agent(url, directory, encoding):
        return asyncio.run(drive(url, trace, encoding))


def measure_idle_kib() -> int:
    """Resident memory of an agent that is connected and captures nothing, in KiB. Shared pages
    count."""
    directory = OUT / "agent"
    with serve(directory) as url, run_agent(url, directory, "json") as process:
        asyncio.run(wait_and_leave(url))
        time.sleep(IDLE_SEC)
        return resident_kib(process.pid)


def resident_kib(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    found = re.search(r"VmRSS:\s*(\d+) kB", status)
    assert found is not None, status
    return int(found[1])


async def wait_and_leave(url: str) -> None:
    client = await nats.connect(url)
    await wait_until_ready(client)
    await client.close()
