"""A session of the real core that replays a small capture: every reply, counter and event.

Ten packets of UDP in two flows, one ARP packet; `expected` has their sums.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import json
import socket
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest
import pytest_asyncio

from deadlines import TIMEOUT_SEC, eventually
from netsonde.capture.sessions import Sessions
from netsonde.config.sections import (
    BufferSection,
    CaptureSection,
    Config,
    EncryptionSection,
    ExportSection,
    MetricsSection,
)
from netsonde.core.collectors import COLLECTORS_MAX
from netsonde.core.values import Batch, FlowMatch, FlowQuery, Stats
from netsonde.errors import (
    Draining,
    EncryptionUnavailable,
    InvalidBackend,
    InvalidCollector,
    InvalidFilter,
    InvalidInterface,
    InvalidKey,
    InvalidRequest,
    NoSession,
    PathNotAllowed,
    RequestError,
    SessionActive,
    UnsupportedCipher,
)
from netsonde.recorder.retrieval import Retrievals, packet_query
from netsonde.wire.instant import rfc3339
from netsonde.wire.replies import ExportState, MetricsReply
from netsonde.wire.requests import (
    EncryptionRequest,
    ExportRequest,
    MeterRequest,
    PacketsRequest,
    StartRequest,
    StopRequest,
)
from packets import ARP, UDP, Packet, arp, at, ethernet, ipv4, read_capture, udp, write_pcap

START_NS = 1_767_225_600 * 10**9
A, B = "10.0.0.1", "10.0.0.2"
PACKETS, FRAME_BYTES, IP_BYTES = 10, 50, 36
ARP_BYTES = 42
NO_REPLAY = StartRequest(interface="x.pcap", backend="file")


class Sink:
    """Takes batches, and remembers them."""

    lasting = False
    bytes_max = 1 << 20

    def __init__(self) -> None:
        self.records: list[dict[str, Any]] = []
        self.accepts = True
        self.unmarked = 0

    async def send(self, session_id: str, encoding: str, batch: Batch) -> bool:
        assert encoding == "json"
        if self.accepts:
            self.records += json.loads(bytes(batch.data))
        return self.accepts

    def mark(self, session_id: str, stats: Stats) -> None:
        pass

    def unmark(self) -> None:
        self.unmarked += 1

    async def barrier(self) -> bool:
        return True

    def state(self) -> None:
        return None


@dataclass
class Rig:
    sessions: Sessions
    sink: Sink
    directory: Path
    events: list[dict[str, Any]] = field(default_factory=list)
    metrics: list[MetricsReply] = field(default_factory=list)

    def emit(self, kind: str, event: str, detail: str = "", **more: Any) -> None:
        self.events.append({"kind": kind, "event": event, "detail": detail, **more})

    def names(self) -> list[tuple[str, str]]:
        return [(event["kind"], event["event"]) for event in self.events]

    def replay(self, **more: Any) -> StartRequest:
        frames: list[Packet] = []
        for n in range(PACKETS):
            there = n % 3 != 2
            ends = (A, B) if there else (B, A)
            ports = (1000 + n % 2, 53) if there else (53, 1000 + n % 2)
            frame = ethernet(ipv4(udp(b"12345678", *ports), UDP, *ends))
            frames.append(at(START_NS + n * 100_000_000, frame))
        frames.append(at(START_NS + 10**9, ethernet(arp(A, B), ARP)))
        write_pcap(self.directory / "x.pcap", frames)
        return msgspec.structs.replace(NO_REPLAY, **more)

    async def finished(self) -> None:
        await eventually(
            lambda: (now := self.sessions.current) is not None and now.status().finished, "the end"
        )


@pytest_asyncio.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    config = Config(
        capture=CaptureSection(replay_dirs=[str(tmp_path)]),
        metrics=MetricsSection(interval_sec=3600),
    )
    async with asyncio.timeout(TIMEOUT_SEC), asyncio.TaskGroup() as tasks:
        made = Rig(cast(Any, None), Sink(), tmp_path)

        async def publish(reply: MetricsReply) -> None:
            made.metrics.append(reply)

        made.sessions = Sessions(
            config, cast(Any, made.sink), cast(Any, made), tasks, publish_metrics=publish
        )
        yield made
        await made.sessions.close(1.0)


async def test_status_metrics_and_stop_have_the_sums(rig: Rig) -> None:
    request = rig.replay(metering=MeterRequest(enable=True), buffer_size_mb=3)
    started = await rig.sessions.start(request)
    assert (started.interface, started.backend, started.buffer_size_mb) == ("x.pcap", "file", 3)
    await rig.finished()
    status = cast(Any, rig.sessions.status())
    assert status.running
    assert status.session_id == started.session_id
    assert (status.interface, status.backend, status.filter) == ("x.pcap", "file", "")
    assert status.packets_captured == PACKETS + 1
    assert status.bytes_captured == PACKETS * FRAME_BYTES + ARP_BYTES
    assert status.ip_bytes == PACKETS * IP_BYTES
    assert status.packets_active == PACKETS
    assert status.packets_non_flow == 1
    assert {cause: n for cause, n in status.non_flow.items() if n} == {"arp": 1}
    assert (status.active_flows, status.flows_created) == (2, 2)
    assert status.packets_dropped == status.fragments == status.ip_length_clamped == 0
    assert (status.buffer_size_mb, status.metering.enabled) == (3, True)
    assert status.retention_sec == 1.0  # from the oldest packet to the newest
    assert 0 < status.buffer_usage_percent < 1
    assert (status.export, status.encryption) == (None, None)
    buffer = status.buffer
    assert buffer.packets == PACKETS + 1
    assert buffer.oldest_time == "2026-01-01T00:00:00.000000000Z"
    assert buffer.newest_time == "2026-01-01T00:00:01.000000000Z"
    metrics = rig.sessions.require().end_interval()
    assert metrics.session_id == started.session_id
    assert metrics.avg_packet_size == (PACKETS * FRAME_BYTES + ARP_BYTES) / (PACKETS + 1)
    assert metrics.drop_rate_percent == 0
    assert metrics.active_flows == 2
    later = rig.sessions.require().metrics()  # rates of the last full interval
    assert later.packets_per_sec == metrics.packets_per_sec
    assert later.throughput_mbps == metrics.throughput_mbps > 0

    stopped = await rig.sessions.stop(StopRequest(reason="done"))
    assert (stopped.reason, stopped.session_id) == ("done", started.session_id)
    assert stopped.packets_captured == PACKETS + 1
    assert stopped.bytes_captured == PACKETS * FRAME_BYTES + ARP_BYTES
    assert (stopped.packets_recorded, stopped.packets_non_flow) == (PACKETS, 1)
    assert (stopped.records, stopped.records_sent, stopped.records_unsent) == (2, 2, 0)
    assert (stopped.records_dropped, stopped.packets_unmetered) == (0, 0)
    assert (stopped.packets_dropped, stopped.drop_rate) == (0, 0)
    assert 0 < stopped.uptime_sec < TIMEOUT_SEC
    assert sum(record["packets"] for record in rig.sink.records) == PACKETS
    assert sum(record["bytes"] for record in rig.sink.records) == PACKETS * IP_BYTES
    assert rig.sink.unmarked == 1
    assert rig.names() == [
        ("capture", "started"),
        ("capture", "finished"),
        ("capture", "stopped"),
    ]
    assert rig.events[0]["detail"] == "file on x.pcap"
    assert rig.events[1]["data"] == {"value": 0, "interface": "x.pcap"}
    assert rig.events[2]["data"] == {
        "packets_captured": PACKETS + 1,
        "packets_dropped": 0,
        "records_sent": 2,
        "records_unsent": 0,
    }
    with pytest.raises(NoSession):
        rig.sessions.require()
    assert not rig.sessions.status().running


async def test_rejected_records_are_unsent(rig: Rig) -> None:
    rig.sink.accepts = False
    await rig.sessions.start(rig.replay(metering=MeterRequest(enable=True)))
    await rig.finished()
    session = rig.sessions.require()
    stopped = await rig.sessions.stop(StopRequest())
    assert (stopped.records, stopped.records_sent, stopped.records_unsent) == (2, 0, 2)
    counters = session.counters(session.capture.stats())
    assert counters["packets_records_unsent"] == PACKETS
    assert counters["records_unsent"] == 2


async def test_metering_can_be_changed(rig: Rig) -> None:
    await rig.sessions.start(rig.replay())
    await rig.finished()
    stats = rig.sessions.require().capture.stats()
    assert not stats.metering
    reply = await rig.sessions.meter(
        MeterRequest(enable=True, flow_timeout_sec=7, active_timeout_sec=9)
    )
    assert (reply.status, reply.flow_timeout_sec, reply.active_timeout_sec) == ("enabled", 7, 9)
    assert reply.message == "Flow records are published"
    assert rig.sessions.require().capture.stats().metering
    assert rig.sessions.require().metering.active_timeout_sec == 9
    reply = await rig.sessions.meter(MeterRequest(enable=True, flow_timeout_sec=8))
    assert (reply.flow_timeout_sec, reply.active_timeout_sec) == (8, 9)
    reply = await rig.sessions.meter(MeterRequest(enable=False))
    assert reply.status == "disabled"
    assert "ended" in reply.message
    stopped = await rig.sessions.stop(StopRequest())
    assert (stopped.packets_recorded, stopped.records) == (PACKETS, 2)  # until metering ended


async def test_flows_are_listed(rig: Rig) -> None:
    await rig.sessions.start(rig.replay(metering=MeterRequest(enable=True)))
    await rig.finished()
    capture = rig.sessions.require().capture
    for query, count in (
        (FlowQuery(limit=10, sort="bytes", min_packets=1), 2),
        (FlowQuery(limit=1, sort="recent", min_packets=1), 1),
        (FlowQuery(limit=10, sort="packets", min_packets=6), 0),
        (FlowQuery(limit=10, sort="packets", min_packets=5), 2),
        (FlowQuery(limit=10, sort="bytes", min_packets=1, match=FlowMatch(port=1001)), 1),
        (FlowQuery(limit=10, sort="bytes", min_packets=1, match=FlowMatch(port=0)), 0),
        (FlowQuery(limit=10, sort="bytes", min_packets=1, match=FlowMatch(protocol=17)), 2),
        (FlowQuery(limit=10, sort="bytes", min_packets=1, match=FlowMatch(protocol=0)), 0),
        (
            FlowQuery(
                limit=10, sort="bytes", min_packets=1, match=FlowMatch(ip=bytes([10, 0, 0, 2]))
            ),
            2,
        ),
        (FlowQuery(limit=10, sort="bytes", min_packets=1, match=FlowMatch(ip=bytes(16))), 0),
    ):
        page = await capture.flows(query, None, encoding=0, bytes_max=1 << 20)
        assert len(json.loads(page.data)) == count
        more = count == 1 and query.limit == 1
        assert (page.truncated, bool(page.following), page.active) == (more, more, 2)


async def test_sums_beyond_the_table_are_truncated(rig: Rig) -> None:
    """The core keeps 65,536 sums and counts the flows that found no room."""
    count = 122_000  # more than half of the flows beyond those of the reply find no room
    frame = bytearray(ethernet(ipv4(udp(b"", 1, 2), UDP, A, B)))
    frames: list[Packet] = []
    for number in range(count):
        frame[27:30] = number.to_bytes(3)  # the end of the source address
        frames.append(at(START_NS + number, bytes(frame)))
    write_pcap(rig.directory / "many.pcap", frames)
    request = StartRequest(
        interface="many.pcap", backend="file", metering=MeterRequest(enable=True)
    )
    await rig.sessions.start(request)
    await rig.finished()
    capture = rig.sessions.require().capture
    for by, rows, truncated in ((("source_ip",), 10_000, True), (("dest_ip",), 1, False)):
        query = FlowQuery(limit=10_000, sort="bytes", min_packets=1, by=by)
        page = await capture.flows(query, None, encoding=0, bytes_max=1 << 24)
        assert (page.active, len(json.loads(page.data))) == (count, rows)
        assert (page.truncated, bool(page.following)) == (truncated, truncated)


# ---- collectors ----------------------------------------------------------------------------


def export_to(receiver: socket.socket, **more: Any) -> ExportRequest:
    address, port = receiver.getsockname()
    return ExportRequest(collector_ip=address, collector_port=port, **more)


@pytest.fixture
def receiver() -> socket.socket:
    made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    made.bind(("127.0.0.1", 0))
    return made


async def test_collectors_are_added_changed_and_removed(rig: Rig, receiver: socket.socket) -> None:
    await rig.sessions.start(rig.replay())
    await rig.finished()
    session = rig.sessions.require()
    reply = await rig.sessions.export(export_to(receiver, export_interval_sec=9))
    assert (reply.status, reply.export_interval_sec) == ("enabled", 9)
    assert session.metering.enabled
    state = cast(Any, session.status().export)
    assert (state.enabled, state.export_interval_sec, state.profile) == (True, 9, "compat")
    assert (state.biflow, state.max_message_bytes) == (
        ExportSection().biflow,
        ExportSection().max_message_bytes,
    )
    (one,) = state.collectors
    assert (one.collector_port, one.version, one.standing) == (
        receiver.getsockname()[1],
        export_to(receiver).version,
        False,
    )
    await rig.sessions.export(export_to(receiver, export_interval_sec=4))
    assert session.exporting.interval_sec == 4
    reply = await rig.sessions.export(export_to(receiver, enable=False))
    assert reply.status == "disabled"
    assert session.status().export is None
    assert session.metering.enabled  # stays on
    with pytest.raises(InvalidCollector, match="does not export to"):
        await rig.sessions.export(export_to(receiver, enable=False))
    receiver.close()


async def test_a_collector_beyond_the_limit_is_refused(rig: Rig, receiver: socket.socket) -> None:
    await rig.sessions.start(rig.replay())
    first = receiver.getsockname()[1] - COLLECTORS_MAX
    for port in range(first, first + COLLECTORS_MAX):
        await rig.sessions.export(ExportRequest(collector_ip="127.0.0.1", collector_port=port))
    with pytest.raises(InvalidCollector, match=str(COLLECTORS_MAX)):
        await rig.sessions.export(export_to(receiver))
    state = rig.sessions.require().status().export
    assert isinstance(state, ExportState)
    ports = [one.collector_port for one in state.collectors]
    assert ports == list(range(first, first + COLLECTORS_MAX))


async def test_export_losses_are_alarms_and_sums(rig: Rig, receiver: socket.socket) -> None:
    request = rig.replay(export=export_to(receiver))
    receiver.connect(("127.0.0.1", 9))  # refuses other senders from here on, and keeps the port
    await rig.sessions.start(request)
    await rig.finished()
    session = rig.sessions.require()
    await rig.sessions.stop(StopRequest())
    alarms = [event for event in rig.events if event["event"] == "export_records_lost"]
    assert len(alarms) == 1
    assert alarms[0]["kind"] == "alarm"
    assert alarms[0]["session_id"] == session.id
    assert "missed" in alarms[0]["detail"]
    assert "Connection refused" in alarms[0]["detail"]
    (lost,) = alarms[0]["data"]["collectors"]
    assert lost["records_lost"]["refused"] == 4  # two flows, each in both directions
    assert lost["records_lost"]["no_room"] == lost["records_lost"]["error"] == 0
    sums = session.exporting.sums(session.exporting.stats())
    assert sums["export_records_lost"] == 4
    session.exporting.report_losses()  # nothing new
    assert len([event for event in rig.events if event["event"] == "export_records_lost"]) == 1


# ---- refusals ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "error", "where"),
    [
        ({"replay_speed": float("nan")}, InvalidRequest, "$.replay_speed"),
        ({"backend": "none"}, InvalidBackend, "$.backend"),
        ({"filter": "no such word"}, InvalidFilter, "$.filter"),
        ({"interface": "absent.pcap"}, InvalidInterface, "$.interface"),
        ({"interface": "/etc/passwd"}, PathNotAllowed, "$.interface"),
        (
            {"export": ExportRequest(collector_ip="x", collector_port=1)},
            InvalidCollector,
            "$.export.collector_ip",
        ),
        (
            {"encryption": EncryptionRequest(cipher_suite="AES-256-GCM", key_file="/etc/passwd")},
            PathNotAllowed,
            "$.encryption.key_file",
        ),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
async def test_a_refused_start_names_the_field_and_leaves_no_session(
    rig: Rig, change: dict[str, Any], error: type[RequestError], where: str
) -> None:
    request = rig.replay(**change)
    with pytest.raises(error) as refused:
        await rig.sessions.start(request)
    assert refused.value.field == where
    assert rig.sessions.current is None
    assert rig.events == []
    await rig.sessions.start(rig.replay())


async def test_one_session_at_a_time(rig: Rig) -> None:
    await rig.sessions.start(rig.replay())
    with pytest.raises(SessionActive):
        await rig.sessions.start(rig.replay())
    await rig.sessions.close(1.0)
    with pytest.raises(Draining):
        await rig.sessions.start(rig.replay())
    for change in (
        rig.sessions.stop(StopRequest()),
        rig.sessions.meter(MeterRequest(enable=True)),
        rig.sessions.export(ExportRequest(collector_ip="127.0.0.1", collector_port=1)),
    ):
        with pytest.raises(NoSession):
            await change


async def test_metrics_are_published_each_interval(rig: Rig) -> None:
    rig.sessions.config = msgspec.structs.replace(
        rig.sessions.config, metrics=MetricsSection(interval_sec=0.1)
    )
    began_sec = time.monotonic()
    await rig.sessions.start(rig.replay())
    await eventually(lambda: len(rig.metrics) >= 3, "three metrics messages")
    # A message that is late makes the next interval shorter, but moves no later message.
    ends_sec = list(itertools.accumulate(one.interval_sec for one in rig.metrics))
    assert all(one.interval_sec > 0 for one in rig.metrics)
    assert all(end_sec > 0.1 * number - 0.01 for number, end_sec in enumerate(ends_sec, 1))
    assert ends_sec[-1] < time.monotonic() - began_sec
    rig.sessions.config = msgspec.structs.replace(
        rig.sessions.config, metrics=MetricsSection(interval_sec=3600)
    )
    rig.sessions.retime()
    await asyncio.sleep(0.15)
    published = len(rig.metrics)
    await asyncio.sleep(0.3)
    assert len(rig.metrics) == published


# ---- the capture buffer --------------------------------------------------------------------


async def test_encryption_is_in_status_until_it_is_turned_off(rig: Rig) -> None:
    key = rig.directory / "key"
    key.write_bytes(bytes(range(32)))
    key.chmod(0o600)
    rig.sessions.config = msgspec.structs.replace(
        rig.sessions.config, encryption=EncryptionSection(key_dirs=[str(rig.directory)])
    )
    seal = EncryptionRequest(cipher_suite="AES-256-GCM", key_file="key")
    await rig.sessions.start(rig.replay(record=False, encryption=seal))
    session = rig.sessions.require()
    await rig.finished()
    assert session.capture.stats().encrypted
    assert session.capture.stats().buffer_packets == PACKETS + 1  # encryption implies recording
    state = cast(Any, session.status().encryption)
    assert (state.cipher_suite, state.key_file, len(state.key_id)) == ("AES-256-GCM", "key", 16)
    reply = await rig.sessions.encrypt(msgspec.structs.replace(seal, enable=False))
    assert (reply.status, reply.key_id) == ("disabled", msgspec.UNSET)
    assert session.status().encryption is None
    assert not session.capture.stats().encrypted
    reply = await rig.sessions.encrypt(seal)
    assert (reply.status, reply.key_id, reply.key_file) == ("enabled", state.key_id, "key")
    assert session.status().encryption == state
    for change, error in (
        ({"key_file": "absent"}, InvalidKey),
        ({"cipher_suite": "none"}, UnsupportedCipher),
    ):
        with pytest.raises(error):
            await rig.sessions.encrypt(msgspec.structs.replace(seal, **change))
    assert session.status().encryption == state


async def test_without_a_buffer_nothing_is_sealed(rig: Rig) -> None:
    await rig.sessions.start(rig.replay(record=False))
    await rig.finished()
    with pytest.raises(EncryptionUnavailable):
        await rig.sessions.encrypt(
            EncryptionRequest(cipher_suite="AES-256-GCM", key_file="key", enable=False)
        )
    assert rig.sessions.require().capture.stats().buffer_bytes_capacity == 0
    assert rig.sessions.status().buffer_usage_percent == 0


@pytest.mark.parametrize(
    ("request_", "packets", "complete"),
    [
        (PacketsRequest(to="file"), PACKETS + 1, True),
        (PacketsRequest(to="file", filter="arp"), 1, True),
        (PacketsRequest(to="file", filter="udp port 1001"), PACKETS // 2, True),
        (PacketsRequest(to="file", max_packets=3), 3, False),
        (PacketsRequest(to="file", start="2026-01-01T00:00:00.9Z"), 2, True),
        (PacketsRequest(to="file", end="2026-01-01T00:00:00.1Z"), 2, True),
        (
            PacketsRequest(to="file", start="2026-01-01T00:00:00.1Z", end="2026-01-01T00:00:00.1Z"),
            1,
            True,
        ),
        (PacketsRequest(to="file", start="2027-01-01T00:00:00Z"), 0, True),
    ],
)
async def test_packets_are_copied_to_a_file(
    rig: Rig, request_: PacketsRequest, packets: int, complete: bool
) -> None:
    await rig.sessions.start(rig.replay())
    await rig.finished()
    directory = rig.directory / "out"
    directory.mkdir()
    retrievals = Retrievals(
        BufferSection(export_dir=str(directory)), "alpha", lambda _: pytest.fail("no bucket")
    )
    reply = await retrievals.retrieve(
        rig.sessions.require().capture, packet_query(request_, START_NS), "file", None
    )
    assert (reply.packets, reply.complete) == (packets, complete)
    (made,) = directory.iterdir()
    assert str(made) == reply.path
    assert made.stat().st_mode & 0o777 == 0o600
    assert hashlib.sha256(made.read_bytes()).hexdigest() == reply.sha256
    assert made.stat().st_size == reply.bytes
    copied = read_capture(made)
    assert len(copied) == packets
    if packets:
        assert reply.first_time == rfc3339(copied[0].time_ns)
        assert reply.last_time == rfc3339(copied[-1].time_ns)
    else:
        assert (reply.first_time, reply.last_time) == (None, None)
    assert [gap.reason for gap in reply.gaps] == ([] if complete else ["limit"])


def test_query_ends_before_it_starts() -> None:
    with pytest.raises(InvalidRequest) as refused:
        packet_query(
            PacketsRequest(to="file", start="2026-01-01T00:00:01Z", end="2026-01-01T00:00:00Z"),
            START_NS,
        )
    assert refused.value.field == "$.end"
