"""A client that knows a host's boot cannot use the ids of its next batches first."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import msgspec
from stage import FLOWS, Stage

from packets import SECOND_NS, at, write_pcap

SetStage = Callable[..., Stage]
SEQS = 400  # more batches than the test sends


async def use_ids_first(stage: Stage) -> None:
    client = await stage._connect()
    stream = client.jetstream()
    headers = (await stream.get_msg("CAPTURE_FLOWS", 1)).headers or {}
    host, boot, seq, suffix = headers["Nats-Msg-Id"].split(":")
    assert (host, seq, len(suffix)) == ("alpha", "1", 16)
    for number in range(2, SEQS):
        for name in (f"{host}:{boot}:{number}", f"{host}:{boot}:{number}:{suffix}"):
            forged = {"Nats-Msg-Id": name}
            await stream.publish("capture.stream.flows.beta", b"{}", headers=forged)
    await client.close()


async def packets_stored(stage: Stage) -> int:
    client = await stage._connect()
    stream = client.jetstream()
    count = (await stream.stream_info("CAPTURE_FLOWS")).state.messages
    packets = 0
    for number in range(1, count + 1):
        message = await stream.get_msg("CAPTURE_FLOWS", number)
        if message.subject == "capture.stream.flows.alpha":
            records = msgspec.msgpack.decode(message.data or b"")["records"]
            packets += sum(record["packets"] for record in records)
    await client.close()
    return packets


def test_ids_used_first_by_another_host_lose_no_packet(set_stage: SetStage, tmp_path: Path) -> None:
    stage = set_stage()
    stage.agent()
    frame = stage.crowd.path.read_bytes()[40:]
    one = write_pcap(tmp_path / "one.pcap", [at(SECOND_NS, frame[:80])])
    stage.start(interface=str(one))
    first = stage.finish()
    stage.spool()
    asyncio.run(use_ids_first(stage))
    stage.start(replay_speed=0)
    second = stage.finish()
    spool = stage.spool()
    captured = first["packets_captured"] + second["packets_captured"]
    non_flow = first["packets_non_flow"] + second["packets_non_flow"]
    assert captured == FLOWS + 1
    assert asyncio.run(packets_stored(stage)) + non_flow == captured
    assert spool["records_lost"] == 0
