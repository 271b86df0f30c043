"""Requests: defaults, ranges and unknown fields. Replies: field names."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from netsonde.wire import events, instant, records, replies, requests
from netsonde.wire.verbs import VERBS

START = {"interface": "eth0", "backend": "af_packet"}
METER = {"enable": True}
EXPORT = {"collector_ip": "10.0.0.1", "collector_port": 2055}
ENCRYPTION = {"cipher_suite": "AES-256-GCM", "key_file": "/k"}


def convert(verb: str, body: dict[str, Any]) -> Any:
    return msgspec.convert(body, VERBS[verb].request)


def test_request_defaults() -> None:
    start = convert("start", START)
    assert start.buffer_size_mb == 256
    assert start.snaplen == 262144
    assert start.promiscuous is True
    assert start.workers == 1
    assert start.dedicated is False
    assert start.replay_speed == 0
    assert start.metering is None
    meter = convert("flow.meter.enable", METER)
    assert (meter.flow_timeout_sec, meter.active_timeout_sec) == (msgspec.UNSET, msgspec.UNSET)
    flows = convert("flows", {})
    assert (flows.limit, flows.min_packets, flows.sort, flows.filter) == (100, 1, "bytes", None)
    assert convert("stop", {}).reason == "manual"


@pytest.mark.parametrize(
    ("verb", "body", "name", "lowest", "highest"),
    [
        ("start", START, "buffer_size_mb", 1, 65536),
        ("start", START, "snaplen", 64, 262144),
        ("start", START, "workers", 1, 64),
        ("flow.meter.enable", METER, "flow_timeout_sec", 1, 86400),
        ("flow.meter.enable", METER, "active_timeout_sec", 1, 86400),
        ("flows", {}, "limit", 1, 10000),
    ],
)
def test_fields_accept_only_their_range(
    verb: str, body: dict[str, Any], name: str, lowest: int, highest: int
) -> None:
    for value in (lowest, highest):
        assert getattr(convert(verb, {**body, name: value}), name) == value
    for wrong in (lowest - 1, highest + 1, 2**70, str(lowest), float(lowest), True, None):
        with pytest.raises(msgspec.ValidationError):
            convert(verb, {**body, name: wrong})


@pytest.mark.parametrize(
    ("verb", "body"),
    [
        ("start", {}),
        ("start", {"interface": "eth0"}),
        ("start", {"backend": "file"}),
        ("start", {**START, "interface": 1}),
        ("start", {**START, "promiscuous": 1}),
        ("start", {**START, "filter": None}),
        ("start", {**START, "metering": {}}),
        ("start", {**START, "metering": {"enable": True, "colour": 1}}),
        ("start", {**START, "export": {**EXPORT, "collector_port": 0}}),
        ("start", {**START, "export": {**EXPORT, "version": 8}}),
        ("start", {**START, "encryption": {"cipher_suite": "AES-256-GCM"}}),
        ("start", {**START, "replay_speed": -1}),
        ("flow.meter.enable", {}),
        ("flow.meter.enable", {"enable": "yes"}),
        ("flows", {"sort": "name"}),
        ("flows", {"min_packets": -1}),
        ("flows", {"filter": {"port": 65536}}),
        ("flows", {"filter": {"protocol": 256}}),
        ("flows", {"filter": {"protocol": True}}),
        ("flows", {"filter": {"host": "x"}}),
        ("stop", {"reason": 5}),
    ],
)
def test_invalid_request_is_rejected(verb: str, body: dict[str, Any]) -> None:
    with pytest.raises(msgspec.ValidationError):
        convert(verb, body)


@pytest.mark.parametrize("name", sorted(VERBS))
def test_unknown_field_is_rejected(name: str) -> None:
    bodies: dict[str, dict[str, Any]] = {"start": START, "flow.meter.enable": METER}
    with pytest.raises(msgspec.ValidationError, match="unknown field `surprise`"):
        convert(name, {**bodies.get(name, {}), "surprise": 1})


def test_start_reads_nested_objects() -> None:
    start = convert(
        "start", {**START, "metering": METER, "export": EXPORT, "encryption": ENCRYPTION}
    )
    assert start.metering.enable is True
    assert start.export.version == 9
    assert start.encryption.cipher_suite == "AES-256-GCM"


def test_verbs_and_which_change_state() -> None:
    reads = {"backends", "status", "metrics", "flows", "schema"}
    changes = {"start", "stop", "flow.meter.enable"}
    assert VERBS.keys() >= reads | changes
    assert all(VERBS[name].changes for name in changes)
    assert not any(VERBS[name].changes for name in reads)
    assert all(name == verb.name for name, verb in VERBS.items())
    assert VERBS["flow.meter.enable"].endpoint == "flow-meter-enable"


def test_each_reply_starts_with_the_host() -> None:
    for verb in VERBS.values():
        assert msgspec.structs.fields(verb.reply)[0].name == "host"


def test_status_without_a_session_has_only_zeros() -> None:
    assert msgspec.to_builtins(replies.StatusReply(host="a")) == {
        "host": "a",
        "running": False,
        "interface": "",
        "backend": "",
        "packets_captured": 0,
        "packets_dropped": 0,
        "uptime_sec": 0.0,
        "buffer_usage_percent": 0.0,
    }


def test_replies_have_the_fields_that_clients_read() -> None:
    from netsonde.sinks.composer import RenderedBatch

    def names(kind: type[msgspec.Struct]) -> set[str]:
        return {field.encode_name for field in msgspec.structs.fields(kind)}

    assert names(replies.RenderedFlowsReply) == names(replies.FlowsReply)
    assert names(RenderedBatch) == names(records.FlowBatch)


def test_lists_match_their_types() -> None:
    from typing import get_args

    assert get_args(requests.BackendName) == requests.BACKEND_NAMES
    assert get_args(events.EventKind) == events.EVENT_KINDS


@pytest.mark.parametrize(
    ("time_ns", "text"),
    [
        (0, "1970-01-01T00:00:00.000000000Z"),
        (1_700_000_000_000_000_005, "2023-11-14T22:13:20.000000005Z"),
        (4_102_444_800_999_999_999, "2100-01-01T00:00:00.999999999Z"),
    ],
)
def test_rfc3339_formats_nanoseconds(time_ns: int, text: str) -> None:
    assert instant.rfc3339(time_ns) == text
    assert instant.rfc3339_seconds(time_ns) == f"{text.partition('.')[0]}Z"
