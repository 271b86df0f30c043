"""`[flows] servers`: a frozen record server does not delay requests."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nats.js.errors
import pytest

import recording
from agents import Fleet
from bus import Bus, Collector
from deadlines import eventually
from packets import SECOND_NS, UDP, at, ethernet, ipv4, udp, write_pcap
from replay import check_conservation, finished, records_of
from servers import NatsServer

START_NS = 1_767_225_600 * SECOND_NS
FLOWS = 3_000


@pytest.fixture
def store(tmp_path: Path) -> Iterator[NatsServer]:
    """A JetStream server that is not connected to the server for requests."""
    server = NatsServer(tmp_path / "store", config=recording.jetstream(tmp_path / "js")).start()
    yield server
    server.kill()


@pytest.fixture
def capture(tmp_path: Path) -> Path:
    frames = [
        ethernet(ipv4(udp(b"", 1000, 53), UDP, f"10.0.{n >> 8}.{n & 255}", "10.1.0.1"))
        for n in range(FLOWS)
    ]
    return write_pcap(tmp_path / "many.pcap", [at(START_NS + n, f) for n, f in enumerate(frames)])


async def has_records(stored: Bus, wanted: int) -> bool:
    """Returns whether the stream holds `count` records; false if it does not exist yet."""
    js = stored.client.jetstream()
    try:
        state = (await js.stream_info("CAPTURE_FLOWS")).state
        batches = [await js.get_msg("CAPTURE_FLOWS", seq + 1) for seq in range(state.last_seq)]
    except nats.js.errors.APIError:
        return False
    return sum(int((batch.headers or {})["Records"]) for batch in batches) == wanted


async def test_frozen_record_server_blocks_no_request(
    store: NatsServer, fleet: Fleet, bus: Bus, capture: Path, tmp_path: Path
) -> None:
    flows: dict[str, Any] = {"jetstream": True, "encoding": "ipfix", "servers": [store.url]}
    flows["spool_dir"] = tmp_path / "spool"
    fleet.start(flows=flows)
    stored = await Bus.connect(store.url)
    try:
        await eventually(lambda: has_records(stored, 0), "the stream to exist")
        store.freeze()
        body = {"interface": str(capture), "backend": "file", "metering": {"enable": True}}
        await bus.ok("start", body)
        check_conservation(await finished(bus))
        stopped = await bus.ok("stop", timeout_sec=30)
        assert stopped["packets_recorded"] == FLOWS
        assert (await bus.ok("status"))["running"] is False
        store.thaw()
        await eventually(lambda: has_records(stored, FLOWS), "every record to be in the stream")
    finally:
        await stored.close()


async def test_batches_and_events_share_one_boot_id(
    store: NatsServer, fleet: Fleet, bus: Bus, capture: Path
) -> None:
    fleet.start(flows={"servers": [store.url]})
    events = await bus.messages("capture.stream.events.alpha.capture")
    stored = await Bus.connect(store.url)
    try:
        collector = await Collector.listen(stored)
        body = {"interface": str(capture), "backend": "file", "metering": {"enable": True}}
        started = await bus.ok("start", body)
        await finished(bus)
        await records_of(collector, started["session_id"], await bus.ok("stop"))
        await eventually(lambda: len(events) >= 2, "the session's events")
        boots = {json.loads(event.data)["boot"] for event in events}
        assert {batch["boot"] for batch in collector.batches} == boots
    finally:
        await stored.close()
