"""Parsing of replies, and what one inbox keeps of them."""

from __future__ import annotations

import json
import time

import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg

from deadlines import TIMEOUT_SEC
from netsonde.fleet.scatter import Gathering, Message, Reply, decode_reply, gather, storing_stream
from netsonde.wire.instant import parse_rfc3339


@pytest.mark.parametrize(
    ("data", "headers", "code"),
    [
        (b'{"host":"a"}', {"Status-Code": "200", "Host": "a"}, 200),
        (b'{"host":"a"}', {"Status-Code": "204"}, 204),
        (b'{"host":"a","code":409,"error":"session_active"}', None, 409),
        (b'{"host":"a"}', {"Nats-Service-Error-Code": "503"}, 503),
        (b'{"host":"a"}', {"Status-Code": "fine"}, 500),
        (b"", {"Status-Code": "200", "Host": "a"}, 500),
        (b"[1]", {"Status-Code": "200", "Host": "a"}, 500),
        (b"\xff", {"Host": "a"}, 500),
        (b'{"a":"\xff"}', {"Host": "a"}, 500),
        (b'{"a":' + b"[" * 100_000, {"Host": "a"}, 500),
        (b'{"host":"a"}', {"Status-Code": "9" * 5000}, 500),
        (b'{"host":"a"}', {"Status-Code": "\u0662\u0660\u0660"}, 500),
    ],
)
def test_reply_code_prefers_the_header_over_the_body(
    data: bytes, headers: dict[str, str] | None, code: int
) -> None:
    reply = decode_reply(data, headers, 0.1)
    assert (reply.host, reply.code) == ("a", code)
    assert reply.accepted == (code < 400)


@pytest.mark.parametrize(
    ("data", "stream"),
    [
        (b'{"stream":"S","seq":1}', "S"),
        (b'{"stream":"S","seq":1,"domain":"d"}', "S"),
        (b'{"stream":"S"', None),
        (b'["stream"]', None),
        (b'{"stream":"S"}', None),
        (b'{"stream":7,"seq":1}', None),
        (b'{"stream":"S","seq":1,"host":"a"}', None),
        (b'{"seq":1}', None),
    ],
)
def test_an_acknowledgement_of_jetstream_names_its_stream(data: bytes, stream: str | None) -> None:
    assert storing_stream(data, None) == stream
    assert storing_stream(data, {"Host": "a"}) is None


@pytest.mark.parametrize("name", ["../../etc/passwd", "a\x1b[31m", "a b", "A", ""])
def test_invalid_host_name_becomes_unknown(name: str) -> None:
    for data, headers in ((b"{}", {"Host": name}), (json.dumps({"host": name}).encode(), None)):
        reply = decode_reply(data, headers, 0.1)
        assert (reply.host, reply.code) == ("?", 500)


def test_second_reply_of_a_host_is_kept_apart() -> None:
    gathering = Gathering()
    gathering.add(Reply("a", 200, {"first": True}))
    gathering.add(Reply("a", 500, {}))
    assert gathering.replies["a"].body == {"first": True}
    assert [reply.code for reply in gathering.others["a"]] == [500]


def heard(data: bytes, headers: dict[str, str] | None, asked: str | None) -> Gathering:
    gathering = Gathering()
    gather(
        Msg(Client(), "_INBOX.x.0", data=data, headers=headers), asked, gathering, decode_reply, 0.1
    )
    return gathering


def test_reply_under_another_hosts_name_is_rejected() -> None:
    gathering = heard(b"{}", {"Host": "b"}, "a")
    assert gathering.replies == {}
    assert gathering.misnamed == {("a", "b")}


def test_unreadable_reply_belongs_to_the_host_that_was_asked() -> None:
    for data in (b"", b"[", b"{}"):
        gathering = heard(data, None, "a")
        assert gathering.replies["a"].body["error"] == "unreadable"
    assert heard(b"[", None, None).replies.keys() == {"?"}


def test_acknowledgement_of_a_stream_is_not_a_reply() -> None:
    for data in (
        b'{"stream":"ALL","seq":7}',
        b'{"type":"io.nats.jetstream","error":{"code":503},"stream":"ALL","seq":0}',
    ):
        gathering = heard(data, None, None)
        assert (gathering.replies, gathering.stored_by) == ({}, {"ALL"})
    assert heard(b'{"stream":"ALL","seq":7,"host":"a"}', None, "a").stored_by == set()


def test_no_responders_is_noted_for_the_host_or_for_all() -> None:
    assert heard(b"", {"Status": "503"}, "a").unreachable == {"a"}
    assert heard(b"", {"Status": "503"}, None).nobody


def test_message_expires_with_the_callers_timeout() -> None:
    assert "Expires-At" not in Message().stamped()
    before_ns = time.time_ns()
    expires_ns = parse_rfc3339(Message(lifetime_sec=2).stamped()["Expires-At"])
    assert 2e9 <= expires_ns - before_ns < 2e9 + TIMEOUT_SEC * 1e9
