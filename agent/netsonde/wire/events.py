"""Events: the message of the event streams, and the protocol for emitting one."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Protocol, TypeAlias

from msgspec import Meta, Struct

from .records import Count, Time

EventKind: TypeAlias = Literal["lifecycle", "capture", "alarm", "audit"]


EVENT_KINDS: tuple[EventKind, ...] = ("lifecycle", "capture", "alarm", "audit")


class Event(Struct, kw_only=True, omit_defaults=True):
    """The message of `stream.events.<host>.<kind>`."""

    host: str
    boot: str
    seq: Count
    kind: EventKind
    event: Annotated[str, Meta(description="stable identifier, such as interface_down")]
    time: Time
    detail: str = ""
    session_id: str | None = None
    data: dict[str, Any] = {}


class EventLog(Protocol):
    """Accepts events; service/events.py publishes them."""

    def emit(
        self,
        kind: EventKind,
        event: str,
        detail: str = "",
        *,
        session_id: str | None = None,
        time_ns: int | None = None,
        data: dict[str, Any] | None = None,
    ) -> None:
        """Queues one event. Never blocks and never fails. time_ns: since the epoch; now if
        None."""
