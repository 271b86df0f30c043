"""The verbs' handlers: what a request becomes, and the code of a reply."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
from msgspec import UNSET

from netsonde.capture import checks
from netsonde.core.capture import JSON, MSGPACK
from netsonde.core.values import BackendReport, FlowMatch, FlowPage, FlowQuery
from netsonde.errors import BackendUnavailable, InvalidRequest
from netsonde.service import handlers
from netsonde.service.handlers import HANDLERS, Call, flow_query
from netsonde.wire.replies import StatusReply
from netsonde.wire.requests import BackendsRequest, FlowsFilter, FlowsRequest, StatusRequest


def call(sessions: Any = None, *, binary: bool = False) -> Call:
    bus = SimpleNamespace(state=lambda: UNSET, authenticated=True)
    features = SimpleNamespace(
        sessions=sessions,
        standing=sessions,
        retrievals=None,
        firmware=None,
        bus=bus,
        taps=SimpleNamespace(states=list),
    )
    return Call(
        features=cast(Any, features),
        expires_at=None,
        root="capture",
        hidden=frozenset(),
        owner={},
        deletes_all=True,
        binary=binary,
        reply_bytes_max=1000,
    )


@pytest.mark.parametrize(
    ("wanted", "ip", "port", "protocol"),
    [
        (None, None, None, None),
        (FlowsFilter(ip="10.0.0.1"), bytes([10, 0, 0, 1]), None, None),
        (FlowsFilter(ip="2001:db8::1"), bytes.fromhex("20010db8" + "0" * 23 + "1"), None, None),
        (FlowsFilter(port=0), None, 0, None),
        (FlowsFilter(port=65535), None, 65535, None),
        (FlowsFilter(protocol="udp"), None, None, 17),
        (FlowsFilter(protocol="TCP"), None, None, 6),
        (FlowsFilter(protocol=0), None, None, 0),
        (FlowsFilter(protocol=255), None, None, 255),
    ],
)
def test_flow_filters_become_a_query(
    wanted: FlowsFilter | None, ip: bytes | None, port: int | None, protocol: int | None
) -> None:
    request = FlowsRequest(limit=7, min_packets=3, sort="recent", filter=wanted)
    match = FlowMatch(ip=ip, port=port, protocol=protocol)
    expected = FlowQuery(limit=7, sort="recent", min_packets=3, match=match)
    assert flow_query(request) == expected


@pytest.mark.parametrize(
    ("wanted", "field"),
    [
        (FlowsFilter(ip="10.0.0"), "$.filter.ip"),
        (FlowsFilter(protocol="no-such"), "$.filter.protocol"),
    ],
)
def test_malformed_filter_names_its_field(wanted: FlowsFilter, field: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        flow_query(FlowsRequest(filter=wanted))
    assert refused.value.field == field


@pytest.mark.parametrize(("running", "code"), [(True, 200), (False, 204)])
async def test_status_without_a_session_is_204(running: bool, code: int) -> None:
    sessions = SimpleNamespace(status=lambda: StatusReply(running=running))
    assert (await handlers.status(call(sessions), StatusRequest())).code == code


async def test_backends_are_available_or_unavailable_with_a_reason() -> None:
    reply = cast(Any, (await HANDLERS["backends"](call(), BackendsRequest())).body)
    names = [one.name for one in (*reply.available, *reply.unavailable)]
    assert sorted(names) == ["af_packet", "dpdk", "file", "pcap", "pf_ring", "xdp"]
    assert "file" in [one.name for one in reply.available]
    assert all(one.reason for one in reply.unavailable)
    assert all("flow_tracking" in one.supported_features for one in reply.available)


class Listing:
    """A session's capture with three matching flows, of which `rendered` fit the reply."""

    def __init__(self, rendered: int) -> None:
        self.rendered = rendered
        self.asked: dict[str, Any] = {}

    async def flows(self, query: FlowQuery, after: str | None, **more: Any) -> FlowPage:
        self.asked = more | {"after": after}
        missing = self.rendered < 3
        return FlowPage(b"[]", active=9, truncated=missing, following="next" if missing else "")


@pytest.mark.parametrize(("rendered", "truncated"), [(2, True), (3, False)])
@pytest.mark.parametrize("binary", [False, True])
async def test_flows_say_whether_some_are_missing(
    rendered: int, truncated: bool, binary: bool
) -> None:
    listing = Listing(rendered)
    sessions = SimpleNamespace(require=lambda: SimpleNamespace(capture=listing))
    done = await handlers.flows(call(sessions, binary=binary), FlowsRequest(after="x"))
    reply = cast(Any, done.body)
    assert reply.next == ("next" if truncated else UNSET)
    assert (done.code, reply.active_flows, reply.truncated) == (200, 9, truncated)
    encoding = MSGPACK if binary else JSON
    assert listing.asked == {"encoding": encoding, "bytes_max": 1000, "after": "x"}


async def test_unusable_backend_is_named_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    report = BackendReport(name="xdp", description="", features=(), usable=False, reason="no BTF")

    async def find(name: str) -> BackendReport | None:
        return report if name == "xdp" else None

    monkeypatch.setattr(checks, "backend", find)
    with pytest.raises(BackendUnavailable, match="xdp: no BTF"):
        await checks.require_backend("xdp")
    with pytest.raises(BackendUnavailable, match="dpdk: not part of this build"):
        await checks.require_backend("dpdk")
