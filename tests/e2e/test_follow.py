"""`netsonde flows --follow` next to JetStream and a collector: all three receive every record, in
each encoding."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from agents import COMMAND, Fleet, answers, client_flags
from bus import Bus
from deadlines import eventually
from followers import is_followed
from packets import ICMP, IPV6, SECOND_NS, UDP, Packet, at, ethernet, icmp, ipv4, ipv6, udp
from replay import finished
from servers import NatsServer

ENCODINGS = ("json", "msgpack", "ipfix")
START_NS = 1_767_225_600 * SECOND_NS
# Fields that IPFIX and JSON records must agree on. IPFIX times are milliseconds, and so are those
# of this test. IPFIX has other values for the ports of ICMP.
ALIKE = (
    "source_ip", "dest_ip", "protocol", "protocol_number", "icmp_type", "vlan", "packets", "bytes",
    "reverse_packets", "reverse_bytes", "first_seen", "last_seen", "end_reason",
)  # fmt: skip
PORTS = ("source_port", "dest_port")


pytestmark = pytest.mark.jetstream


def conversations() -> list[Packet]:
    there, back = ("198.18.0.1", "198.18.0.2"), ("198.18.0.2", "198.18.0.1")
    frames = [
        *(ethernet(ipv4(udp(b"netsonde", 1000 + n, 53), UDP, *there)) for n in range(5)),
        ethernet(ipv4(udp(b"netsonde's", 53, 1000), UDP, *back)),
        ethernet(ipv4(icmp(8), ICMP, *there)),
        ethernet(ipv6(udp(b"netsonde", 1000, 53), UDP, "fd00::1", "fd00::2"), IPV6, vlans=[42]),
    ]
    return [at(START_NS + n * 1_000_000, frame) for n, frame in enumerate(frames)]


FLOWS = 7


def spawn(server: NatsServer, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [COMMAND, *words, *client_flags(server.url)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def order(record: dict[str, Any]) -> tuple[Any, ...]:
    return record["host"], record["source_ip"], record["protocol"], record["source_port"]


def common_fields(record: dict[str, Any]) -> list[Any]:
    names = ALIKE if record["protocol"] == "ICMP" else (*ALIKE, *PORTS)
    return [record.get(name) for name in names]


async def test_followers_and_collector_receive_the_same_records(
    fleet: Fleet,
    nats_server: NatsServer,
    bus: Bus,
    tmp_path: Path,
    capture_file: Callable[[list[Packet]], Path],
) -> None:
    expected = FLOWS * len(ENCODINGS)
    follow = ["flows", "--follow", "-n", f"{expected}"]
    follow += [word for encoding in ENCODINGS for word in ("--host", encoding)]
    summary_line = f"{expected} records from {len(ENCODINGS) + 1} hosts\n"
    program = spawn(nats_server, *follow, "--host", "program", "--json")
    person = spawn(nats_server, *follow, "--host", "person")
    await eventually(lambda: is_followed(bus.client, "program"), "the JSON follower to subscribe")
    await eventually(lambda: is_followed(bus.client, "person"), "the table follower to subscribe")
    for encoding in ENCODINGS:
        flows = {"jetstream": True, "encoding": encoding, "spool_dir": tmp_path / f"{encoding}.sp"}
        fleet.agent(encoding, flows=flows).spawn()
    for host in ENCODINGS:
        subject = f"$SRV.PING.netsonde.{host}"
        await eventually(partial(answers, nats_server.url, subject), f"{host} to answer")
    collected = tmp_path / "collected"
    collector = spawn(nats_server, "collect", "-o", str(collected), "--json")

    path = capture_file(conversations())
    for host in ENCODINGS:
        metering = {"enable": True, "active_timeout_sec": 3600}
        body = {"interface": str(path), "backend": "file", "metering": metering}
        await bus.ok("start", body, host=host)
        await finished(bus, host)
        stopped = await bus.ok("stop", host=host)
        assert (stopped["records"], stopped["records_unsent"]) == (FLOWS, 0)

    out, errors = await asyncio.to_thread(program.communicate, timeout=60)
    assert (program.returncode, errors) == (0, summary_line)
    followed = sorted((json.loads(line) for line in out.splitlines()), key=order)

    def arrived() -> bool:
        state = collected / "state.json"
        return state.exists() and json.loads(state.read_text())["totals"]["records"] >= expected

    await eventually(arrived, "the collector to have every record")
    collector.send_signal(signal.SIGTERM)
    _, summary = await asyncio.to_thread(collector.communicate, timeout=60)
    assert collector.returncode == 0, summary
    assert json.loads(summary.splitlines()[-1])["gaps"] == []
    lines = [line for path in collected.glob("*.jsonl") for line in path.read_text().splitlines()]
    stored = sorted(map(json.loads, lines), key=order)
    for record in stored:
        del record["session_id"], record["duration_us"]  # fields that a follower does not print
    assert followed == stored

    assert {record["host"] for record in followed} == set(ENCODINGS)
    of_host = {
        host: [common_fields(r) for r in followed if r["host"] == host] for host in ENCODINGS
    }
    assert len(of_host["json"]) == FLOWS
    assert of_host["json"] == of_host["msgpack"] == of_host["ipfix"]

    out, errors = await asyncio.to_thread(person.communicate, timeout=60)
    assert (person.returncode, errors) == (0, summary_line)
    hosts, _, said = zip(*(line.split("  ", 2) for line in out.splitlines()), strict=True)
    assert {hosts.count(host) for host in ENCODINGS} == {FLOWS}
    for line in (
        "ICMP    198.18.0.1 → 198.18.0.2 type 8  1 packet  28 bytes  forced",
        "UDP     198.18.0.1:1000 → 198.18.0.2:53  2 packets  74 bytes  forced",
        "UDP     [fd00::1]:1000 → [fd00::2]:53 vlan 42  1 packet  56 bytes  forced",
    ):
        assert said.count(line) == len(ENCODINGS), line
