"""What all verbs, requests and replies have in common, and types that several share. A leaf."""

from __future__ import annotations

from typing import Annotated

from msgspec import UNSET, Meta, Struct, UnsetType

TimeoutSec = Annotated[int, Meta(ge=1, le=86400)]
Port = Annotated[int, Meta(ge=1, le=65535)]
Fraction = Annotated[float, Meta(ge=0, le=1)]
Percent = Annotated[float, Meta(ge=0, le=100)]


class Request(Struct, kw_only=True, forbid_unknown_fields=True):
    """Root of all request bodies."""


class Reply(Struct, kw_only=True):
    """Root of all reply bodies; the service fills in `host`."""

    host: str = ""


class ErrorReply(Reply, kw_only=True):
    """The body of every reply with a code of 400 or more."""

    code: int
    error: Annotated[str, Meta(description="stable identifier, such as session_active")]
    detail: Annotated[str, Meta(description="a sentence that says what to do; not stable")]
    field: Annotated[str, Meta(description="JSON path of the field to blame")] | UnsetType = UNSET


class Verb(Struct, frozen=True, kw_only=True):
    """`changes`: audited, and kept for Request-Id. `costly`: few at a time (429)."""

    name: str
    request: type[Request]
    reply: type[Struct]
    summary: str
    changes: bool = False
    costly: bool = False

    @property
    def endpoint(self) -> str:
        """Its name in NATS service discovery, where dots are not allowed."""
        return self.name.replace(".", "-")
