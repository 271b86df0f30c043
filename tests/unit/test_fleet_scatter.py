"""Parsing of replies, and the end of a wave."""

from __future__ import annotations

import json

import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg

from netsonde.fleet.scatter import Ask, Gathering, Reply, decode_reply, gather


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


@pytest.mark.parametrize("name", ["../../etc/passwd", "a\x1b[31m", "a b", "A", ""])
def test_invalid_host_name_becomes_unknown(name: str) -> None:
    for data, headers in ((b"{}", {"Host": name}), (json.dumps({"host": name}).encode(), None)):
        reply = decode_reply(data, headers, 0.1)
        assert (reply.host, reply.code) == ("?", 500)


def test_wave_is_complete_when_each_expected_host_answered_or_is_absent() -> None:
    gathering = Gathering(frozenset({"a", "b"}))
    gathering.add(Reply("a", 200, {}))
    gathering.add(Reply("stranger", 200, {}))
    assert not gathering.complete
    gathering.note_no_responders("b")
    assert gathering.complete
    assert [absence.host for absence in gathering.absences(2)] == ["b"]


def test_wave_without_expected_hosts_ends_only_on_no_responders() -> None:
    gathering = Gathering(None)
    gathering.add(Reply("a", 200, {}))
    assert not gathering.complete
    gathering.note_no_responders(None)
    assert gathering.complete
    assert gathering.absences(2) == []


def test_second_reply_of_a_host_is_noted_and_dropped() -> None:
    gathering = Gathering(frozenset({"a"}))
    gathering.add(Reply("a", 200, {"first": True}))
    gathering.add(Reply("a", 500, {}))
    assert gathering.replies["a"].body == {"first": True}
    assert gathering.repeated == {"a"}


def test_reply_under_another_hosts_name_is_rejected() -> None:
    gathering = Gathering(frozenset({"a", "b"}))
    asks = [Ask("capture.host.a.status", "a"), Ask("capture.host.b.status", "b")]
    for index, name in ((0, "b"), (0, "a"), (1, "b")):
        reply = Msg(Client(), f"_INBOX.x.{index}", data=b"{}", headers={"Host": name})
        gather(reply, asks, gathering, decode_reply, 0.1)
    for made_up in ("2", "-1", "x", "\u00b2"):
        reply = Msg(Client(), f"_INBOX.x.{made_up}", data=b"{}", headers={"Host": "c"})
        gather(reply, asks, gathering, decode_reply, 0.1)
    assert gathering.replies.keys() == {"a", "b"}
    assert gathering.misnamed == {("a", "b")}
    assert gathering.repeated == set()
    assert gathering.complete
