"""The demo's two plays, live and replay, and the checks at their end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from .demo_network import INTERFACE, open_link
from .demo_stage import HOST, Stage
from .demo_trace import make_trace
from .demo_traffic import Scene, live_scenes, play
from .stop import COLUMNS, describe_end
from .tables import print_table

FLOW_TIMEOUT_SEC = 1
ACTIVE_TIMEOUT_SEC = 2
ARRIVAL_SEC_MAX = 5.0
TIMEOUT_FLAGS = (
    *("--flow-timeout", str(FLOW_TIMEOUT_SEC)),
    *("--active-timeout", str(ACTIVE_TIMEOUT_SEC)),
)

PLACES = {
    "packets_recorded": "in flow records",
    "packets_active": "in active flows",
    "packets_non_flow": "without an IP header",
    "packets_unmetered": "ended before metering was on",
}
PUBLISHING = (
    f"A flow that is silent for {FLOW_TIMEOUT_SEC} s,\n"
    f"or has lived for {ACTIVE_TIMEOUT_SEC} s, is published. This is what arrives on\n"
    f"capture.stream.flows.{HOST} and capture.stream.metrics.{HOST}:"
)


async def play_live(stage: Stage) -> list[str]:
    """Real traffic between two namespaces. Returns what is missing, in words."""
    async with open_link():
        scenes = live_scenes()
        tell(
            "1. The stage",
            "This process and the agent are in a network namespace of their own; interface\n"
            f"{INTERFACE} leads to a peer in a second one. A nats-server carries every word\n"
            "between this program and the agent.",
        )
        await stage.type("ps")
        await stage.type("backends")
        tell("2. A capture", "The agent opens the interface. Packets are counted from now on.")
        await stage.type("start", "-i", INTERFACE, "--backend", "af_packet")
        await stage.type("meter", "on", *TIMEOUT_FLAGS)
        tell("3. Flows and metrics", f"Now {len(scenes)} kinds of traffic. {PUBLISHING}")
        async with collecting(stage):
            await play(scenes)
            return await close_session(stage, scenes)


async def play_replay(stage: Stage) -> list[str]:
    """A capture file, read at its own pace."""
    path = stage.directory / "demo.pcap"
    trace = make_trace()
    trace.write(path)
    tell(
        "1. The stage",
        "A nats-server carries every word between this program and the agent, which has a\n"
        f"capture file of {len(trace.frames)} packets to read.",
    )
    await stage.type("ps")
    await stage.type("backends")
    tell("2. A capture, its flows and metrics", PUBLISHING)
    async with collecting(stage):
        start = ("start", "-i", str(path), "--backend", "file", "--replay-speed", "2")
        await stage.type(*start, "--meter", *TIMEOUT_FLAGS)
        await wait_until(lambda: is_finished(stage))
        tell("3. The file is at its end", "The session stays until it is stopped.")
        return await close_session(stage, trace.scenes)


async def close_session(stage: Stage, scenes: Sequence[Scene]) -> list[str]:
    """The books while flows are active; stop; then the checks. Returns what is missing."""
    await stage.type("flows", "--count", "5")
    tell("4. The books", "Every packet is in exactly one place, at any moment:")
    await stage.type("status")
    books = (await stage.ask("status")).body
    spell_balance(books)
    problems = find_imbalance(books)
    stage.indented = False
    await wait_until(lambda: all_metered(scenes, stage.records))
    await stage.type("metrics")
    live_records = len(stage.records)
    tell("5. The end", "Stopping sends the records of flows that are still active.")
    async with stage.voice:
        print("\n$ netsonde stop", flush=True)
        stopped = await stage.ask("stop")
        print_table(COLUMNS, describe_end(stopped))
        stage.indented = False
    recorded = stopped.body["packets_recorded"]
    await wait_until(lambda: count_packets(stage.records) >= recorded)
    problems += find_imbalance(stopped.body)
    tell("6. What was metered", "Each kind of traffic, added up over the records that arrived:\n")
    problems += check_scenes(scenes, stage.records)
    arrived = count_packets(stage.records)
    print(f"\n{arrived:,} packets in the records that arrived, {recorded:,} in those sent,")
    print(
        f"and {stopped.body['packets_non_flow']:,} without an IP header, of "
        f"{stopped.body['packets_captured']:,} captured."
    )
    if arrived != recorded:
        problems.append(f"records of {recorded:,} packets were sent, of {arrived:,} arrived")
    if not live_records:
        problems.append("no flow record arrived while the capture ran")
    if not any(metrics["throughput_mbps"] > 0 for metrics in stage.metrics):
        problems.append("no metrics with traffic arrived")
    if stage.ledger.missed:
        problems.append(f"{stage.ledger.missed} batches of records did not arrive")
    return problems


def spell_balance(body: dict[str, Any]) -> None:
    """The conservation law, with this moment's numbers."""
    captured, dropped = body["packets_captured"], body["packets_dropped"]
    print(f"\n  {captured + dropped:>9,}  packets came by")
    print(f"- {dropped:>9,}  dropped by the kernel")
    print(f"= {captured:>9,}  captured, and of these:")
    for name, words in PLACES.items():
        print(f"  {body[name]:>9,}  {words}")
    print(f"= {sum(body[name] for name in PLACES):>9,}  accounted for", flush=True)


def find_imbalance(body: dict[str, Any]) -> list[str]:
    captured, total = body["packets_captured"], sum(body.get(name, 0) for name in PLACES)
    if total != captured:
        return [f"{captured:,} packets were captured, but {total:,} are accounted for"]
    return [] if captured else ["no packet was captured"]


def check_scenes(scenes: Sequence[Scene], records: list[dict[str, Any]]) -> list[str]:
    """A line for each kind of traffic; those with too little metered are returned."""
    rows, problems = [], []
    for scene in scenes:
        packets, ip_bytes = scene.find(records)
        good = scene.is_complete(packets, ip_bytes)
        rows.append((scene.title, packets, ip_bytes, "ok" if good else "MISSING"))
        if not good:
            problems.append(
                f"{scene.title}: {packets:,} packets and {ip_bytes:,} bytes were metered; "
                f"{'' if scene.exact else 'at least '}{scene.packets:,} and {scene.ip_bytes:,} "
                "were sent"
            )
    print_table(("TRAFFIC", "PACKETS", "IP BYTES", ""), rows)
    return problems


# ---- while it plays --------------------------------------------------------------------------


def tell(title: str, text: str) -> None:
    print(f"\n{title}\n{'-' * len(title)}\n{text}", flush=True)


def count_packets(records: Sequence[dict[str, Any]]) -> int:
    return sum(record["packets"] for record in records)


@asynccontextmanager
async def collecting(stage: Stage) -> AsyncIterator[None]:
    """Both streams are followed inside; a collector that fails ends the demo."""
    async with asyncio.TaskGroup() as tasks:
        collectors = [
            tasks.create_task(stage.collect_flows()),
            tasks.create_task(stage.collect_metrics()),
        ]
        try:
            yield
        finally:
            for collector in collectors:
                collector.cancel()


async def wait_until(
    holds: Callable[[], bool | Awaitable[bool]], within_sec: float = ARRIVAL_SEC_MAX
) -> None:
    """Returns when it holds or the time is up; the checks at the end tell which."""
    deadline = asyncio.get_running_loop().time() + within_sec
    while asyncio.get_running_loop().time() < deadline:
        answer = holds()
        if answer if isinstance(answer, bool) else await answer:
            return
        await asyncio.sleep(0.05)


async def is_finished(stage: Stage) -> bool:
    return bool((await stage.ask("status")).body.get("finished"))


def all_metered(scenes: Sequence[Scene], records: list[dict[str, Any]]) -> bool:
    return all(scene.is_complete(*scene.find(records)) for scene in scenes)
