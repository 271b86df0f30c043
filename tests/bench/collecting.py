"""`netsonde collect` with small batches, compared with a plain pull of the same stream.

    .venv/bin/python tests/bench/collecting.py [--batches N] [--hosts N] [--format F]

A file-backed JetStream stream holds one-record batches of JSON. The peer is nats-py with one pull
request of 1,000 messages after another, and an ack for each. Each uses a separate consumer. The
two alternate ROUNDS times and the round with the median ratio counts. The collector's time is from
the start of its process to its end, less the final empty fetch. Every record must be in the files.
Exits with 1 if the limit is missed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import msgspec
import nats
from nats.js.api import ConsumerConfig
from table import KEPT, MISSED, Row, render

from netsonde.bus.embedded import EmbeddedServer
from netsonde.collect.source import PULL_WAIT_SEC

STREAM, ROUNDS, PULLED = "CAPTURE_FLOWS", 3, 1_000
RATE, RATIO = 5_000, 0.4
IDLE_SEC = 0.01
RECORD = {
    "flow_id": "00000000000000a1", "source_ip": "198.18.0.1", "dest_ip": "198.18.0.2",
    "source_port": 40000, "dest_port": 443, "protocol": "TCP", "protocol_number": 6, "packets": 3,
    "bytes": 180, "reverse_packets": 1, "reverse_bytes": 60, "end_reason": "idle",
    "first_seen": "2026-01-02T03:04:05.678901234Z", "last_seen": "2026-01-02T03:04:07.000000001Z",
}  # fmt: skip


async def fill(url: str, batches: int, hosts: int) -> None:
    client = await nats.connect(url, pending_size=8 << 20)
    await client.jetstream().add_stream(name=STREAM, subjects=["capture.stream.flows.>"])
    for number in range(batches):
        host, seq = f"host-{number % hosts:05d}", number // hosts + 1
        batch = {"host": host, "boot": "18a0000000000000", "seq": seq, "session_id": "s",
                 "first_time": RECORD["first_seen"], "last_time": RECORD["last_seen"],
                 "records": [RECORD]}  # fmt: skip
        headers = {"Nats-Msg-Id": f"{host}:b:{seq}", "Content-Type": "application/json"}
        await client.publish(f"capture.stream.flows.{host}", msgspec.json.encode(batch),
                             headers=headers)  # fmt: skip
        if number % 5000 == 0:
            await client.flush(30)
    await client.flush(30)
    async with asyncio.timeout(30):
        while (await client.jetstream().stream_info(STREAM)).state.messages < batches:  # noqa: ASYNC110
            await asyncio.sleep(0.1)
    await client.close()


async def pull(url: str, batches: int, durable: str) -> float:
    """Batches per second of the peer."""
    client = await nats.connect(url)
    config = ConsumerConfig(max_ack_pending=65_536)
    begin = time.perf_counter()
    reader = await client.jetstream().pull_subscribe(
        "capture.stream.flows.>", durable, stream=STREAM, config=config
    )
    left = batches
    while left:
        messages = await reader.fetch(min(PULLED, left), timeout=10)
        for message in messages:
            await message.ack()
        left -= len(messages)
    await client.flush(30)
    took = time.perf_counter() - begin
    await client.close()
    return batches / took


def collect(url: str, batches: int, durable: str, directory: Path, kind: str) -> float:
    """Batches per second of `netsonde collect`."""
    command = [str(Path(sys.executable).with_name("netsonde")), "collect", "--nats", url, "--json"]
    command += ["-o", str(directory), "--format", kind, "--durable", durable]
    begin = time.perf_counter()
    done = subprocess.run(
        [*command, "--until-idle", str(IDLE_SEC)], check=True, capture_output=True, text=True
    )
    took = time.perf_counter() - begin - PULL_WAIT_SEC
    summary = json.loads(done.stderr.splitlines()[-1])
    if (summary["batches"], summary["gaps"]) != (batches, []):
        raise RuntimeError(done.stderr)
    return batches / took


async def measure(batches: int, hosts: int, kind: str) -> Row:
    out = Path(tempfile.mkdtemp(prefix="netsonde-collecting-"))
    rounds: list[tuple[float, float]] = []
    try:
        async with EmbeddedServer(jetstream=True, arguments=("-sd", str(out / "js"))) as server:
            await fill(server.url, batches, hosts)
            for number in range(ROUNDS):
                plain = await pull(server.url, batches, f"plain-{number}")
                mine = await asyncio.to_thread(
                    collect, server.url, batches, f"mine-{number}", out / f"{number}", kind
                )
                print(f"{mine:.0f} of {plain:.0f} batches/s", file=sys.stderr)
                rounds.append((mine, plain))
    finally:
        shutil.rmtree(out)
    rounds.sort(key=lambda round_: round_[0] / round_[1])
    mine, plain = rounds[ROUNDS // 2]
    holds = mine >= RATE or mine >= RATIO * plain
    value = f"{mine:.0f} of {plain:.0f} batches/s ({mine / plain:.0%})"
    name = f"collect small batches, {kind}, {hosts} hosts"
    return Row(name, value, limit=">= 40 % or 5,000", verdict=KEPT if holds else MISSED)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batches", type=int, default=60_000)
    parser.add_argument("--hosts", type=int, default=500)
    parser.add_argument("--format", choices=["jsonl", "parquet"], default="jsonl")
    args = parser.parse_args()
    row = asyncio.run(measure(args.batches, args.hosts, args.format))
    print(render([row]))
    return 1 if row.verdict == MISSED else 0


if __name__ == "__main__":
    sys.exit(main())
