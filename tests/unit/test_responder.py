"""The responder with an in-memory connection and stub handlers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

import pytest
import pytest_asyncio
from nats.aio.msg import Msg

from deadlines import TIMEOUT_SEC, eventually
from netsonde.bus.connection import Connection, PayloadTooLargeError, header_bytes
from netsonde.capture.sessions import Sessions
from netsonde.capture.standing import Standing
from netsonde.config.sections import FirmwareSection, PolicySection
from netsonde.core.filters import FilterChecks
from netsonde.errors import NoSession
from netsonde.firmware.verify import Firmware
from netsonde.recorder.retrieval import Retrievals
from netsonde.service import audit
from netsonde.service.audit import FAILURES_BURST, FAILURES_PER_SEC
from netsonde.service.discovery import Discovery
from netsonde.service.events import Events
from netsonde.service.handlers import HANDLERS, Call, Done, Features
from netsonde.service.identity import Identity
from netsonde.service.outbox import SMALL_REPLY_MAX, SMALL_UNSENT_MAX, UNSENT_MAX
from netsonde.service.policy import Policy
from netsonde.service.responder import COSTLY_MAX, Responder
from netsonde.service.taps import Taps
from netsonde.wire.replies import BusState, StatusReply, StopReply
from netsonde.wire.verbs import VERBS


@dataclass
class Sent:
    subject: str
    body: dict[str, Any]
    headers: dict[str, str]

    @property
    def code(self) -> int:
        return int(self.headers["Status-Code"])


class FakeConnection:
    def __init__(self) -> None:
        self.listeners: dict[str, Callable[[Msg], Awaitable[None]]] = {}
        self.sent: list[Sent] = []
        self.max_payload = 1 << 20
        self.unsent_bytes = 0
        self.open = asyncio.Event()  # cleared: a publish waits
        self.open.set()

    def listen(self, subject: str, listener: Callable[[Msg], Awaitable[None]]) -> None:
        self.listeners[subject] = listener

    async def publish(
        self, subject: str, payload: bytes, headers: dict[str, str] | None = None
    ) -> bool:
        if len(payload) + header_bytes(headers) > self.max_payload:
            raise PayloadTooLargeError("too large")
        await self.open.wait()
        self.sent.append(Sent(subject, json.loads(payload), dict(headers or {})))
        return True


class FakeSessions:
    current = None

    def __init__(self) -> None:
        self.filters = FilterChecks()


class FakeRetrievals:
    def close(self) -> None:
        pass


class FakeEvents:
    def __init__(self) -> None:
        self.audits: list[dict[str, Any]] = []

    def emit(self, kind: str, event: str, detail: str = "", **more: Any) -> None:
        assert kind == "audit"
        self.audits.append({"event": event, **more["data"]})


@dataclass
class Rig:
    responder: Responder
    connection: FakeConnection
    events: FakeEvents
    discovery: Discovery
    policy: Policy
    asked: int = field(default=0)

    async def ask(
        self,
        subject: str,
        body: Any = b"",
        headers: Mapping[str, str] | None = None,
        *,
        reply: bool = True,
    ) -> Any:
        """Sends the request to the subject's listener and returns the reply."""
        self.asked += 1
        inbox = f"inbox.{self.asked}" if reply else ""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        message = Msg(
            cast(Any, None), subject=subject, reply=inbox, data=data, headers=cast(Any, headers)
        )
        await self.listener(subject)(message)
        if not reply:
            return None
        return await eventually(
            lambda: next((s for s in self.connection.sent if s.subject == inbox), None), "reply"
        )

    def listener(self, subject: str) -> Callable[[Msg], Awaitable[None]]:
        for pattern, listener in self.connection.listeners.items():
            if pattern == subject or (pattern.endswith(".>") and subject.startswith(pattern[:-1])):
                return listener
        raise AssertionError(f"nobody listens on {subject}")


@pytest_asyncio.fixture
async def rig() -> AsyncIterator[Rig]:
    async with asyncio.TaskGroup() as tasks:
        connection, events = FakeConnection(), FakeEvents()
        discovery = Discovery(
            Identity(
                host="alpha",
                root="capture",
                version="0.1.0",
                fqdn="alpha",
                labels={"site": "ams"},
                versions={},
            )
        )
        policy = Policy(PolicySection())
        features = Features(
            cast(Sessions, FakeSessions()),
            cast(Standing, None),
            cast(Retrievals, FakeRetrievals()),
            Firmware(FirmwareSection()),
            cast(Taps, FakeTaps()),
            FakeBus(),
        )
        responder = Responder(
            cast(Connection, connection), features, cast(Events, events), discovery, policy, tasks
        )
        yield Rig(responder, connection, events, discovery, policy)


class FakeTaps:
    """No tap is open."""

    def close(self) -> None:
        pass

    def states(self) -> list[object]:
        return []


class FakeBus:
    authenticated = True

    def state(self) -> BusState:
        return BusState(connected=True, denied=[], denials=0)


@pytest.fixture
def handle(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, Any], None]:
    def replace(verb: str, handler: Any) -> None:
        monkeypatch.setitem(HANDLERS, verb, handler)

    return replace


async def no_session(call: Call, request: Any) -> Done:
    raise NoSession


async def nothing_runs(call: Call, request: Any) -> Done:
    return Done(StatusReply(), 204)


SUBJECTS = ["capture.status", "capture.host.alpha.status", "capture.group.site.ams.status"]


@pytest.mark.parametrize("subject", SUBJECTS)
async def test_request_on_each_subject_form_is_answered(
    rig: Rig, handle: Any, subject: str
) -> None:
    handle("status", nothing_runs)
    reply = await rig.ask(subject, headers={"Request-Id": "r1"})
    assert reply.code == 204
    assert reply.body["host"] == reply.headers["Host"] == "alpha"
    assert reply.headers["Content-Type"] == "application/json"
    assert reply.headers["Request-Id"] == "r1"
    assert "Nats-Service-Error" not in reply.headers


async def test_each_verb_has_its_own_subscription(rig: Rig) -> None:
    assert "capture.flow.meter.enable" in rig.connection.listeners
    assert "capture.>" not in rig.connection.listeners


@pytest.mark.parametrize("verb", ["bogus", "flow.meter", "status.x", "firmware.check"])
async def test_unknown_verb_is_rejected(rig: Rig, verb: str) -> None:
    reply = await rig.ask(f"capture.host.alpha.{verb}")
    assert reply.code == reply.body["code"] == 404
    assert reply.body["error"] == "unknown_verb"
    assert reply.headers["Nats-Service-Error-Code"] == "404"


async def test_error_is_in_body_and_headers(rig: Rig, handle: Any) -> None:
    handle("stop", no_session)
    reply = await rig.ask("capture.stop", {"reason": "x"})
    assert reply.body["error"] == "no_session"
    assert reply.headers["Nats-Service-Error"].startswith("no_session: ")
    assert rig.discovery.endpoints["stop"].last_error == "400:no_session"


async def test_fault_reply_has_an_incident_without_the_exception_text(
    rig: Rig, handle: Any
) -> None:
    async def fault(call: Call, request: Any) -> Done:
        raise ValueError("a secret in an exception")

    handle("status", fault)
    reply = await rig.ask("capture.status")
    assert reply.code == 500
    assert reply.body["error"] == "internal"
    assert "secret" not in json.dumps([reply.body, reply.headers])
    assert "incident" in reply.body["detail"]


async def test_retry_gets_the_first_reply(rig: Rig, handle: Any) -> None:
    stops = 0

    async def stop(call: Call, request: Any) -> Done:
        nonlocal stops
        stops += 1
        raise NoSession

    handle("stop", stop)
    first = await rig.ask("capture.stop", {}, {"Request-Id": "r"})
    again = await rig.ask("capture.host.alpha.stop", {}, {"Request-Id": "r"})
    assert stops == 1
    assert again.body == first.body
    assert again.headers == first.headers | {"Replayed": "true"}
    other = await rig.ask("capture.stop", {"reason": "x"}, {"Request-Id": "r"})
    assert (other.code, other.body["error"]) == (409, "request_id_reused")
    elsewhere = await rig.ask("capture.status", {}, {"Request-Id": "r"})
    assert elsewhere.code == 409


@pytest.mark.parametrize("body", [b"{", {"x": 1}])
async def test_retry_of_a_rejected_request_gets_the_first_reply(
    rig: Rig, handle: Any, body: Any
) -> None:
    handle("stop", no_session)
    first = await rig.ask("capture.stop", body, {"Request-Id": "r"})
    assert first.code in (400, 422)
    again = await rig.ask("capture.stop", body, {"Request-Id": "r"})
    assert again.body == first.body
    assert again.headers == first.headers | {"Replayed": "true"}
    mended = await rig.ask("capture.stop", {}, {"Request-Id": "r"})
    assert (mended.code, mended.body["error"]) == (409, "request_id_reused")


async def test_empty_body_and_empty_object_are_the_same_request(rig: Rig, handle: Any) -> None:
    handle("stop", no_session)
    await rig.ask("capture.stop", b"", {"Request-Id": "r"})
    again = await rig.ask("capture.stop", b"{}", {"Request-Id": "r"})
    assert (again.code, again.headers.get("Replayed")) == (400, "true")


async def test_expired_request_may_be_sent_again(rig: Rig, handle: Any) -> None:
    handle("stop", no_session)
    late = {"Request-Id": "r", "Expires-At": "2020-01-01T00:00:00Z"}
    assert (await rig.ask("capture.stop", {}, late)).body["error"] == "expired"
    again = await rig.ask("capture.stop", {}, {"Request-Id": "r"})
    assert (again.body["error"], "Replayed" in again.headers) == ("no_session", False)
    assert (await rig.ask("capture.stop", {}, late)).body["error"] == "expired"


async def test_retry_while_the_first_runs_waits_for_it(rig: Rig, handle: Any) -> None:
    go, stops = asyncio.Event(), 0

    async def stop(call: Call, request: Any) -> Done:
        nonlocal stops
        stops += 1
        await go.wait()
        raise NoSession

    handle("stop", stop)
    both = [asyncio.create_task(rig.ask("capture.stop", {}, {"Request-Id": "r"})) for _ in range(2)]
    await eventually(lambda: rig.asked == 2 and stops, "the first to run, and the second to come")
    go.set()
    replies = await asyncio.gather(*both)
    assert stops == 1
    assert sorted(reply.headers.get("Replayed", "") for reply in replies) == ["", "true"]


async def test_expired_request_is_rejected(rig: Rig) -> None:
    reply = await rig.ask("capture.stop", {}, {"Expires-At": "2020-01-01T00:00:00Z"})
    assert (reply.code, reply.body["error"]) == (400, "expired")


async def test_error_422_wins_over_400_wins_over_503(rig: Rig, handle: Any) -> None:
    handle("stop", no_session)
    await rig.responder.drain(0.1)
    expired = {"Expires-At": "2020-01-01T00:00:00Z"}
    assert (await rig.ask("capture.stop", {"x": 1}, expired)).code == 422
    assert (await rig.ask("capture.stop", {}, expired)).code == 400
    draining = await rig.ask("capture.stop", {})
    assert (draining.code, draining.body["error"]) == (503, "draining")


async def test_request_rejected_while_draining_may_be_retried(rig: Rig, handle: Any) -> None:
    handle("stop", no_session)
    rig.responder.draining = True
    assert (await rig.ask("capture.stop", {}, {"Request-Id": "r"})).code == 503
    rig.responder.draining = False
    reply = await rig.ask("capture.stop", {}, {"Request-Id": "r"})
    assert reply.code == 400
    assert "Replayed" not in reply.headers


async def test_concurrent_costly_requests_are_limited(rig: Rig, handle: Any) -> None:
    go, at_work = asyncio.Event(), 0

    async def slow(call: Call, request: Any) -> Done:
        nonlocal at_work
        at_work += 1
        await go.wait()
        raise NoSession

    handle("flows", slow)
    handle("status", nothing_runs)
    running = [asyncio.create_task(rig.ask("capture.flows")) for _ in range(COSTLY_MAX)]
    await eventually(lambda: at_work == COSTLY_MAX, "as many as may be at once")
    turned_away = await rig.ask("capture.flows")
    assert (turned_away.code, turned_away.body["error"]) == (429, "too_many_requests")
    assert (await rig.ask("capture.status")).code == 204, "a costly request blocked a status"
    go.set()
    assert {reply.code for reply in await asyncio.gather(*running)} == {400}
    assert (await rig.ask("capture.flows")).code == 400


async def test_request_holds_its_slot_until_its_reply_has_left(rig: Rig, handle: Any) -> None:
    handle("flows", no_session)
    rig.connection.open.clear()
    waiting = [asyncio.create_task(rig.ask("capture.flows")) for _ in range(COSTLY_MAX + 5)]
    await eventually(lambda: rig.asked == COSTLY_MAX + 5, "all requests")
    rig.connection.open.set()
    codes = [reply.code for reply in await asyncio.gather(*waiting)]
    assert sorted(codes) == [400] * COSTLY_MAX + [429] * 5


@pytest.mark.parametrize("verb", sorted(VERBS))
async def test_full_outbox_rejects_every_verb(rig: Rig, verb: str) -> None:
    rig.connection.unsent_bytes = UNSENT_MAX
    if verb in ("status", "schema", "stop", "metrics", "backends", "flows"):  # {} is valid
        reply = await rig.ask(f"capture.{verb}")
        assert (reply.code, reply.body["error"]) == (429, "too_many_requests")
    rig.connection.unsent_bytes = SMALL_UNSENT_MAX
    sent = len(rig.connection.sent)
    await rig.listener(f"capture.{verb}")(
        Msg(cast(Any, None), subject=f"capture.{verb}", reply="inbox.x", data=b"{}")
    )
    rig.connection.unsent_bytes = 0
    assert len(rig.connection.sent) == sent
    assert rig.responder.outbox.dropped == 1


async def test_large_reply_waits_for_room(rig: Rig, handle: Any) -> None:
    async def long(call: Call, request: Any) -> Done:
        rig.connection.unsent_bytes = UNSENT_MAX
        return Done(StatusReply(interface="x" * SMALL_REPLY_MAX))

    handle("status", long)
    asking = asyncio.create_task(rig.ask("capture.status"))
    await eventually(lambda: rig.connection.unsent_bytes, "the handler")
    await asyncio.sleep(0.05)
    assert not rig.connection.sent
    rig.connection.unsent_bytes = 0
    assert (await asking).code == 200


async def test_schema_is_encoded_once(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    first = await rig.ask("capture.schema")
    monkeypatch.setattr("netsonde.wire.envelope.encode", None)
    assert (await rig.ask("capture.schema")).body == first.body


async def test_audits_of_failures_are_limited(
    rig: Rig, handle: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = SimpleNamespace(monotonic=lambda: 1000.0)
    monkeypatch.setattr(audit, "time", clock)  # no further failure is allowed as time passes

    async def stopped(call: Call, request: Any) -> Done:
        return Done(cast(StopReply, StatusReply()))

    handle("stop", no_session)
    for _ in range(2 * int(FAILURES_BURST)):
        await rig.ask("capture.stop")
    assert len(rig.events.audits) == FAILURES_BURST
    clock.monotonic = lambda: 1001.0
    for _ in range(2 * int(FAILURES_PER_SEC)):
        await rig.ask("capture.stop")
    assert len(rig.events.audits) == FAILURES_BURST + FAILURES_PER_SEC
    handle("stop", stopped)
    await rig.ask("capture.stop")
    assert rig.events.audits[-1]["code"] == 200, "a success was not audited"


async def test_without_a_reply_subject_only_changes_run(rig: Rig, handle: Any) -> None:
    done: list[str] = []

    async def stop(call: Call, request: Any) -> Done:
        done.append("stop")
        raise NoSession

    async def status(call: Call, request: Any) -> Done:
        done.append("status")
        return Done(StatusReply())

    handle("stop", stop)
    handle("status", status)
    await rig.ask("capture.status", reply=False)
    await rig.ask("capture.stop", reply=False)
    await eventually(lambda: rig.events.audits, "the audit")
    assert done == ["stop"]
    assert rig.connection.sent == []


@pytest.mark.parametrize("subject", ["capture.status", "$SRV.PING", "$SRV.STATS.netsonde.alpha"])
async def test_reply_goes_to_no_subject_that_the_bus_interprets(
    rig: Rig, handle: Any, subject: str
) -> None:
    handle("status", nothing_runs)
    for reply in ("capture.stream.events.alpha.alarm", "capture.stop", "$JS.API.STREAM.LIST"):
        message = Msg(cast(Any, None), subject=subject, reply=reply, data=b"")
        await rig.listener(subject)(message)
    await rig.ask(subject)
    assert [sent.subject for sent in rig.connection.sent] == ["inbox.1"]


async def test_changes_are_audited(rig: Rig, handle: Any) -> None:
    handle("stop", no_session)
    handle("status", nothing_runs)
    await rig.ask("capture.status")
    await rig.ask("capture.stop", {"reason": "x"}, {"Request-Id": "r"})
    await rig.ask("capture.stop", {"reason": 5})
    denied, refused = rig.events.audits
    assert denied["event"] == "stop"
    assert denied["subject"] == "capture.stop"
    assert denied["reply_to"].startswith("inbox.")
    assert denied["request_id"] == "r"
    assert (denied["code"], denied["error"]) == (400, "no_session")
    assert json.loads(denied["request"]) == {"reason": "x"}
    assert refused["code"] == 422


async def test_oversized_reply_becomes_an_error(rig: Rig, handle: Any) -> None:
    async def long(call: Call, request: Any) -> Done:
        return Done(StatusReply(interface="x" * 5000))

    handle("status", long)
    rig.connection.max_payload = 4096
    reply = await rig.ask("capture.status")
    assert (reply.code, reply.body["error"]) == (400, "reply_too_large")


async def test_concurrent_requests_are_limited(rig: Rig, handle: Any) -> None:
    go, at_work = asyncio.Event(), 0

    async def slow(call: Call, request: Any) -> Done:
        nonlocal at_work
        at_work += 1
        await go.wait()
        return Done(StatusReply())

    handle("status", slow)
    running = [asyncio.create_task(rig.ask("capture.status")) for _ in range(256)]
    await eventually(lambda: at_work == 256, "as many as may run at once")
    assert (await rig.ask("capture.status")).code == 429
    go.set()
    assert {reply.code for reply in await asyncio.gather(*running)} == {200}
    assert (await rig.ask("capture.status")).code == 200


@pytest.mark.parametrize(("size", "kept"), [(4096, True), (4097, False)])
async def test_small_bodies_are_audited(rig: Rig, handle: Any, size: int, kept: bool) -> None:
    handle("stop", no_session)
    body = b'{"reason": "x"}'.ljust(size)
    await rig.ask("capture.stop", body)
    assert ("request" in rig.events.audits[-1]) is kept


async def test_handlers_know_the_largest_reply(rig: Rig, handle: Any) -> None:
    """4096 bytes are kept for headers and the fields around a large array."""
    asked: list[int] = []

    async def ask(call: Call, request: Any) -> Done:
        asked.append(call.reply_bytes_max)
        return Done(StatusReply())

    handle("status", ask)
    for limit in (1 << 20, 8 << 20):
        rig.connection.max_payload = limit
        assert (await rig.ask("capture.status")).code == 200
    assert asked == [(1 << 20) - 4096, (8 << 20) - 4096]


async def test_discovery_is_answered(rig: Rig) -> None:
    info = await rig.ask("$SRV.INFO.netsonde.alpha")
    assert info.body["type"] == "io.nats.micro.v1.info_response"
    assert (await rig.ask("$SRV.PING")).body["id"] == "alpha"


async def test_drain_waits_for_requests_in_flight(rig: Rig, handle: Any) -> None:
    begun = asyncio.Event()

    async def slow(call: Call, request: Any) -> Done:
        begun.set()
        await asyncio.sleep(0.2)
        return Done(cast(StopReply, StatusReply()))

    handle("stop", slow)
    asking = asyncio.create_task(rig.ask("capture.stop"))
    await eventually(begun.is_set, "the request to be in flight")
    await rig.responder.drain(TIMEOUT_SEC)
    assert any(sent.subject == "inbox.1" for sent in rig.connection.sent)
    assert (await asking).code == 200


def test_every_verb_has_a_handler() -> None:
    assert set(HANDLERS) == set(VERBS)
