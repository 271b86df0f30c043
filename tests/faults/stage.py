"""The stage of the stream fault tests: an agent, a JetStream server, collectors and checks.

The agent replays a crowd: a capture file of FLOWS one-packet flows at RATE flows a second. Each
flow ends a second after its packet, so records leave at the same rate.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import signal
import struct
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import nats
from nats.aio.client import Client

from agents import COMMAND, Agent, Fleet, client_flags
from bus import Bus
from deadlines import TIMEOUT_SEC, eventually_now
from netsonde.bus.credentials import Login
from netsonde.config.sections import NatsSection
from packets import SECOND_NS, UDP, ethernet, ipv4, udp
from servers import NatsServer

RATE = 50_000
FLOWS = 200_000
LIVE_FLOWS = 60_000
START_NS = 1_767_225_600 * SECOND_NS
METERING = {"enable": True, "flow_timeout_sec": 1, "active_timeout_sec": 60}
FIELDS = ["flow_id", "source_ip", "source_port", "packets", "bytes", "segment", "end_reason"]


class Line(msgspec.Struct):
    session_id: str
    flow_id: str
    segment: int
    packets: int
    bytes: int


@dataclass(frozen=True)
class Sums:
    records: int
    packets: int
    bytes: int


@dataclass
class Crowd:
    path: Path
    bytes: int  # IP octets of all packets


def write_crowd(path: Path, *, flows: int = FLOWS, rate: int = RATE) -> Crowd:
    """Writes UDP packets of different sizes, each from a different address."""
    total = 0
    ethernet = bytes.fromhex("02000000000202000000000108 00".replace(" ", ""))
    with path.open("wb") as file:
        file.write(struct.pack("<IHHiIII", 0xA1B23C4D, 2, 4, 0, 0, 262144, 1))
        for number in range(flows):
            size = 28 + number % 61
            total += size
            ip = struct.pack("!BBHHHBBHII", 0x45, 0, size, 0, 0, 64, 17, 0, 0x0A000000 + number,
                             0x0AFF0001)  # fmt: skip
            udp = struct.pack("!HHHH", 1024 + number % 50_000, 53, size - 20, 0)
            frame = ethernet + ip + udp + bytes(size - 28)
            seconds, rest = divmod(START_NS + number * SECOND_NS // rate, SECOND_NS)
            file.write(struct.pack("<IIII", seconds, rest, len(frame), len(frame)) + frame)
    return Crowd(path, total)


def live_frames() -> list[bytes]:
    """Returns LIVE_FLOWS one-packet flows, each from a different address, to send on a wire."""
    sources = [f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}" for n in range(LIVE_FLOWS)]
    payload = udp(b"x" * 20, 1000, 53)
    return [ethernet(ipv4(payload, UDP, source, "10.200.0.1")) for source in sources]


def jetstream(directory: Path, extra: str = "") -> NatsServer:
    return NatsServer(directory, config=f'jetstream {{ store_dir: "{directory}/js" {extra} }}\n')


async def _expected(error: Exception) -> None:
    del error


@dataclass
class Row:
    """One line of the table."""

    fault: str
    records: int
    collected: int
    lost: int
    doubled: int
    dropped: int
    seconds: float


ROWS: list[Row] = []


@dataclass
class Stage:
    fleet: Fleet
    directory: Path
    crowd: Crowd
    servers: Sequence[NatsServer]
    creds: Path | None = None  # a NATS client for requests
    collectors: list[subprocess.Popen[bytes]] = field(default_factory=list)
    began: float = field(default_factory=time.monotonic)
    _numbers: itertools.count[int] = field(default_factory=lambda: itertools.count(1))

    @property
    def urls(self) -> list[str]:
        return [server.url for server in self.servers]

    @property
    def output(self) -> Path:
        return self.directory / "collected"

    def agent(self, **sections: Any) -> Agent:
        flows = {
            "jetstream": True,
            "encoding": "msgpack",
            "fields": FIELDS,
            "spool_dir": self.directory / "spool",
            "flow_table_size": 524288,
            **sections.pop("flows", {}),
        }
        nats = {"servers": self.urls, **sections.pop("nats", {})}
        agent = self.fleet.agent("alpha", flows=flows, nats=nats, **sections).spawn()
        self.ask("status")
        return agent

    def collect(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Starts a collector and returns once it pulls. A collector that cannot reach NATS at the
        start exits."""
        log = (self.directory / f"collector-{next(self._numbers)}.log").open("wb")
        line = [*self.fleet.prefix, str(COMMAND), "collect", "-o", str(self.output)]
        line += [*client_flags(",".join(self.urls)), "--ack-wait", "2", "--rotate-mb", "4"]
        line += ["--rotate-sec", "3", *arguments]
        process = subprocess.Popen(line, stdout=log, stderr=subprocess.STDOUT)
        log.close()
        self.collectors.append(process)
        eventually_now(
            lambda: process.poll() is not None or asyncio.run(self._pulled()),
            "the collector to pull",
        )
        assert process.poll() is None, Path(log.name).read_text()
        return process

    async def _pulled(self) -> bool:
        """Returns whether a collector waits for messages of the stream."""
        waiting: int = (await self._consumer()).get("num_waiting", 0)
        return waiting > 0

    def drained(self) -> bool:
        """Returns whether the collectors have acked, and so written, every message of the
        stream."""
        consumer = asyncio.run(self._consumer())
        return consumer.get("num_pending") == consumer.get("num_ack_pending") == 0

    async def _consumer(self) -> dict[str, Any]:
        """Returns JetStream's state of the collectors' consumer; empty if the consumer does not
        exist."""
        name = "$JS.API.CONSUMER.INFO.CAPTURE_FLOWS.netsonde-collect"
        client = await self._connect()
        try:
            reply = await client.request(name, b"", timeout=2)
        except (nats.errors.NoRespondersError, TimeoutError):
            return {}
        finally:
            await client.close()
        return dict(json.loads(reply.data))

    async def _connect(self) -> Client:
        options = Login(NatsSection(servers=self.urls, creds=str(self.creds or ""))).options
        return await nats.connect(
            self.urls, connect_timeout=2, allow_reconnect=False, error_cb=_expected, **options
        )

    def start(self, **options: Any) -> dict[str, Any]:
        body = {
            "interface": str(self.crowd.path),
            "backend": "file",
            "replay_speed": 1.0,
            "metering": METERING,
            **options,
        }
        return self.ask("start", body)

    def ask(self, verb: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """Sends a request and repeats it until the agent replies."""

        async def ask() -> dict[str, Any] | None:
            try:
                client = await self._connect()
            except (OSError, TimeoutError, nats.errors.Error):
                return None  # the server was dead or frozen
            try:
                return await Bus(client).ok(verb, body)
            except (nats.errors.NoRespondersError, TimeoutError):
                return None
            finally:
                await client.close()

        return eventually_now(lambda: asyncio.run(ask()), f"an answer to {verb}") or {}

    def until(self, holds: Callable[[dict[str, Any]], bool], what: str) -> Any:
        def ask() -> dict[str, Any] | None:
            status = self.ask("status")
            return status if holds(status) else None

        return eventually_now(ask, what)

    def finish(self) -> dict[str, Any]:
        """Waits for the end of the file, stops the session, drains the spool. Returns the stop
        reply."""
        self.until(lambda status: status["finished"], "the file to be read")
        return self.stop()

    def stop(self) -> dict[str, Any]:
        return self.ask("stop")

    def spool(self) -> dict[str, Any]:
        """Returns the spool's counters once its backlog is empty."""
        found = self.until(
            lambda status: status["spool"]["records_waiting"] == 0,
            "the spool to empty",
        )
        return dict(found["spool"])

    def gather(self, expected: int) -> tuple[Sums, int]:
        """Stops the collectors once they have that many records. Returns the sums and the number of
        duplicates."""
        state = self.output / "state.json"

        def arrived() -> int:
            try:
                return int(json.loads(state.read_bytes())["totals"]["records"])
            except FileNotFoundError:
                return 0

        eventually_now(
            lambda: arrived() >= expected, f"{expected} records collected", within_sec=90
        )
        time.sleep(0.5)  # time for a superfluous record to arrive
        for process in self.collectors:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                process.wait(TIMEOUT_SEC)
        seen: set[tuple[str, str, int]] = set()
        records = packets = size = 0
        decode = msgspec.json.Decoder(Line).decode
        for path in sorted(self.output.glob("flows-*.jsonl")):
            for line in path.read_bytes().splitlines():
                one = decode(line)
                seen.add((one.session_id, one.flow_id, one.segment))
                records, packets, size = records + 1, packets + one.packets, size + one.bytes
        return Sums(records, packets, size), records - len(seen)

    def settle(self, fault: str, stopped: dict[str, Any], *, lost: int = 0) -> None:
        """Checks that the collectors wrote every metered record exactly once."""
        assert stopped["records_unsent"] == 0
        assert stopped["records_dropped"] == 0
        collected, doubled = self.gather(stopped["records"] - lost)
        ROWS.append(
            Row(
                fault,
                stopped["records"],
                collected.records,
                lost,
                doubled,
                stopped["packets_dropped"],
                time.monotonic() - self.began,
            )
        )
        assert doubled == 0
        assert stopped["packets_dropped"] == 0
        assert collected.records + lost == stopped["records"]
        if not lost and stopped["packets_captured"] == FLOWS:
            assert collected == Sums(FLOWS, FLOWS, self.crowd.bytes)
