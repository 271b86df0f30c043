"""Request and reply bytes and headers, and the errors 400 and 422."""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from netsonde.errors import InvalidRequest, MalformedRequest, NoSession
from netsonde.wire import envelope
from netsonde.wire.envelope import Headers
from netsonde.wire.replies import StatusReply
from netsonde.wire.requests import FlowsRequest, StartRequest, StatusRequest

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
MSGPACK = {"Content-Type": "application/msgpack"}


@pytest.mark.parametrize("body", [b"", b"{}", b" {\n} "])
def test_empty_body_is_an_empty_object(body: bytes) -> None:
    assert envelope.decode(body, StatusRequest, binary=False) == StatusRequest()


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b'{"interface": ',
        b'{"surprise": 1',  # undecodable wins over unknown
        b"{} {}",
        b"\xff",
        b'{"interface": "\xff", "backend": "file"}',
        b"NaN",
        b"'interface'",
        b"[" * 100_000,
    ],
)
def test_invalid_json_is_400(body: bytes) -> None:
    with pytest.raises(MalformedRequest):
        envelope.decode(body, StartRequest, binary=False)


@pytest.mark.parametrize("body", [b"\xc1", b"\x81", b"\x81\xa1a", b"\x80\x80", b"\x91" * 100_000])
def test_invalid_msgpack_is_400(body: bytes) -> None:
    with pytest.raises(MalformedRequest):
        envelope.decode(body, StartRequest, binary=True)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b"[]", "$"),
        (b"null", "$"),
        (b'"start"', "$"),
        (b"{}", "$.interface"),
        (b'{"interface": "a", "backend": "b", "surprise": 1}', "$.surprise"),
        (b'{"interface": "a", "backend": "b", "buffer_size_mb": 0}', "$.buffer_size_mb"),
        (b'{"interface": "a", "backend": "b", "buffer_size_mb": "1"}', "$.buffer_size_mb"),
        (b'{"interface": "a", "backend": "b", "metering": {}}', "$.metering.enable"),
        (b'{"interface": "a", "backend": "b", "metering": {"x": 1}}', "$.metering.x"),
        (
            b'{"interface": "a", "backend": "b", "metering": {"enable": 1}}',
            "$.metering.enable",
        ),
    ],
)
def test_invalid_field_is_422_and_named(body: bytes, field: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        envelope.decode(body, StartRequest, binary=False)
    assert caught.value.field == field
    assert caught.value.detail


def test_non_string_key_is_422() -> None:
    with pytest.raises(InvalidRequest) as caught:
        envelope.decode(msgspec.msgpack.encode({1: 1}), FlowsRequest, binary=True)
    assert caught.value.field == "$"


def test_msgpack_request_is_decoded() -> None:
    body = msgspec.msgpack.encode({"limit": 7})
    assert envelope.decode(body, FlowsRequest, binary=True).limit == 7


@given(st.binary(max_size=300), st.booleans())
def test_decoder_accepts_or_rejects_any_body(body: bytes, binary: bool) -> None:
    with contextlib.suppress(MalformedRequest, InvalidRequest):
        assert 1 <= envelope.decode(body, FlowsRequest, binary=binary).limit <= 10000


# ---- headers -----------------------------------------------------------------------------------


def test_header_names_ignore_case() -> None:
    headers = Headers.of({"CONTENT-TYPE": "application/msgpack; v=1", "request-ID": "r"})
    assert headers.binary_body
    assert headers.request_id == "r"
    assert Headers.of(None) == Headers(False, False, "", "")


@pytest.mark.parametrize(
    ("accept", "binary"),
    [
        ("application/msgpack", True),
        ("application/x-msgpack", True),
        ("text/html, application/msgpack;q=0.9", True),
        ("application/json, application/msgpack", False),
        ("*/*", False),
        ("", False),
    ],
)
def test_accept_selects_the_encoding(accept: str, binary: bool) -> None:
    assert Headers.of({"Accept": accept}).binary_reply is binary


@pytest.mark.parametrize(
    ("text", "late"),
    [
        ((NOW + timedelta(seconds=1)).isoformat(), False),
        ("2026-01-02T05:04:06.000000001+02:00", False),
        ("2026-01-02t03:04:06z", False),
        ("9999-12-31T23:59:59-23:59", False),
        ("2026-01-02T03:04:04.999999999Z", True),
        ("2026-01-02t03:04:04z", True),
        ("2016-12-31T23:59:60Z", True),
        ("0001-01-01T00:00:00+23:59", True),
    ],
)
def test_expires_at_is_compared_with_now(text: str, late: bool) -> None:
    assert Headers.of({"Expires-At": text}).late(NOW) is late


@pytest.mark.parametrize(
    "text", ["soon", "2026-01-02T03:04:05", "1767323045", "29990101T000000Z", "2999-01-01"]
)
def test_malformed_expires_at_is_rejected(text: str) -> None:
    with pytest.raises(InvalidRequest):
        Headers.of({"Expires-At": text}).late(NOW)


def test_long_request_id_is_rejected() -> None:
    Headers.of({"Request-Id": "x" * envelope.REQUEST_ID_MAX}).late(NOW)
    with pytest.raises(InvalidRequest):
        Headers.of({"Request-Id": "x" * (envelope.REQUEST_ID_MAX + 1)}).late(NOW)


# ---- replies -----------------------------------------------------------------------------------


def test_reply_headers_name_host_and_request() -> None:
    headers = envelope.reply_headers("alpha", 204, "r", binary=True)
    assert headers == {
        "Status-Code": "204",
        "Host": "alpha",
        "Content-Type": "application/msgpack",
        "Request-Id": "r",
    }
    assert "Request-Id" not in envelope.reply_headers("alpha", 200, "", binary=False)


def test_error_header_is_one_short_line() -> None:
    headers = envelope.error_headers(InvalidRequest("two\r\nlines " + "x" * 2000))
    assert headers["Nats-Service-Error-Code"] == "422"
    assert "\n" not in headers["Nats-Service-Error"]
    assert len(headers["Nats-Service-Error"]) == 512
    long = envelope.reply_headers("alpha", 200, "r" * 300, binary=False)
    assert long["Request-Id"] == "r" * 256


def test_error_names_a_field_only_if_one_is_invalid() -> None:
    assert "field" not in msgspec.to_builtins(envelope.error_reply(NoSession()))
    assert msgspec.to_builtins(envelope.error_reply(NoSession(field="$.a")))["field"] == "$.a"


def test_reply_is_encoded_as_json_or_msgpack() -> None:
    reply = StatusReply(host="alpha")
    as_json = msgspec.json.decode(envelope.encode(reply, binary=False))
    assert as_json == msgspec.msgpack.decode(envelope.encode(reply, binary=True))
