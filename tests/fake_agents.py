"""Agents that only answer requests, for tests of the client with more hosts than real agents fit.

A fake agent listens on a host's subjects like a real one and answers discovery. It refuses late
requests, answers a repeated Request-Id from memory, and counts what it executes.
"""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime
from typing import Any

import msgspec
from nats.aio.client import Client
from nats.aio.msg import Msg

from bus import settled

STATUS = {
    "running": False,
    "interface": "",
    "backend": "",
    "packets_captured": 0,
    "packets_dropped": 0,
    "uptime_sec": 0.0,
    "buffer_usage_percent": 0.0,
}
METRICS = {
    "throughput_mbps": 0.0,
    "packets_per_sec": 0,
    "avg_packet_size": 0.0,
    "drop_rate_percent": 0.0,
    "buffer_usage_percent": 0.0,
    "active_flows": 0,
}
BODIES: dict[str, dict[str, Any]] = {
    "status": STATUS,
    "metrics": METRICS,
    "flows": {"flows": [], "active_flows": 0, "truncated": False},
    "start": {
        "status": "started",
        "session_id": "s",
        "interface": "eth0",
        "backend": "pcap",
        "buffer_size_mb": 1,
    },
    "stop": {
        "status": "stopped",
        "packets_captured": 0,
        "packets_dropped": 0,
        "drop_rate": 0.0,
        "uptime_sec": 0.0,
    },
    "packets": {
        "packets": 0,
        "bytes": 0,
        "first_time": None,
        "last_time": None,
        "complete": True,
        "gaps": [],
        "bucket": "b",
        "object": "o",
        "sha256": "",
    },
}


class FakeAgent:
    """delay_sec: added to each answer, like a far host's round trip. raw: sent instead of each
    reply's body."""

    def __init__(
        self,
        client: Client,
        host: str,
        *,
        labels: dict[str, str] | None = None,
        delay_sec: float = 0.0,
        raw: bytes | None = None,
        root: str = "capture",
    ) -> None:
        self.client = client
        self.host = host
        self.labels = labels or {}
        self.delay_sec = delay_sec
        self.raw = raw
        self.root = root
        self.discoverable = True
        self.bodies = dict(BODIES)
        self.executed: list[str] = []
        self.introduced: list[str] = []  # subjects of discovery
        self.in_flight = 0
        self._replies: dict[str, dict[str, Any]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> FakeAgent:
        for verb in BODIES:
            await self.client.subscribe(f"{self.root}.{verb}", cb=self._on_request)
        await self.client.subscribe(f"{self.root}.host.{self.host}.>", cb=self._on_request)
        for label in self.labels.items():
            subject = f"{self.root}.group.{'.'.join(label)}.>"
            await self.client.subscribe(subject, cb=self._on_request)
        if self.discoverable:
            for kind in ("PING", "INFO"):
                for subject in (
                    f"$SRV.{kind}.netsonde",
                    f"$SRV.{kind}.netsonde.{self.host}",
                ):
                    await self.client.subscribe(subject, cb=self._on_discovery)
        await settled(self.client)
        return self

    def _later(
        self, message: Msg, body: bytes, headers: dict[str, str] | None
    ) -> asyncio.Task[None]:
        async def answer() -> None:
            await asyncio.sleep(self.delay_sec)
            if not self.client.is_closed:
                await self.client.publish(message.reply, body, headers=headers)

        task = asyncio.create_task(answer())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _on_discovery(self, message: Msg) -> None:
        self.introduced.append(message.subject)
        metadata = {"subject.root": self.root, **self.labels}
        body = {"name": "netsonde", "id": self.host, "version": "1.0.0", "metadata": metadata}
        self._later(message, json.dumps(body).encode(), None)

    async def _on_request(self, message: Msg) -> None:
        self.in_flight += 1
        verb = message.subject.rsplit(".", 1)[1]
        headers = message.headers or {}
        request_id = headers.get("Request-Id", "")
        body = self._replies.get(request_id)
        if body is None:
            body = self._execute(verb, headers)
            self._replies[request_id] = body
        sent = {"Status-Code": str(body.get("code", 200)), "Host": self.host}
        task = self._later(
            message, msgspec.json.encode(body) if self.raw is None else self.raw, sent
        )
        task.add_done_callback(self._landed)

    async def lie(self, host: str, *, labels: dict[str, str] | None = None) -> None:
        """Also answers what every agent hears under another host's name."""
        liar = FakeAgent(self.client, host, labels=labels, root=self.root)
        for verb in BODIES:
            await self.client.subscribe(f"{self.root}.{verb}", cb=liar._on_request)
        for label in self.labels.items():
            subject = f"{self.root}.group.{'.'.join(label)}.>"
            await self.client.subscribe(subject, cb=liar._on_request)
        for kind in ("PING", "INFO"):
            await self.client.subscribe(f"$SRV.{kind}.netsonde", cb=liar._on_discovery)
        await settled(self.client)

    def _landed(self, _task: asyncio.Task[None]) -> None:
        self.in_flight -= 1

    def _execute(self, verb: str, headers: dict[str, str]) -> dict[str, Any]:
        expires_at = headers.get("Expires-At")
        if expires_at and datetime.fromisoformat(expires_at) < datetime.now(UTC):
            return {"host": self.host, "code": 400, "error": "expired", "detail": "Too late."}
        self.executed.append(verb)
        return {"host": self.host, **self.bodies[verb]}
