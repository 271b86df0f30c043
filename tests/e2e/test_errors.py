"""Every error code of docs/requests.md, provoked over the bus.

There is one table per situation: no session, a running session, an impossible start. `field` names
the part of the body that is invalid, if any.
"""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import pytest

from agents import Agent, Fleet
from bus import REQUEST_TIMEOUT_SEC, Bus, Reply
from packets import UDP, at, ethernet, ipv4, udp, write_pcap
from recording import make_key, sealing
from replay import finished

FILE = {"backend": "file"}
GOOD_START = {"interface": "lo", "backend": "af_packet"}
COLLECTOR = {"collector_ip": "127.0.0.1", "collector_port": 2055}


@pytest.fixture
def capture(tmp_path: Path) -> Path:
    frame = ethernet(ipv4(udp(b"payload", 1000, 53), UDP, "10.0.0.1", "10.0.0.2"))
    return write_pcap(tmp_path / "one.pcap", [at(1_767_225_600_000_000_000, frame)])


def outcome(reply: Reply) -> tuple[int, str | None, str | None]:
    return reply.code, reply.error, reply.body.get("field")


# ---- 422: the body does not match the verb's schema ------------------------------------------

NOT_OF_THE_FORM: list[tuple[str, Any, str | None]] = [
    ("backends", {"name": "pcap"}, "$.name"),
    ("start", {}, None),
    ("start", {"interface": "lo"}, None),
    ("start", {"backend": "pcap"}, None),
    ("start", {"interface": 7, "backend": "pcap"}, "$.interface"),
    ("start", {"interface": "lo", "backend": None}, "$.backend"),
    ("start", {**GOOD_START, "buffer_size_mb": 0}, "$.buffer_size_mb"),
    ("start", {**GOOD_START, "buffer_size_mb": 65537}, "$.buffer_size_mb"),
    ("start", {**GOOD_START, "buffer_size_mb": "256"}, "$.buffer_size_mb"),
    ("start", {**GOOD_START, "buffer_size_mb": 1.5}, "$.buffer_size_mb"),
    ("start", {**GOOD_START, "buffer_size_mb": True}, "$.buffer_size_mb"),
    ("start", {**GOOD_START, "filter": 80}, "$.filter"),
    ("start", {**GOOD_START, "snaplen": 63}, "$.snaplen"),
    ("start", {**GOOD_START, "snaplen": 262145}, "$.snaplen"),
    ("start", {**GOOD_START, "promiscuous": "yes"}, "$.promiscuous"),
    ("start", {**GOOD_START, "workers": 0}, "$.workers"),
    ("start", {**GOOD_START, "workers": 65}, "$.workers"),
    ("start", {**GOOD_START, "dedicated": 1}, "$.dedicated"),
    ("start", {**GOOD_START, "replay_speed": -1}, "$.replay_speed"),
    ("start", {**GOOD_START, "metering": {"enable": 1}}, "$.metering.enable"),
    ("start", {**GOOD_START, "metering": {"enable": True, "x": 1}}, "$.metering.x"),
    ("start", {**GOOD_START, "export": {"collector_ip": "10.0.0.9"}}, "$.export.collector_port"),
    ("start", {**GOOD_START, "encryption": {}}, "$.encryption.cipher_suite"),
    ("start", {**GOOD_START, "ring_size": 1}, "$.ring_size"),
    ("stop", {"reason": 5}, "$.reason"),
    ("stop", {"force": True}, "$.force"),
    ("status", {"verbose": True}, "$.verbose"),
    ("metrics", {"interval": 1}, "$.interval"),
    ("flow.meter.enable", {}, None),
    ("flow.meter.enable", {"enable": "true"}, "$.enable"),
    ("flow.meter.enable", {"enable": True, "flow_timeout_sec": 0}, "$.flow_timeout_sec"),
    ("flow.meter.enable", {"enable": True, "flow_timeout_sec": 86401}, "$.flow_timeout_sec"),
    ("flow.meter.enable", {"enable": True, "active_timeout_sec": 0}, "$.active_timeout_sec"),
    ("flow.meter.enable", {"enable": True, "timeout": 1}, "$.timeout"),
    ("netflow.export.enable", {}, None),
    ("netflow.export.enable", {"collector_ip": "10.0.0.9"}, "$.collector_port"),
    ("netflow.export.enable", {"collector_port": 2055}, "$.collector_ip"),
    ("netflow.export.enable", {**COLLECTOR, "collector_ip": 7}, "$.collector_ip"),
    ("netflow.export.enable", {**COLLECTOR, "collector_port": 0}, "$.collector_port"),
    ("netflow.export.enable", {**COLLECTOR, "collector_port": 65536}, "$.collector_port"),
    ("netflow.export.enable", {**COLLECTOR, "collector_port": "2055"}, "$.collector_port"),
    ("netflow.export.enable", {**COLLECTOR, "version": 8}, "$.version"),
    ("netflow.export.enable", {**COLLECTOR, "version": "9"}, "$.version"),
    ("netflow.export.enable", {**COLLECTOR, "export_interval_sec": 0}, "$.export_interval_sec"),
    ("netflow.export.enable", {**COLLECTOR, "export_interval_sec": 3601}, "$.export_interval_sec"),
    ("netflow.export.enable", {**COLLECTOR, "enable": "no"}, "$.enable"),
    ("netflow.export.enable", {**COLLECTOR, "protocol": "udp"}, "$.protocol"),
    ("start", {**GOOD_START, "export": {**COLLECTOR, "version": 7}}, "$.export.version"),
    ("flows", {"limit": 0}, "$.limit"),
    ("flows", {"limit": 10001}, "$.limit"),
    ("flows", {"limit": "100"}, "$.limit"),
    ("flows", {"sort": "age"}, "$.sort"),
    ("flows", {"filter": {"port": 65536}}, "$.filter.port"),
    ("flows", {"filter": {"address": "10.0.0.1"}}, "$.filter.address"),
    ("schema", {"format": "json"}, "$.format"),
]


async def test_422_for_a_body_that_violates_the_schema(alpha: Agent, bus: Bus) -> None:
    """There is no session, so these cases also show that 422 takes precedence over 400."""
    wrong = []
    for verb, body, field in NOT_OF_THE_FORM:
        reply = await bus.request(verb, body)
        found = reply.body.get("field")
        if reply.code != 422 or (field is not None and found != field):
            wrong.append(f"{verb} {body}: {reply.code} {reply.error} {found}")
    assert not wrong, "\n".join(wrong)
    assert (await bus.request("status")).code == 204


# ---- 400 --------------------------------------------------------------------------------------


async def test_400_without_a_session(alpha: Agent, bus: Bus) -> None:
    for verb, body in (
        ("stop", {}),
        ("metrics", {}),
        ("flows", {}),
        ("flow.meter.enable", {"enable": True}),
        ("flow.meter.enable", {"enable": False}),
        ("netflow.export.enable", COLLECTOR),
        ("netflow.export.enable", {**COLLECTOR, "enable": False}),
    ):
        reply = await bus.request(verb, body)
        assert outcome(reply) == (400, "no_session", None), verb


async def test_400_for_an_interface_or_backend_this_host_lacks(
    alpha: Agent, bus: Bus, capture: Path
) -> None:
    absent = {"interface": str(capture.parent / "absent.pcap"), **FILE}
    for body, error, field in (
        ({**GOOD_START, "interface": "nosuch0"}, "invalid_interface", "$.interface"),
        ({**GOOD_START, "interface": "a name much too long"}, "invalid_interface", "$.interface"),
        ({**GOOD_START, "interface": ""}, "invalid_interface", "$.interface"),
        ({"interface": "nosuch0", "backend": "pcap"}, "invalid_interface", "$.interface"),
        (absent, "invalid_interface", "$.interface"),
        ({**GOOD_START, "backend": "ebpf9000"}, "invalid_backend", "$.backend"),
        ({**GOOD_START, "backend": ""}, "invalid_backend", "$.backend"),
        ({**GOOD_START, "filter": "tcp prot 80"}, "invalid_filter", "$.filter"),
        ({"interface": str(capture), **FILE, "filter": "((tcp"}, "invalid_filter", "$.filter"),
    ):
        reply = await bus.request("start", body)
        assert outcome(reply) == (400, error, field), body
        assert (await bus.request("status")).code == 204


async def test_400_for_a_file_that_does_not_hold_a_capture(
    alpha: Agent, bus: Bus, tmp_path: Path
) -> None:
    (tmp_path / "words.pcap").write_text("not a capture, but long enough to be looked into")
    (tmp_path / "empty.pcap").write_bytes(b"")
    (tmp_path / "folder.pcap").mkdir()
    os.mkfifo(tmp_path / "fifo.pcap")
    for name in ("words.pcap", "empty.pcap", "folder.pcap", "fifo.pcap"):
        reply = await bus.request("start", {"interface": str(tmp_path / name), **FILE})
        assert outcome(reply) == (400, "invalid_interface", "$.interface"), (name, reply)
        assert (await bus.request("status")).code == 204


NO_COLLECTORS = (
    "",
    "collector.example.org",
    "localhost",
    "127.0.0.1:2055",
    "127.0.0",
    "127.0.0.256",
    "127.0.0.01",
    " 127.0.0.1",
    "0.0.0.0",
    "::",
    "::ffff:0.0.0.0",
    "255.255.255.255",
    "224.0.0.1",
    "ff02::1",
    "fe80::1",
    "fe80::1%nosuch0",
    "10.0.0.1\0",
)


async def test_400_for_an_invalid_collector(alpha: Agent, bus: Bus, capture: Path) -> None:
    file = {"interface": str(capture), **FILE}
    for address in NO_COLLECTORS:
        export = {**COLLECTOR, "collector_ip": address}
        reply = await bus.request("start", {**file, "export": export})
        assert outcome(reply)[:2] == (400, "invalid_collector"), address
        assert (await bus.request("status")).code == 204, "no session was started"
    await bus.ok("start", file)
    for address in NO_COLLECTORS:
        export = {**COLLECTOR, "collector_ip": address}
        reply = await bus.request("netflow.export.enable", export)
        assert outcome(reply)[:2] == (400, "invalid_collector"), address
    reply = await bus.request("netflow.export.enable", {**COLLECTOR, "enable": False})
    assert outcome(reply)[:2] == (400, "invalid_collector"), (
        "the session has no collector to remove"
    )
    status = await bus.ok("status")
    assert status["export"] is None
    assert status["metering"]["enabled"] is False
    await bus.ok("stop")


async def test_400_for_one_collector_too_many(alpha: Agent, bus: Bus, capture: Path) -> None:
    await bus.ok("start", {"interface": str(capture), **FILE})
    for port in range(2001, 2017):
        await bus.ok("netflow.export.enable", {**COLLECTOR, "collector_port": port})
    reply = await bus.request("netflow.export.enable", COLLECTOR)
    assert outcome(reply)[:2] == (400, "invalid_collector")
    assert "16" in reply.body["detail"]
    assert len((await bus.ok("status"))["export"]["collectors"]) == 16
    await bus.ok("stop")


# ---- 403 --------------------------------------------------------------------------------------


async def test_403_outside_the_replay_directories(
    fleet: Fleet, bus: Bus, tmp_path: Path, capture: Path
) -> None:
    allowed = tmp_path / "allowed"
    allowed.mkdir()
    (allowed / "link.pcap").symlink_to(capture)
    (allowed / "out").symlink_to(tmp_path)
    fleet.start(capture={"replay_dirs": [allowed]})
    for path in (
        str(capture),
        "/etc/passwd",
        "/no/such/place.pcap",
        str(allowed / ".." / capture.name),
        str(allowed / "link.pcap"),
        str(allowed / "out" / capture.name),
        "/proc/self/fd/0",
    ):
        reply = await bus.request("start", {"interface": path, **FILE})
        assert outcome(reply)[:2] == (403, "path_not_allowed"), (path, reply)


# ---- 404 --------------------------------------------------------------------------------------


async def test_404_for_an_unknown_verb(alpha: Agent, bus: Bus) -> None:
    """A verb of the contract that this build does not announce is unknown too."""
    info = json.loads(
        (await bus.client.request("$SRV.INFO.netsonde.alpha", timeout=REQUEST_TIMEOUT_SEC)).data
    )
    announced = {endpoint["name"] for endpoint in info["endpoints"]}
    later = {"netflow.export.enable", "encryption.enable", "firmware.verify", "packets"}
    unknown = {verb for verb in later if verb.replace(".", "-") not in announced}
    for verb in sorted(unknown | {"reboot", "flow", "flow.meter.disable", "start.now"}):
        reply = await bus.request(verb, {})
        assert outcome(reply)[:2] == (404, "unknown_verb"), verb
        subject = f"capture.group.site.ams.{verb}"
        group = Reply.of(await bus.client.request(subject, b"{}", timeout=REQUEST_TIMEOUT_SEC))
        assert group.code == 404


# ---- 409, 429 ---------------------------------------------------------------------------------


async def test_409_while_a_session_is_active(alpha: Agent, bus: Bus, capture: Path) -> None:
    body = {"interface": str(capture), **FILE}
    started = await bus.ok("start", body)
    reply = await bus.request("start", body)
    assert outcome(reply)[:2] == (409, "session_active")
    assert (await bus.ok("status"))["session_id"] == started["session_id"]
    # 422 takes precedence over 409: the body is checked first.
    assert (await bus.request("start", {**body, "workers": 0})).code == 422
    await bus.ok("stop")
    assert (await bus.request("stop")).error == "no_session"


async def test_409_for_all_but_one_of_concurrent_starts(
    alpha: Agent, bus: Bus, capture: Path
) -> None:
    body = {"interface": str(capture), **FILE}
    replies = await asyncio.gather(*(bus.request("start", body) for _ in range(16)))
    codes = sorted(reply.code for reply in replies)
    assert codes == [200] + [409] * 15


async def test_429_for_too_many_expensive_requests(alpha: Agent, bus: Bus, capture: Path) -> None:
    await bus.ok("start", {"interface": str(capture), **FILE})
    replies = await asyncio.gather(*(bus.request("flows", {"limit": 10000}) for _ in range(300)))
    codes = {reply.code for reply in replies}
    assert codes == {200, 429}
    assert {reply.error for reply in replies if reply.code == 429} == {"too_many_requests"}
    assert (await bus.request("flows")).code == 200  # the limit applies only while they run


# ---- 503 --------------------------------------------------------------------------------------


async def test_503_for_a_known_backend_that_is_unavailable(alpha: Agent, bus: Bus) -> None:
    unavailable = (await bus.ok("backends"))["unavailable"]
    assert unavailable
    for backend in unavailable:
        body = {"interface": "lo", "backend": backend["name"]}
        reply = await bus.request("start", body)
        assert outcome(reply)[:2] == (503, "backend_unavailable"), reply
        assert backend["reason"] in reply.body["detail"]
        # 400 takes precedence over 503. Only DPDK and PF_RING can parse their interface names.
        reply = await bus.request("start", {**body, "filter": "tcp prot 80"})
        assert outcome(reply)[:2] == (400, "invalid_filter")
        if backend["name"] == "xdp":
            reply = await bus.request("start", {**body, "interface": "nosuch0"})
            assert outcome(reply)[:2] == (400, "invalid_interface")


async def test_503_for_metering_on_the_portable_fallback(alpha: Agent, bus: Bus) -> None:
    fallback = {"interface": "lo", "backend": "pcap"}
    reply = await bus.request("start", {**fallback, "metering": {"enable": True}})
    assert outcome(reply)[:2] == (503, "flow_metering_unavailable")
    assert (await bus.request("status")).code == 204  # no session was started
    await bus.ok("start", fallback)
    reply = await bus.request("flow.meter.enable", {"enable": True})
    assert outcome(reply)[:2] == (503, "flow_metering_unavailable")
    assert "Flow metering not available on configured backend" in reply.body["detail"]
    # 422 takes precedence over 503.
    assert (await bus.request("flow.meter.enable", {"enable": 1})).code == 422
    await bus.ok("stop")


async def test_503_for_export_on_the_portable_fallback(alpha: Agent, bus: Bus) -> None:
    fallback = {"interface": "lo", "backend": "pcap"}
    reply = await bus.request("start", {**fallback, "export": COLLECTOR})
    assert outcome(reply) == (503, "netflow_export_unavailable", "$.export")
    assert (await bus.request("status")).code == 204  # no session was started
    await bus.ok("start", {**fallback, "export": {**COLLECTOR, "enable": False}})
    for enable in (True, False):
        reply = await bus.request("netflow.export.enable", {**COLLECTOR, "enable": enable})
        assert outcome(reply)[:2] == (503, "netflow_export_unavailable")
    # 422 takes precedence over 400, and 400 over 503.
    reply = await bus.request("netflow.export.enable", {**COLLECTOR, "collector_ip": "0.0.0.0"})
    assert outcome(reply)[:2] == (400, "invalid_collector")
    reply = await bus.request(
        "netflow.export.enable", {"collector_ip": "0.0.0.0", "collector_port": 0}
    )
    assert reply.code == 422
    assert (await bus.ok("status"))["export"] is None
    await bus.ok("stop")


async def test_503_for_unavailable_features_of_start(
    fleet: Fleet, bus: Bus, capture: Path, tmp_path: Path
) -> None:
    """Nested objects enable features from the first packet; otherwise nothing starts."""
    fallback = {"interface": "lo", "backend": "pcap"}
    key = make_key(tmp_path / "keys" / "one.key")
    fleet.start(encryption={"key_dirs": [key.parent]})
    reply = await bus.request("start", {**fallback, "encryption": sealing(key)})
    assert outcome(reply) == (503, "encryption_unavailable", "$.encryption")
    assert (await bus.request("status")).code == 204
    body = {"interface": str(capture), **FILE}
    await bus.ok("start", {**body, "metering": {"enable": True}, "encryption": sealing(key)})
    assert (await finished(bus))["metering"]
    assert (await bus.ok("status"))["encryption"]
