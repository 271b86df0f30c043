"""Conversion between NATS messages and requests or replies: headers, JSON, MessagePack, errors.

No I/O: bytes and header dictionaries in, structs out, and back. Decoding has two steps, so that
malformed JSON (400) is reported before values that do not fit (422).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TypeVar

import msgspec

from ..errors import InvalidRequest, MalformedRequest, RequestError
from .instant import parse_rfc3339
from .replies import ErrorReply, Reply
from .requests import Request

JSON = "application/json"
MSGPACK = "application/msgpack"
REQUEST_ID_MAX = 256
ERROR_HEADER_MAX = 512

_R = TypeVar("_R", bound=Request)


@dataclass(frozen=True, slots=True)
class Headers:
    """The request headers in use; their names are case-insensitive."""

    binary_body: bool
    binary_reply: bool
    request_id: str
    expires_at: str

    @classmethod
    def of(cls, headers: Mapping[str, str] | None) -> Headers:
        found = {key.lower(): value for key, value in (headers or {}).items()}
        return cls(
            binary_body=_media_type(found.get("content-type", "")) == MSGPACK,
            binary_reply=_accepts_msgpack(found.get("accept", "")),
            request_id=found.get("request-id", ""),
            expires_at=found.get("expires-at", ""),
        )

    def late(self, now: datetime) -> bool:
        """Returns whether Expires-At has passed. Raises InvalidRequest for a malformed header."""
        if len(self.request_id) > REQUEST_ID_MAX:
            raise InvalidRequest(f"Request-Id is longer than {REQUEST_ID_MAX} characters")
        deadline = self.deadline
        return deadline is not None and deadline < now

    @property
    def deadline(self) -> datetime | None:
        return instant(self.expires_at) if self.expires_at else None


def instant(text: str) -> datetime:
    """Parses RFC 3339 with an offset, to microseconds, clamped to the years 1 to 9999."""
    try:
        time_ns = parse_rfc3339(text)
    except ValueError:
        raise InvalidRequest(f"Expires-At is not RFC 3339 with an offset: {text[:64]!r}") from None
    try:
        return datetime.fromtimestamp(0, UTC) + timedelta(microseconds=time_ns // 1000)
    except OverflowError:  # beyond year 1 or 9999 after the offset
        return (datetime.max if time_ns > 0 else datetime.min).replace(tzinfo=UTC)


def decode(body: bytes, kind: type[_R], *, binary: bool) -> _R:
    """Raises MalformedRequest or InvalidRequest."""
    try:
        if not body:
            value: object = {}
        elif binary:
            value = msgspec.msgpack.decode(body)
        else:
            value = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError) as error:
        raise MalformedRequest(f"The body could not be decoded: {error}") from None
    if not isinstance(value, dict):
        raise InvalidRequest("The body must be one object", field="$")
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise invalid(error) from None
    except RecursionError:
        raise InvalidRequest("The body is nested too deeply", field="$") from None


def invalid(error: msgspec.ValidationError) -> InvalidRequest:
    """msgspec's sentence and the JSON path that it blames, or would blame."""
    text, _, path = str(error).partition(" - at `")
    path = path.rstrip("`").removeprefix("key` in `") or "$"  # MessagePack has other keys, too
    named = re.fullmatch(r"Object (?:contains unknown|missing required) field `(.*)`", text)
    field = f"{path}.{named[1]}" if named else path
    return InvalidRequest(f"{field}: {text[:1].lower()}{text[1:]}", field=field)


def encode(reply: Reply, *, binary: bool) -> bytes:
    return msgspec.msgpack.encode(reply) if binary else msgspec.json.encode(reply)


def error_reply(error: RequestError) -> ErrorReply:
    field = msgspec.UNSET if error.field is None else error.field
    return ErrorReply(code=error.code, error=error.error, detail=error.detail, field=field)


def reply_headers(host: str, code: int, request_id: str, *, binary: bool) -> dict[str, str]:
    headers = {
        "Status-Code": str(code),
        "Host": host,
        "Content-Type": MSGPACK if binary else JSON,
    }
    if request_id:
        headers["Request-Id"] = request_id[:REQUEST_ID_MAX]
    return headers


def error_headers(error: RequestError) -> dict[str, str]:
    """Those of ADR-32."""
    words = " ".join(f"{error.error}: {error.detail}".split())
    return {
        "Nats-Service-Error-Code": str(error.code),
        "Nats-Service-Error": words[:ERROR_HEADER_MAX],
    }


def _media_type(text: str) -> str:
    kind = text.partition(";")[0].strip().lower()
    return MSGPACK if kind in (MSGPACK, "application/x-msgpack") else kind


def _accepts_msgpack(text: str) -> bool:
    """The first of the listed types that is one of ours decides."""
    for part in text.split(","):
        kind = _media_type(part)
        if kind in (MSGPACK, JSON):
            return kind == MSGPACK
    return False
