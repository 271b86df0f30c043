"""Connections come back to their preferred server and lose no message.

Three real servers in a cluster. Some hosts prefer the server that is killed and started again.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import nats
import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg

from bus import settled
from deadlines import eventually
from netsonde.bus import preferred
from netsonde.bus.connection import Connection, order_servers
from netsonde.config.sections import NatsSection
from servers import NatsServer
from sites import Sites

HOSTS = [f"h{number}" for number in range(12)]
PROBE = "records.probe"


@pytest.fixture
def sites(tmp_path: Path) -> Iterator[Sites]:
    sites = Sites(tmp_path / "servers")
    sites.start_hub()
    yield sites
    sites.kill()


class Sender:
    """A host's connection. It publishes numbered messages while the test runs, and replies to
    requests."""

    def __init__(self, sites: Sites, host: str) -> None:
        self.host = host
        self.home = order_servers(sites.urls, host)[0].removeprefix("nats://")
        self.connection = Connection(NatsSection(servers=sites.urls), host=host, purpose="test")
        self.connection.listen(f"ask.{host}", self._reply)
        self.sent: list[str] = []
        self.homes_sec: list[float] = []  # when it came home
        self.connection.notify(self._note)

    def _note(self, up: bool) -> None:
        if up and self.at_home:
            self.homes_sec.append(asyncio.get_running_loop().time())

    async def _reply(self, message: Msg) -> None:
        await self.connection.publish(message.reply, b"here")

    @property
    def at_home(self) -> bool:
        return self.connection.server == self.home

    async def publish_until(self, stopped: asyncio.Event) -> None:
        while not stopped.is_set():
            text = f"{self.host} {len(self.sent)}"
            if await self.connection.publish(f"records.{self.host}", text.encode()):
                self.sent.append(text)
            await asyncio.sleep(0.002)


@asynccontextmanager
async def running(sites: Sites) -> AsyncIterator[list[Sender]]:
    senders = [Sender(sites, host) for host in HOSTS]
    tasks = [asyncio.create_task(one.connection.run()) for one in senders]
    try:
        await asyncio.gather(*(one.connection.wait_connected() for one in senders))
        yield senders
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def joined(server: NatsServer, other: Client) -> None:
    """Returns when messages pass from the server to the others."""
    heard: list[Msg] = []

    async def keep(message: Msg) -> None:
        heard.append(message)

    await other.subscribe("joined", cb=keep)
    client = await nats.connect(server.url)

    async def passes() -> bool:
        await client.publish("joined", b"")
        await settled(client)
        await settled(other)
        return bool(heard)

    await eventually(passes, "the server to join the cluster")
    await client.close()


async def heard_from(server: NatsServer, probes: set[str]) -> None:
    """Returns when the collector hears what is published at the server: a route passes a new
    subscription on in its own time. More probes can be on their way."""
    client = await nats.connect(server.url)

    async def passes() -> bool:
        await client.publish(PROBE, server.url.encode())
        await settled(client)
        return server.url in probes

    await eventually(passes, f"the records of {server.url}")
    await client.close()


class Gate:
    """Counts the looks at a server that is down. Lets connections return once it is open."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        look = Connection._accepts_login
        self.refused: Counter[str] = Counter()
        self.open = False

        async def gated(connection: Connection) -> bool:
            accepts = await look(connection)
            self.refused[connection._host] += not accepts
            return accepts and self.open

        monkeypatch.setattr(Connection, "_accepts_login", gated)


async def test_hosts_return_and_lose_no_message(
    sites: Sites, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preferred, "RETURN_SEC_MIN", 0.5)
    monkeypatch.setattr(preferred, "RETURN_SEC_MAX", 4.0)
    gate = Gate(monkeypatch)
    async with running(sites) as senders:
        assert all(one.at_home for one in senders)
        home, _ = Counter(one.home for one in senders).most_common(1)[0]
        guests = [one for one in senders if one.home == home]
        server, other = sorted(sites.hub, key=lambda one: not one.url.endswith(home))[:2]
        collector = await nats.connect(other.url)
        server.kill()
        await eventually(
            lambda: all(gate.refused[one.host] for one in guests), "a look at the dead server"
        )
        assert not any(one.at_home for one in guests)
        await asyncio.to_thread(server.start)
        await joined(server, collector)
        heard: Counter[str] = Counter()
        probes: set[str] = set()

        async def keep(message: Msg) -> None:
            text = message.data.decode()
            if message.subject == PROBE:
                probes.add(text)
            else:
                heard[text] += 1

        await collector.subscribe("records.*", cb=keep)
        await settled(collector)
        for member in sites.hub:
            await heard_from(member, probes)
        for one in senders:
            one.homes_sec.clear()
        stopped = asyncio.Event()
        floods = [asyncio.create_task(one.publish_until(stopped)) for one in senders]
        gate.open = True
        await eventually(lambda: all(one.at_home for one in senders), "all hosts to be at home")
        stopped.set()
        await asyncio.gather(*floods)
        for one in senders:
            assert await one.connection.barrier()
            reply = await collector.request(f"ask.{one.host}", timeout=10)
            assert reply.data == b"here"
        sent = Counter(text for one in senders for text in one.sent)
        await eventually(lambda: heard.total() >= sent.total(), "the messages")
        assert (sent - heard, heard - sent) == (Counter(), Counter())
        assert all(len(one.homes_sec) == 1 for one in guests)
        assert not any(one.homes_sec for one in senders if one not in guests)
        await collector.close()


async def test_connection_moves_only_when_it_may(
    sites: Sites, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reply belongs to the connection of its request."""
    monkeypatch.setattr(preferred, "RETURN_SEC_MIN", 0.1)
    monkeypatch.setattr(preferred, "RETURN_SEC_MAX", 0.2)
    monkeypatch.setattr(preferred, "BUSY_SEC", 0.05)
    asked: list[bool] = []
    async with running(sites) as senders:
        one = senders[0]
        busy = True

        def may_move() -> bool:
            asked.append(busy)
            return not busy

        one.connection.may_move = may_move
        server = next(server for server in sites.hub if server.url.endswith(one.home))
        server.kill()
        await eventually(lambda: one.connection.connected and not one.at_home, "another server")
        await asyncio.to_thread(server.start)
        await eventually(lambda: len(asked) > 5, "questions")
        assert not one.at_home
        busy = False
        await eventually(lambda: one.at_home, "the return")


def test_time_of_return_is_spread_over_the_hosts() -> None:
    times = [preferred.return_sec(f"host{number}") for number in range(1000)]
    assert preferred.RETURN_SEC_MIN <= min(times) < 70
    assert 590 < max(times) <= preferred.RETURN_SEC_MAX
    minutes = Counter(int(one // 60) for one in times)
    assert max(minutes.values()) < 160
