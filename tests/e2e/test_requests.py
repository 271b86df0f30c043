"""Unusual requests: bodies, encodings, ids, deadlines and floods."""

from __future__ import annotations

import asyncio
import datetime
import json
from pathlib import Path

import msgspec
import pytest

from agents import Agent
from bus import MSGPACK, Bus
from packets import UDP, at, ethernet, ipv4, udp, write_pcap

MEGABYTE = 1_000_000


@pytest.fixture
def start_body(tmp_path: Path) -> dict[str, str]:
    frame = ethernet(ipv4(udp(b"payload", 1000, 53), UDP, "10.0.0.1", "10.0.0.2"))
    path = write_pcap(tmp_path / "one.pcap", [at(1_767_225_600_000_000_000, frame)])
    return {"interface": str(path), "backend": "file"}


# ---- bodies -------------------------------------------------------------------------------


async def test_undecodable_body_is_400(alpha: Agent, bus: Bus) -> None:
    for body in (
        b"{",
        b'{"enable": tru}',
        b"\xff\xfe\x00",
        b'{"enable": NaN}',
        b"{} {}",
        b"[" * 100_000,
        b'{"a":' * 50_000,
        b"{" + b" " * (MEGABYTE - 1),
        b"\x00",
    ):
        for verb in ("status", "start", "flow.meter.enable"):
            reply = await bus.request(verb, body)
            assert (reply.code, reply.error) == (400, "malformed_request"), body[:40]


async def test_body_other_than_an_object_is_422(alpha: Agent, bus: Bus) -> None:
    for body in (b"[]", b"7", b'"status"', b"null", b"true"):
        assert (await bus.request("status", body)).code == 422, body


async def test_empty_body_means_an_empty_object(alpha: Agent, bus: Bus) -> None:
    assert (await bus.request("status", b"")).code == 204
    assert (await bus.request("status", b"{}")).code == 204
    assert (await bus.request("start", b"")).code == 422


async def test_megabyte_body_gets_a_short_reply(alpha: Agent, bus: Bus) -> None:
    padding = "x" * (MEGABYTE - 100)
    for verb in ("status", "start", "stop", "flows"):
        reply = await bus.request(verb, {"padding": padding})
        assert reply.code == 422
        assert len(reply.raw) < 10_000  # the reply does not repeat the body
    filter_reply = await bus.request(
        "start", {"interface": "lo", "backend": "af_packet", "filter": padding}
    )
    assert filter_reply.code in (400, 422)


async def test_malicious_names_are_rejected(alpha: Agent, bus: Bus) -> None:
    """Strings that break other programs: NUL, slashes, newlines, format directives."""
    for name in ("lo\0", "../lo", "lo\n", "%s%n", "lo;reboot", "ä" * 300, "\ud7ff"):
        reply = await bus.request("start", {"interface": name, "backend": "af_packet"})
        assert (reply.code, reply.error) == (400, "invalid_interface"), name
        reply = await bus.request("start", {"interface": name, "backend": "file"})
        assert reply.code in (400, 403), name


# ---- encodings ----------------------------------------------------------------------------


async def test_messagepack_request_and_reply(
    alpha: Agent, bus: Bus, start_body: dict[str, str]
) -> None:
    packed = msgspec.msgpack.encode(start_body)
    both = {"Content-Type": MSGPACK, "Accept": MSGPACK}
    started = await bus.request("start", packed, headers=both)
    assert started.code == 200
    assert started.headers["Content-Type"] == MSGPACK
    assert started.body["interface"] == start_body["interface"]
    # Mixed: a JSON request for a MessagePack reply, and the reverse.
    flows = await bus.request("flows", {"limit": 5}, headers={"Accept": MSGPACK})
    assert flows.headers["Content-Type"] == MSGPACK
    assert flows.body["active_flows"] == len(flows.body["flows"])
    status = await bus.request("status", b"\x80", headers={"Content-Type": MSGPACK})
    assert status.headers["Content-Type"] == "application/json"
    assert status.body["session_id"] == started.body["session_id"]


async def test_errors_use_the_requested_encoding(alpha: Agent, bus: Bus) -> None:
    accept = {"Accept": MSGPACK}
    for verb, body in (("nosuch", {}), ("stop", {}), ("flows", {"limit": 0}), ("stop", b"{")):
        reply = await bus.request(verb, body, headers=accept)
        assert reply.code in (400, 404, 422)
        assert reply.headers["Content-Type"] == MSGPACK


async def test_undecodable_messagepack_is_400(alpha: Agent, bus: Bus) -> None:
    packed = {"Content-Type": MSGPACK}
    for body in (b"\xc1", b"\x81", b"\x81\xa4inte", b"\xdf\xff\xff\xff\xff", b"{}"):
        reply = await bus.request("status", body, headers=packed)
        assert reply.code in (400, 422), body
    assert (await bus.request("status", b"\xc1", headers=packed)).error == "malformed_request"
    reply = await bus.request("flows", msgspec.msgpack.encode({"limit": 0}), headers=packed)
    assert (reply.code, reply.body["field"]) == (422, "$.limit")


# ---- Request-Id ---------------------------------------------------------------------------


async def test_request_id_is_echoed(alpha: Agent, bus: Bus) -> None:
    for verb, body in (("status", {}), ("stop", {}), ("nosuch", {}), ("flows", {"limit": 0})):
        reply = await bus.request(verb, body, headers={"Request-Id": f"id-of-{verb}"})
        assert reply.headers["Request-Id"] == f"id-of-{verb}"
    assert "Request-Id" not in (await bus.request("status")).headers


async def test_same_request_id_returns_the_first_reply(
    alpha: Agent, bus: Bus, start_body: dict[str, str]
) -> None:
    headers = {"Request-Id": "start-1"}
    first = await bus.request("start", start_body, headers=headers)
    again = await bus.request("start", start_body, headers=headers)
    assert first.code == again.code == 200
    assert again.body == first.body
    assert "Replayed" not in first.headers
    assert again.headers["Replayed"] == "true"
    # Still the first reply after the session: a late retry starts nothing.
    await bus.ok("stop", headers={"Request-Id": "stop-1"})
    late = await bus.request("start", start_body, headers=headers)
    assert (late.code, late.headers["Replayed"]) == (200, "true")
    assert (await bus.request("status")).code == 204
    stopped = await bus.request("stop", headers={"Request-Id": "stop-1"})
    assert (stopped.code, stopped.headers["Replayed"]) == (200, "true")


async def test_request_id_with_another_body_is_409(
    alpha: Agent, bus: Bus, start_body: dict[str, str]
) -> None:
    headers = {"Request-Id": "start-1"}
    await bus.ok("start", start_body, headers=headers)
    for verb, body in (
        ("start", {**start_body, "snaplen": 128}),
        ("stop", {}),
        ("flow.meter.enable", {"enable": True}),
    ):
        reply = await bus.request(verb, body, headers=headers)
        assert (reply.code, reply.error) == (409, "request_id_reused"), verb
    assert (await bus.request("status")).code == 200


async def test_request_id_covers_overlapping_requests(
    alpha: Agent, bus: Bus, start_body: dict[str, str]
) -> None:
    headers = {"Request-Id": "start-1"}
    replies = await asyncio.gather(
        *(bus.request("start", start_body, headers=headers) for _ in range(16))
    )
    assert {reply.code for reply in replies} == {200}
    assert len({reply.body["session_id"] for reply in replies}) == 1
    assert sum("Replayed" in reply.headers for reply in replies) == 15


async def test_error_replies_are_replayed_too(
    alpha: Agent, bus: Bus, start_body: dict[str, str]
) -> None:
    """A refused stop that arrives again must not stop another caller's session."""
    headers = {"Request-Id": "stop-1"}
    assert (await bus.request("stop", headers=headers)).error == "no_session"
    await bus.ok("start", start_body)
    again = await bus.request("stop", headers=headers)
    assert (again.code, again.error, again.headers["Replayed"]) == (400, "no_session", "true")
    assert (await bus.request("status")).code == 200


# ---- Expires-At ---------------------------------------------------------------------------


def moment(seconds: float, *, zone: str = "Z") -> str:
    """Returns the RFC 3339 time `seconds` from now."""
    now = datetime.datetime.now(datetime.UTC)
    then = now + datetime.timedelta(seconds=seconds)
    if zone != "Z":
        then = then.astimezone(datetime.timezone(datetime.timedelta(hours=2)))
    return then.isoformat().replace("+00:00", "Z")


async def test_late_request_is_400(alpha: Agent, bus: Bus, start_body: dict[str, str]) -> None:
    for stamp in (moment(-1), moment(-1, zone="+02:00"), "1999-12-31T23:59:59Z"):
        reply = await bus.request("start", start_body, headers={"Expires-At": stamp})
        assert (reply.code, reply.error) == (400, "expired"), stamp
    assert (await bus.request("status")).code == 204


async def test_request_before_its_deadline_is_served(alpha: Agent, bus: Bus) -> None:
    for stamp in (moment(60), moment(60, zone="+02:00"), "2999-01-01T00:00:00.000000001Z"):
        reply = await bus.request("status", headers={"Expires-At": stamp})
        assert reply.code == 204, stamp


async def test_invalid_deadline_is_rejected(
    alpha: Agent, bus: Bus, start_body: dict[str, str]
) -> None:
    for stamp in ("tomorrow", "1767225600", "2026-13-01T00:00:00Z"):
        reply = await bus.request("start", start_body, headers={"Expires-At": stamp})
        assert reply.code in (400, 422), stamp
    assert (await bus.request("status")).code == 204


# ---- many at once -------------------------------------------------------------------------


async def test_every_request_of_a_flood_gets_a_reply(alpha: Agent, bus: Bus) -> None:
    """All of 200 concurrent requests succeed. Some of 2,000 may be rejected, but each gets a
    reply."""
    replies = await asyncio.gather(*(bus.request("status") for _ in range(200)))
    assert {reply.code for reply in replies} == {204}
    replies = await asyncio.gather(*(bus.request("status") for _ in range(2000)))
    codes = [reply.code for reply in replies]
    assert set(codes) <= {204, 429}
    assert codes.count(204) >= 200
    assert (await bus.request("status")).code == 204


async def test_reply_is_valid_json_in_utf8(alpha: Agent, bus: Bus) -> None:
    reply = await bus.request("start", {"interface": "ünïcode☃", "backend": "af_packet"})
    assert reply.code == 400
    json.loads(reply.raw.decode("utf-8"))
