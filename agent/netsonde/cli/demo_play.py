"""The steps of the demo, what they print, and the checks at the end."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from ..wire.quantity import counted
from .demo_agent import HOST, Lab
from .demo_capture import FLOWS, NAMES, SPEED, read_frames, send_frames, write_recent
from .demo_network import INTERFACE
from .demo_programs import FarEnd, check_programs, run_programs
from .output import put_lines
from .stop import COLUMNS, describe_end
from .tables import Cell, print_table

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
SENDING = (
    "{} packets of "
    f"{len(FLOWS)} kinds of traffic now cross the link. They come from a capture\n"
    "file, and are sent at the far end. Before them, two programs talk to servers at\n"
    "the far end. Their flows end with the name that they ask for, and the process."
)
PUBLISHING = (
    f"The agent publishes a flow after {FLOW_TIMEOUT_SEC} s without a packet, and every\n"
    f"{ACTIVE_TIMEOUT_SEC} s while it is active. This arrives on capture.stream.flows.{HOST} and\n"
    f"capture.stream.metrics.{HOST}:"
)
LIVE = (
    "This program and the agent are in a new network namespace. Interface\n"
    f"{INTERFACE} is a link to a second namespace. Requests, replies, flow records\n"
    "and metrics travel through a nats-server."
)
REPLAY = (
    "The agent will read a capture file of {} packets. Requests, replies, flow\n"
    "records and metrics travel through a nats-server."
)


async def play(lab: Lab, far: FarEnd | None) -> list[str]:
    """Captures live what is sent at the far end, or reads the capture file if that is None.

    Returns what is missing, in words.
    """
    frames = sum(1 for _ in read_frames())
    tell("1. Setup", LIVE if far else REPLAY.format(frames))
    await lab.type("ps")
    await lab.type("backends")
    async with lab.follow():
        if far:
            tell("2. A capture", "The agent opens the interface. It counts packets from now on.")
            await lab.type("start", "-i", INTERFACE, "--backend", "af_packet")
            await lab.type("meter", "on", *TIMEOUT_FLAGS)
            tell("3. Flows and metrics", f"{SENDING.format(frames)}\n{PUBLISHING}")
            await run_programs(far)
            before = (await lab.ask("status")).body["packets_captured"]
            await send_frames(far.wire)
            await wait_until(lambda: is_captured(lab, before + frames))
        else:
            path = lab.directory / "demo.pcap"
            write_recent(path)
            tell("2. A capture, its flows and metrics", PUBLISHING)
            start = ("start", "-i", str(path), "--backend", "file", "--replay-speed", str(SPEED))
            await lab.type(*start, "--meter", *TIMEOUT_FLAGS)
            await wait_until(lambda: is_captured(lab, frames))
            tell("3. The end of the file", "The session remains until it is stopped.")
        return await close_session(lab, live=far is not None)


async def close_session(lab: Lab, *, live: bool) -> list[str]:
    """Shows the balance while flows are active, stops the session, and checks the figures.

    Returns what is missing, in words.
    """
    await lab.type("flows", "--count", "5")
    tell("4. The balance", "At any moment, every packet is counted in exactly one place:")
    await lab.type("status")
    status = (await lab.ask("status")).body
    print_balance(status)
    problems = find_imbalance(status)
    lab.indented = False
    await lab.type("metrics")
    early_records = len(lab.records)
    tell("5. The end", "The agent sends the records of active flows before it stops.")
    async with lab.output:
        put_lines("\n$ netsonde stop", flush=True)
        stopped = await lab.ask("stop")
        print_table(COLUMNS, describe_end(stopped))
        lab.indented = False
    sent = stopped.body["packets_recorded"]
    await wait_until(lambda: count_packets(lab.records) >= sent)
    problems += find_imbalance(stopped.body)
    tell("6. Metered traffic", "Each kind of traffic, summed over the records that arrived:\n")
    problems += check_flows(lab.records)
    arrived = count_packets(lab.records)
    put_lines(f"\n{arrived:,} packets in the records that arrived, {sent:,} in the records sent,")
    put_lines(
        f"and {stopped.body['packets_non_flow']:,} without an IP header, of "
        f"{stopped.body['packets_captured']:,} captured."
    )
    if arrived != sent:
        problems.append(f"records of {sent:,} packets were sent, {arrived:,} arrived")
    found = {record["name"] for record in lab.records if record["name"]}
    put_lines(f"Names in the records: {', '.join(sorted(found))}.")
    problems += [f"no record has the name {name}" for name in sorted(NAMES - found)]
    if live:
        problems += check_programs(lab.records, status["owners"])
    if not early_records:
        problems.append("no flow record arrived while the capture ran")
    if not any(metrics["throughput_mbps"] > 0 for metrics in lab.metrics):
        problems.append("no metrics with traffic arrived")
    if lab.counter.missed:
        problems.append(
            f"{counted(lab.counter.missed, 'batch', 'batches')} of records did not arrive"
        )
    return problems


def print_balance(body: dict[str, Any]) -> None:
    captured, dropped = body["packets_captured"], body["packets_dropped"]
    put_lines(f"\n  {captured + dropped:>9,}  packets came by")
    put_lines(f"- {dropped:>9,}  dropped by the kernel")
    put_lines(f"= {captured:>9,}  captured, and of these:")
    for name, words in PLACES.items():
        put_lines(f"  {body[name]:>9,}  {words}")
    put_lines(f"= {sum(body[name] for name in PLACES):>9,}  accounted for", flush=True)


def find_imbalance(body: dict[str, Any]) -> list[str]:
    captured, total = body["packets_captured"], sum(body.get(name, 0) for name in PLACES)
    if total != captured:
        return [f"{captured:,} packets were captured, but {total:,} are accounted for"]
    return [] if captured else ["no packet was captured"]


def check_flows(records: Sequence[dict[str, Any]]) -> list[str]:
    """Prints what was metered of each kind of traffic. Returns what is not exactly right."""
    sums: dict[tuple[Any, ...], list[int]] = {key: [0, 0] for key in FLOWS}
    for record in records:
        key = (record["protocol"], record["dest_ip"], record["dest_port"], *record["vlan"])
        total = sums.setdefault(key, [0, 0])
        total[0] += record["packets"]
        total[1] += record["bytes"]
    rows: list[Sequence[Cell]] = []
    problems = []
    for key, (title, *sent) in FLOWS.items():
        words = "ok" if sums[key] == sent else "MISSING"
        rows.append([title, *sums[key], words])
        if words != "ok":
            figures = "{:,} packets and {:,} bytes were metered; {:,} and {:,} were sent"
            problems.append(f"{title}: {figures.format(*sums[key], *sent)}")
    print_table(("TRAFFIC", "PACKETS", "IP BYTES", ""), rows)
    return problems


def tell(title: str, text: str) -> None:
    put_lines(f"\n{title}\n{'-' * len(title)}\n{text}", flush=True)


def count_packets(records: Sequence[dict[str, Any]]) -> int:
    return sum(record["packets"] for record in records)


async def wait_until(holds: Callable[[], bool | Awaitable[bool]]) -> None:
    """Returns when `holds` does, or after ARRIVAL_SEC_MAX. The final checks find the difference."""
    deadline = asyncio.get_running_loop().time() + ARRIVAL_SEC_MAX
    while asyncio.get_running_loop().time() < deadline:
        answer = holds()
        if answer if isinstance(answer, bool) else await answer:
            return
        await asyncio.sleep(0.05)


async def is_captured(lab: Lab, packets: int) -> bool:
    return bool((await lab.ask("status")).body["packets_captured"] >= packets)
