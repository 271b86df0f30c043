"""Simulated hosts: many agents in one process, on a few connections, for tests of scale.

    python tests/simulated_fleet.py URL FIRST COUNT DIRECTORY

Each host has its own subjects, its entry in the inventory, and follows policies: the classes
Presence and Desired of the agent do that. Bodies of replies are those of a real agent. A capture
is only noted. The process prints `ready` when every host is in the inventory, and leaves when its
standard input ends. Host `h00000` has the labels `site=s00` and `role=web`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import cast

import msgspec
import nats
import uvloop
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error as NatsError

from deadlines import eventually
from netsonde.bus.connection import Connection, Listener
from netsonde.bus.kv import KeyValue
from netsonde.config.sections import AgentSection, Config, NatsSection
from netsonde.service.desired import Desired
from netsonde.service.discovery import Discovery
from netsonde.service.host_entry import HostDescription, WantedState
from netsonde.service.identity import Identity
from netsonde.service.presence import Presence
from netsonde.wire.instant import rfc3339
from netsonde.wire.inventory import Chosen, Facts, HostEntry, SessionSummary, hosts_bucket
from netsonde.wire.policy import policy_bucket
from netsonde.wire.replies import WantedBy
from netsonde.wire.requests import CaptureOptions

ROOT = "capture"
CONNECTIONS = 4
SITES = 20
FLOWS_MAX = 100
STARTED_TOGETHER = 200
SESSION = SessionSummary(
    session_id="40f3de8ff689ab2f",
    interface="eth0",
    backend="af_packet",
    packets_captured=123_456_789,
    packets_dropped=12,
    packets_per_sec=10_400,
    uptime_sec=86_400.126,
    retention_sec=312.4,
)
FACTS = Facts(
    kernel="6.1.0-18-amd64",
    os="Debian GNU/Linux 12 (bookworm)",
    arch="x86_64",
    cpus=8,
    memory_mb=32_000,
    interfaces=["eth0", "eth1", "lo"],
    backends=["af_packet", "file", "pcap", "xdp"],
)
COUNTERS = (
    '"packets_captured":123456789,"packets_dropped":12,"bytes_captured":91600000,'
    '"frames_captured":123456789,"packets_recorded":123456000,"packets_active":771,'
    '"packets_non_flow":18,"packets_unmetered":0,"packets_records_dropped":0,"records":412345,'
    '"records_dropped":0,"records_waiting":0,"flows_created":412400,"timestamps_corrected":0,'
    '"timestamps_late":0,"ring_freezes":0,"chunks_overwritten":0,"packets_overwritten":0,'
    '"packets_unrecorded":0,"packets_seal_lost":0,"packets_spill_lost":0,"seal_failures":0,'
    '"spill_failures":0,"records_sent":412345,"records_unsent":0,"packets_records_unsent":0,'
    '"export_records_sent":0,"export_records_lost":0,"session_id":"40f3de8ff689ab2f"'
)
STATUS = (
    '{"host":"HOST","running":true,"interface":"eth0","backend":"af_packet","uptime_sec":86400.1,'
    f'"buffer_usage_percent":43.9,{COUNTERS},"finished":false,"link_up":true,"interfaces":[{{"name":'
    '"eth0","ifindex":2,"captured":true,"link_up":true,"packets_captured":123456789,'
    '"packets_dropped":12,"packets_non_flow":18,"bytes_captured":91600000}],"filter":"","attach":'
    '"tpacket_v3 ring 64 MiB","active_flows":9,"flow_table_size":262144,"retention_sec":312.4,'
    '"ring_used_percent":0.0,"buffer_size_mb":64,"non_flow":{"arp":0,"lldp":0,"stp":0,'
    '"pppoe_control":0,"other_ethertype":0,"other_llc":0,"other_linktype":0,"wlan_control":0,'
    '"encrypted":0,"malformed":0,"truncated":0,"own":18},"undecoded":[],"ip_bytes":213200000,'
    '"ip_length_clamped":0,"fragments":0,"records_by_reason":{"idle":400000,"active":12345,"end":0,'
    '"forced":0,"resources":0},"metering":{"enabled":true,"flow_timeout_sec":300,'
    '"active_timeout_sec":60},"export":null,"encryption":null,"buffer":{"bytes_used":4608000,'
    '"bytes_capacity":67108864,"packets":34000,"oldest_time":"2026-11-29T01:59:22.029702888Z",'
    '"newest_time":"2026-11-29T02:04:22.413378256Z","segments":0,"segment_bytes":0},"spool":null,'
    '"bus":{"connected":true,"denied":[],"denials":0},"bus_authenticated":true}'
)
METRICS = (
    f'{{"host":"HOST",{COUNTERS},"time":"2026-11-29T01:59:23.034055048Z","interval_sec":1.006372216,'
    '"throughput_mbps":72.8,"packets_per_sec":10400,"avg_packet_size":876.15,"drop_rate_percent":0.0,'
    '"buffer_usage_percent":43.9,"active_flows":9,"spool":null}'
)
NOW_NS = 1_795_917_600 * 10**9


def make_flow(draw: random.Random) -> dict[str, object]:
    """Returns a flow of 0.9 KB. `ids` cannot be compressed well, as ids and times of real flows."""
    first_ns, packets = NOW_NS - draw.getrandbits(38), draw.getrandbits(draw.randint(1, 20))
    return {
        "boot": "18ec6181e4cc2df4", "session_id": "40f3de8ff689ab2f",
        "flow_id": draw.getrandbits(48), "protocol": "TCP", "protocol_number": 6,
        "source_ip": f"10.{draw.getrandbits(8)}.{draw.getrandbits(8)}.{draw.getrandbits(8)}",
        "dest_ip": f"10.44.12.{draw.getrandbits(8)}", "source_port": draw.getrandbits(16),
        "dest_port": draw.choice((53, 80, 443, 5432)), "packets": packets, "bytes": packets * 611,
        "first_seen": rfc3339(first_ns), "last_seen": rfc3339(first_ns + draw.getrandbits(36)),
        "interface": "eth0", "ids": f"{draw.getrandbits(640):0160x}", "padding": "x" * 320,
    }  # fmt: skip


FLOWS = [make_flow(random.Random(number)) for number in range(4 * FLOWS_MAX)]


def host_name(number: int) -> str:
    return f"h{number:05}"


class Link:
    """Replaces the bus connection of an agent by a connection that several hosts share."""

    connected = True

    def __init__(self, client: Client) -> None:
        self.client = client
        self._listeners: dict[str, list[Listener]] = {}

    async def wait_connected(self) -> None:
        return

    def notify(self, _: Callable[[bool], None]) -> None:
        return

    def listen(self, subject: str, listener: Listener) -> None:
        self._listeners.setdefault(subject, []).append(listener)

    async def subscribe(self) -> None:
        for subject, listeners in self._listeners.items():

            async def hear(message: Msg, listeners: list[Listener] = listeners) -> None:
                for listener in listeners:
                    await listener(message)

            await self.client.subscribe(subject, cb=hear)

    async def request_message(
        self,
        subject: str,
        payload: bytes,
        timeout_sec: float,
        headers: dict[str, str] | None = None,
    ) -> Msg | None:
        try:
            return await self.client.request(subject, payload, timeout_sec, headers=headers)
        except (NatsError, TimeoutError):
            return None


class Description:
    """Replaces a HostDescription, without the machine's own facts."""

    def __init__(self, host: str, labels: dict[str, str]) -> None:
        agent = AgentSection(host=host, labels=labels)
        self.settings = Config(agent=agent, nats=NatsSection(root=ROOT))
        self.host = host
        self.boot = f"{os.getpid():016x}"
        self.session: SessionSummary | None = SESSION
        self.wanted: Callable[[], WantedState] = WantedState

    async def load_backends(self) -> None:
        return

    def entry(self) -> HostEntry:
        return HostEntry(
            host=self.host,
            boot=self.boot,
            version="1.0.0",
            time=rfc3339(time.time_ns()),
            labels=dict(self.settings.agent.labels),
            facts=FACTS,
            server="127.0.0.1:4222",
            session=self.session,
            **asdict(self.wanted()),
        )

    def candidate(self) -> Chosen:
        return Chosen.of(self.entry())


class Host:
    """One agent. executed: the verbs of its requests, in order."""

    reason = failure = drift = ""

    def __init__(self, link: Link, number: int, directory: Path) -> None:
        self.name = host_name(number)
        self.labels = {"site": f"s{number % SITES:02}", "role": "db" if number % 4 == 3 else "web"}
        self.executed: list[str] = []
        self.capture: CaptureOptions | None = None
        self._link = link
        description = Description(self.name, self.labels)
        as_description = cast(HostDescription, description)
        connection = cast(Connection, link)
        identity = Identity(
            self.name, ROOT, "1.0.0", f"{self.name}.example", self.labels,
            {"version.agent": "1.0.0", "version.core_abi": "1", "version.kernel": FACTS.kernel},
        )  # fmt: skip
        discovery = Discovery(identity)
        self.documents = {
            kind: json.dumps(discovery.document(kind, {})).encode() for kind in ("PING", "INFO")
        }
        self.headers = {
            "Status-Code": "200", "Host": self.name, "Content-Type": "application/json"
        }  # fmt: skip
        self.presence = Presence(
            connection, as_description, self, root=ROOT, on_name=lambda _: None
        )
        self.desired = Desired(
            connection, as_description, self, self,
            path=directory / f"{self.name}.json", allowed=lambda: True,
        )  # fmt: skip
        description.wanted = self.desired.state

    def emit(self, *_: object, **__: object) -> None:
        self.presence.note_change()

    def want(self, _: WantedBy, options: CaptureOptions | None) -> None:
        self.capture = options

    async def subscribe(self) -> None:
        await self._link.client.subscribe(f"{ROOT}.host.{self.name}.>", cb=self.answer)
        await self._link.client.subscribe(f"$SRV.*.netsonde.{self.name}", cb=self.introduce)

    async def introduce(self, message: Msg) -> None:
        document = self.documents.get(message.subject.split(".")[1])
        if document is not None:
            await self._link.client.publish(message.reply, document)

    async def answer(self, message: Msg) -> None:
        verb = message.subject.rpartition(".")[2]
        self.executed.append(verb)
        body = reply_body(verb, self.name, message.data)
        await self._link.client.publish(message.reply, body, headers=self.headers)


def reply_body(verb: str, host: str, request: bytes) -> bytes:
    if verb == "flows":
        rows = min(json.loads(request or b"{}").get("limit", FLOWS_MAX), FLOWS_MAX)
        start = zlib.crc32(host.encode()) % (len(FLOWS) - rows + 1)
        body = {
            "host": host,
            "flows": FLOWS[start : start + rows],
            "active_flows": rows,
            "truncated": False,
        }
        return msgspec.json.encode(body)
    return {"status": STATUS, "metrics": METRICS}[verb].replace("HOST", host).encode()


async def connect(url: str) -> Link:
    client = await nats.connect(url, max_reconnect_attempts=-1, pending_size=64 << 20)
    return Link(client)


async def listed(hosts: list[Host]) -> None:
    await eventually(
        lambda: all(one.presence._revision is not None for one in hosts),
        "the hosts to be in the inventory",
    )


async def run(url: str, first: int, count: int, directory: Path) -> None:
    links = [await connect(url) for _ in range(min(CONNECTIONS, count))]
    hosts = [Host(links[n % len(links)], n, directory) for n in range(first, first + count)]

    async def introduce_all(message: Msg) -> None:
        for host in hosts:
            await host.introduce(message)

    async def answer_all(message: Msg) -> None:
        for host in hosts:
            await host.answer(message)

    for host in hosts:
        await host.subscribe()
    for link in links:
        await link.subscribe()
    for kind in ("PING", "INFO"):
        await links[0].client.subscribe(f"$SRV.{kind}.netsonde", cb=introduce_all)
    for verb in ("status", "metrics", "flows"):
        await links[0].client.subscribe(f"{ROOT}.{verb}", cb=answer_all)
    tasks = set()
    for start in range(0, count, STARTED_TOGETHER):
        group = hosts[start : start + STARTED_TOGETHER]
        tasks |= {asyncio.create_task(one.presence.run()) for one in group}
        await listed(group)
        tasks |= {asyncio.create_task(one.desired.run()) for one in group}
    for link in links:
        await link.client.flush()
    print("ready", flush=True)
    loop = asyncio.get_running_loop()
    await loop.run_in_executor(None, sys.stdin.read)
    for task in tasks:
        task.cancel()
    for link in links:
        with contextlib.suppress(NatsError):
            await link.client.close()


@dataclass(frozen=True)
class Group:
    """The hosts of one process."""

    hosts: list[str]
    process: subprocess.Popen[str]


@contextmanager
def simulated(url: str, hosts: int, directory: Path, processes: int = 1) -> Iterator[list[Group]]:
    """Runs simulated hosts in processes of equal size. Creates the buckets first, as
    `netsonde nats streams` does for many agents."""
    asyncio.run(make_buckets(url))
    share = -(-hosts // processes)
    groups: list[Group] = []
    try:
        for first in range(0, hosts, share):
            names = [host_name(number) for number in range(first, min(first + share, hosts))]
            words = [url, str(first), str(len(names)), str(directory)]
            process = subprocess.Popen(
                [sys.executable, __file__, *words],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            groups.append(Group(names, process))
        for group in groups:
            assert group.process.stdout is not None
            said = group.process.stdout.readline()
            assert said == "ready\n", "the simulated hosts did not start"
        yield groups
    finally:
        for group in groups:
            group.process.kill()
            group.process.wait()


async def make_buckets(url: str) -> None:
    link = await connect(url)
    for name in (hosts_bucket(ROOT), policy_bucket(ROOT)):
        await KeyValue(link, name).ensure()
    await link.client.close()


if __name__ == "__main__":
    first, count = map(int, sys.argv[2:4])
    uvloop.run(run(sys.argv[1], first, count, Path(sys.argv[4])))
