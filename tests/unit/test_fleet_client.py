"""The fleet client against a real nats-server and small responders: expected hosts, the end of
a request, and requests when NATS or a host is unreachable."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import nats
import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg

from bus import settled
from deadlines import TIMEOUT_SEC, eventually
from netsonde.config.sections import NatsSection
from netsonde.errors import UnreachableError
from netsonde.fleet import client as client_module
from netsonde.fleet.client import FleetClient, Pace, connect, explain
from netsonde.fleet.scatter import NOT_CONNECTED
from netsonde.fleet.search import QUIET_SEC_MIN, belongs, read_labels
from netsonde.fleet.targeting import Limit, Target, TargetError
from servers import NatsServer, free_port

SOON_SEC = TIMEOUT_SEC / 2  # for requests that must end before their timeout


class Responder:
    """Answers like an agent. A `silent` one answers discovery but no request."""

    def __init__(self, client: Client, host: str, *, code: int = 200, silent: bool = False) -> None:
        self.client = client
        self.host = host
        self.code = code
        self.silent = silent
        self.requests: list[Msg] = []

    async def start(self, group: str | None = None) -> Responder:
        subjects = ["capture.status", f"capture.host.{self.host}.status"]
        if group:
            subjects.append(f"capture.group.{group}.status")
        for subject in subjects:
            await self.client.subscribe(subject, cb=self.answer)
        for subject in ("$SRV.PING.netsonde", f"$SRV.PING.netsonde.{self.host}"):
            await self.client.subscribe(subject, cb=partial(self.introduce, group))
        await settled(self.client)
        return self

    async def introduce(self, group: str | None, message: Msg) -> None:
        labels = {f"label.{group.split('.')[0]}": group.split(".")[1]} if group else {}
        body = {"name": "netsonde", "id": self.host, "version": "1", "metadata": labels}
        await message.respond(json.dumps(body).encode())

    async def answer(self, message: Msg) -> None:
        self.requests.append(message)
        if self.silent:
            return
        body: dict[str, Any] = {"host": self.host, "running": False}
        if self.code >= 400:
            body = {"host": self.host, "code": self.code, "error": "no_session", "detail": "None."}
        await self.client.publish(
            message.reply,
            json.dumps(body).encode(),
            headers={"Status-Code": str(self.code), "Host": self.host},
        )


@pytest.fixture
async def agents_client(nats_server: NatsServer) -> AsyncIterator[Client]:
    client = await nats.connect(nats_server.url)
    yield client
    await client.close()


@asynccontextmanager
async def fleet_at(server: NatsServer) -> AsyncIterator[FleetClient]:
    async with connect(NatsSection(servers=[server.url])) as client:
        yield client


async def test_request_to_all_ends_when_each_discovered_host_answered(
    nats_server: NatsServer, agents_client: Client
) -> None:
    for host in ("web2", "web1", "db1"):
        await Responder(agents_client, host).start()
    async with fleet_at(nats_server) as fleet:
        began = time.monotonic()
        outcome = await fleet.ask("status", {}, Target(), Pace(timeout_sec=TIMEOUT_SEC))
        assert time.monotonic() - began < SOON_SEC
    assert [reply.host for reply in outcome.replies] == ["db1", "web1", "web2"]
    assert outcome.complete


class LateAgent:
    """An agent with its own thread. It answers discovery while `stall` blocks the test's."""

    def __init__(self, url: str) -> None:
        self._url = url
        self.asked = threading.Event()
        self._listens, self._stalled, self._answered = (threading.Event() for _ in range(3))
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))

    async def _run(self) -> None:
        client = await nats.connect(self._url)
        responder = Responder(client, "web1", silent=True)
        called = asyncio.Queue[Msg]()
        await client.subscribe("$SRV.PING.netsonde", cb=called.put)
        await settled(client)
        self._listens.set()
        call = await called.get()
        self.asked.set()
        await asyncio.to_thread(self._stalled.wait)
        await responder.introduce(None, call)
        await client.close()
        self._answered.set()

    def start(self) -> LateAgent:
        self._thread.start()
        self._listens.wait()
        return self

    def stall(self) -> None:
        """Returns when a search would have ended, and the answer has arrived."""
        self._stalled.set()
        self._answered.wait()
        time.sleep(QUIET_SEC_MIN + 0.1)
        self._thread.join()


async def test_client_that_stalls_reads_what_has_arrived(nats_server: NatsServer) -> None:
    agent = LateAgent(nats_server.url).start()
    async with fleet_at(nats_server) as fleet:
        request = asyncio.create_task(fleet.ask("status", {}, Target(), Pace(timeout_sec=3)))
        await eventually(agent.asked.is_set, "the search to begin")
        agent.stall()
        outcome = await request
    assert [(one.host, one.reason) for one in outcome.absences] == [("web1", NOT_CONNECTED)]


async def test_silent_host_is_named(nats_server: NatsServer, agents_client: Client) -> None:
    await Responder(agents_client, "web1").start()
    await Responder(agents_client, "mute", silent=True).start()
    async with fleet_at(nats_server) as fleet:
        outcome = await fleet.ask("status", {}, Target(), Pace(timeout_sec=1))
    assert [reply.host for reply in outcome.replies] == ["web1"]
    assert [(a.host, a.reason) for a in outcome.absences] == [("mute", "no answer")]
    assert not outcome.complete


async def test_named_hosts_only_are_asked_and_absent_ones_reported_at_once(
    nats_server: NatsServer, agents_client: Client
) -> None:
    web1 = await Responder(agents_client, "web1").start()
    web2 = await Responder(agents_client, "web2").start()
    async with fleet_at(nats_server) as fleet:
        began = time.monotonic()
        target = Target(hosts=("web1", "gone"))
        outcome = await fleet.ask("status", {}, target, Pace(timeout_sec=TIMEOUT_SEC))
        assert time.monotonic() - began < SOON_SEC
    assert [reply.host for reply in outcome.replies] == ["web1"]
    assert [absence.host for absence in outcome.absences] == ["gone"]
    assert len(web1.requests) == 1
    assert web2.requests == []


async def test_no_hosts_is_an_immediate_failure(nats_server: NatsServer) -> None:
    async with fleet_at(nats_server) as fleet:
        for target in (Target(), Target(groups=(("site", "ams"),))):
            began = time.monotonic()
            outcome = await fleet.ask("status", {}, target, Pace(timeout_sec=TIMEOUT_SEC))
            assert time.monotonic() - began < SOON_SEC
            assert not outcome.replies
            assert not outcome.complete


async def test_group_reaches_its_members_only(
    nats_server: NatsServer, agents_client: Client
) -> None:
    await Responder(agents_client, "web1").start("site.ams")
    web2 = await Responder(agents_client, "web2").start("site.lon")
    async with fleet_at(nats_server) as fleet:
        began = time.monotonic()
        target = Target(groups=(("site", "ams"),))
        outcome = await fleet.ask("status", {}, target, Pace(timeout_sec=TIMEOUT_SEC))
        assert time.monotonic() - began < SOON_SEC
    assert [reply.host for reply in outcome.replies] == ["web1"]
    assert web2.requests == []


def test_read_labels_returns_only_the_labels() -> None:
    metadata = {"subject.root": "capture", "version.agent": "1", "site": "ams", "label.rack": "r1"}
    assert read_labels(metadata) == {"rack": "r1", "site": "ams"}


def test_agents_of_another_root_are_ignored() -> None:
    body = {"metadata": {"subject.root": "acme.capture", "site": "ams"}}
    assert belongs(body, "acme.capture")
    assert not belongs(body, "capture")
    assert belongs({"metadata": None}, "capture")
    assert read_labels(["site"]) == {}


async def test_error_reply_is_not_a_success(nats_server: NatsServer, agents_client: Client) -> None:
    await Responder(agents_client, "web1", code=400).start()
    async with fleet_at(nats_server) as fleet:
        outcome = await fleet.ask("status", {}, Target(), Pace())
    assert [(reply.code, reply.body["error"]) for reply in outcome.replies] == [(400, "no_session")]
    assert not outcome.complete


async def test_each_request_has_its_own_id(nats_server: NatsServer, agents_client: Client) -> None:
    web1 = await Responder(agents_client, "web1").start()
    async with fleet_at(nats_server) as fleet:
        await fleet.ask("status", {}, Target(hosts=("web1",)), Pace())
        await fleet.ask("status", {}, Target(hosts=("web1",)), Pace())
        await fleet.ask("status", {}, Target(hosts=("web1",)), Pace(), request_id="again")
    ids = [(message.headers or {})["Request-Id"] for message in web1.requests]
    assert len(set(ids)) == 3
    assert ids[2] == "again"


async def test_limit_takes_the_first_hosts_by_name(
    nats_server: NatsServer, agents_client: Client
) -> None:
    fleet_hosts = [await Responder(agents_client, host).start() for host in ("c", "a", "b")]
    async with fleet_at(nats_server) as fleet:
        outcome = await fleet.ask("status", {}, Target(), Pace(limit=Limit(2)))
    assert [reply.host for reply in outcome.replies] == ["a", "b"]
    assert [len(responder.requests) for responder in fleet_hosts] == [0, 1, 1]


async def test_batches_stop_after_too_many_failures(
    nats_server: NatsServer, agents_client: Client
) -> None:
    responders = {
        host: await Responder(agents_client, host, code=code).start()
        for host, code in (("a", 400), ("b", 200), ("c", 400), ("d", 200), ("e", 200))
    }
    async with fleet_at(nats_server) as fleet:
        pace = Pace(batch=1, failures_max=1)
        outcome = await fleet.ask("status", {}, Target(), pace)
    assert [reply.host for reply in outcome.replies] == ["a", "b", "c"]
    assert [(a.host, a.reason) for a in outcome.absences] == [
        ("d", "not asked"),
        ("e", "not asked"),
    ]
    assert responders["d"].requests == []


async def test_duplicate_host_names_are_reported(
    nats_server: NatsServer, agents_client: Client
) -> None:
    await Responder(agents_client, "twin").start()
    await Responder(agents_client, "twin").start()
    await Responder(agents_client, "web1").start()
    async with fleet_at(nats_server) as fleet:
        outcome = await fleet.ask("status", {}, Target(), Pace())
    assert [reply.host for reply in outcome.replies] == ["twin", "web1"]
    twin, web1 = outcome.replies
    assert (twin.code, twin.body["error"], len(twin.body["replies"])) == (409, "name_taken", 2)
    assert web1.accepted
    assert not outcome.complete


async def test_malformed_discovery_reply_is_a_failure(
    nats_server: NatsServer, agents_client: Client
) -> None:
    await Responder(agents_client, "web1").start()

    async def introduce(message: Msg) -> None:
        for body in (b"[]", b'{"a":' + b"[" * 100_000, b'{"id":"a b"}', b'{"id":7}'):
            await message.respond(body)

    await agents_client.subscribe("$SRV.PING.netsonde", cb=introduce)
    await settled(agents_client)
    async with fleet_at(nats_server) as fleet:
        began = time.monotonic()
        outcome = await fleet.ask("status", {}, Target(), Pace(timeout_sec=TIMEOUT_SEC))
        assert time.monotonic() - began < SOON_SEC
    unknown, web1 = outcome.replies
    assert (web1.host, web1.accepted) == ("web1", True)
    assert (unknown.host, unknown.body["error"]) == ("?", "unreadable")
    assert unknown.body["detail"].startswith("discovery: ")
    assert not outcome.absences
    assert not outcome.complete


async def test_without_discovery_the_hosts_that_reply_to_status_are_asked(
    nats_server: NatsServer, agents_client: Client
) -> None:
    """For example because $SRV is not exported to this account."""
    web1 = await Responder(agents_client, "web1").start()
    await agents_client.subscribe("capture.stop", cb=web1.answer)
    await agents_client.subscribe("capture.host.web1.stop", cb=web1.answer)
    for subscription in list(agents_client._subs.values()):
        if subscription.subject.startswith("$SRV"):
            await subscription.unsubscribe()
    await settled(agents_client)
    async with fleet_at(nats_server) as fleet:
        for pace in (Pace(timeout_sec=TIMEOUT_SEC), Pace(timeout_sec=TIMEOUT_SEC, batch=1)):
            began = time.monotonic()
            outcome = await fleet.ask("stop", {}, Target(), pace)
            assert time.monotonic() - began < SOON_SEC
            assert [reply.host for reply in outcome.replies] == ["web1"]
            assert outcome.complete


async def test_pace_needs_hosts_that_can_be_found(
    nats_server: NatsServer, agents_client: Client
) -> None:
    async def say_nothing(message: Msg) -> None:
        del message

    await agents_client.subscribe("$SRV.PING.netsonde", cb=say_nothing)
    await settled(agents_client)
    async with fleet_at(nats_server) as fleet:
        with pytest.raises(TargetError, match="Name the hosts"):
            await fleet.ask("status", {}, Target(), Pace(timeout_sec=0.5, batch=1))


@pytest.mark.parametrize("scheme", ["nats", "tls"])
async def test_unreachable_server_fails_soon_with_one_sentence(scheme: str) -> None:
    address = NatsSection(servers=[f"{scheme}://user:secret@127.0.0.1:{free_port()}"])
    began = time.monotonic()
    for lasting in (False, True):
        with pytest.raises(UnreachableError) as caught:
            async with connect(address, lasting=lasting):
                pass
        assert "connection refused" in caught.value.detail
        assert "secret" not in caught.value.detail
    assert time.monotonic() - began < SOON_SEC


async def test_tls_is_required_even_if_the_server_lacks_it(nats_server: NatsServer) -> None:
    address = NatsSection(servers=[nats_server.url.replace("nats://", "tls://")])
    with pytest.raises(UnreachableError, match="TLS"):
        async with connect(address):
            pass


async def test_frozen_server_does_not_block_the_client(nats_server: NatsServer) -> None:
    nats_server.freeze()
    try:
        began = time.monotonic()
        with pytest.raises(UnreachableError):
            async with connect(NatsSection(servers=[nats_server.url])):
                pass
        assert time.monotonic() - began < SOON_SEC
    finally:
        nats_server.thaw()


async def test_server_death_ends_the_request(
    nats_server: NatsServer, agents_client: Client
) -> None:
    mute = await Responder(agents_client, "mute", silent=True).start()
    async with fleet_at(nats_server) as fleet:
        target = Target(hosts=("mute",))
        request = asyncio.create_task(
            fleet.ask("status", {}, target, Pace(timeout_sec=TIMEOUT_SEC))
        )
        await eventually(lambda: mute.requests, "the request to be under way")
        nats_server.kill()
        began = time.monotonic()
        with pytest.raises(UnreachableError):
            await request
        assert time.monotonic() - began < SOON_SEC


async def test_follow_ends_when_it_is_cancelled_while_the_flush_completes(
    monkeypatch: pytest.MonkeyPatch, nats_server: NatsServer
) -> None:
    """nats-py's flush then returns as if it had not been cancelled."""
    async with fleet_at(nats_server) as fleet:
        flushed = asyncio.Event()
        flush = fleet.connection.flush

        async def swallow_cancellation() -> None:
            await flush()
            flushed.set()
            try:
                await asyncio.sleep(TIMEOUT_SEC)
            except asyncio.CancelledError:
                return

        monkeypatch.setattr(fleet.connection, "flush", swallow_cancellation)

        async def follow() -> None:
            async for _ in fleet.follow("flows", None):
                pass

        follower = asyncio.create_task(follow())
        await flushed.wait()
        follower.cancel()
        done, _ = await asyncio.wait([follower], timeout=SOON_SEC)
        assert done
        assert follower.cancelled()


async def test_follow_yields_the_stream_of_the_named_hosts(
    nats_server: NatsServer, agents_client: Client
) -> None:
    async with fleet_at(nats_server) as fleet:
        stream = fleet.follow("flows", ["web1", "web2"])
        first = asyncio.ensure_future(anext(stream))
        await eventually(
            lambda: len(fleet.connection._subs) == 4, "each host with and without a shard"
        )
        await settled(fleet.connection)
        await agents_client.publish("capture.stream.flows.other", b"0")
        await agents_client.publish("capture.stream.flows.web2", b"1")
        await agents_client.publish("capture.stream.flows.web1.3", b"2")
        await agents_client.publish("capture.stream.flows.other.3", b"0")
        assert (await first).data == b"1"
        assert (await anext(stream)).data == b"2"
        await stream.aclose()


async def test_lasting_connection_leaves_a_frozen_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "PING_INTERVAL_SEC", 0.2)
    servers = [NatsServer(tmp_path / name).start() for name in ("one", "two")]
    try:
        address = NatsSection(servers=[server.url for server in servers])
        async with connect(address, lasting=True) as client:
            url = client.connection.connected_url
            (frozen,) = [server for server in servers if url and server.port == url.port]
            frozen.freeze()
            (other,) = [server for server in servers if server is not frozen]

            def moved() -> bool:
                found = client.connection.connected_url
                return client.connection.is_connected and bool(found and found.port == other.port)

            await eventually(moved, "the connection to the other server")
    finally:
        for server in servers:
            server.kill()


def test_unknown_host_name_error_quotes_the_resolver() -> None:
    error = socket.gaierror(socket.EAI_NONAME, "Name or service not known")
    words = explain(NatsSection(servers=["nats://nats.invalid"]), error)
    assert words == "NATS cannot be reached at nats://nats.invalid:4222: name or service not known."
