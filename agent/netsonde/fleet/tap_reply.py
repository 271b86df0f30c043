"""Checks what a host sends about its tap, so that a fault of one host costs only that host."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from .tap_blocks import Block, packet_blocks

Text = Annotated[str, Meta(min_length=1, max_length=255)]
Credit = Annotated[int, Meta(ge=1, lt=1 << 40)]


class MalformedError(Exception):
    """A reply or a message that is not as docs/tap.md describes."""


class Interface(msgspec.Struct):
    name: Text
    linktype: Annotated[int, Meta(ge=0, lt=1 << 16)]
    snaplen: Annotated[int, Meta(ge=0, lt=1 << 32)]


class Limits(msgspec.Struct):
    credit: Credit


class Opened(msgspec.Struct):
    """The reply to `tap`."""

    tap: Text
    limits: Limits
    interfaces: list[Interface]


@dataclass(slots=True)
class Loss:
    """Packets that matched and did not arrive, by cause."""

    ring: int = 0
    rate: int = 0

    @property
    def total(self) -> int:
        return self.ring + self.rate


@dataclass(frozen=True, slots=True)
class TapMessage:
    """One data message. sent: bytes of all messages so far."""

    seq: int
    sent: int
    through_ns: int
    end: str
    loss: Loss
    interfaces: list[Interface]
    blocks: list[Block] = field(repr=False)


def read_opened(body: dict[str, Any]) -> Opened:
    """Raises MalformedError."""
    try:
        return msgspec.convert(body, Opened)
    except msgspec.MsgspecError as error:
        raise MalformedError(str(error)) from None


def read_utc_ns(answer: bytes) -> int | None:
    """Returns the host's time of a reply to a credit; None if it has none."""
    try:
        found = msgspec.json.decode(answer, type=dict[str, Any]).get("utc_ns")
    except msgspec.MsgspecError:
        return None
    return found if isinstance(found, int) else None


def read_message(headers: dict[str, str], data: bytes) -> TapMessage:
    """Raises MalformedError."""
    try:
        return TapMessage(
            seq=int(headers["Seq"]),
            sent=int(headers.get("Sent", 0)),
            through_ns=int(headers.get("Through", 0)),
            end=headers.get("End", ""),
            loss=read_causes(headers.get("Lost-Packets", "")),
            interfaces=msgspec.json.decode(headers.get("Interfaces", "[]"), type=list[Interface]),
            blocks=list(packet_blocks(data)),
        )
    except (ValueError, msgspec.MsgspecError) as error:
        raise MalformedError(str(error)) from None


def read_causes(text: str) -> Loss:
    """Reads `ring=3,rate=0`. Raises ValueError."""
    found = dict(part.split("=", 1) for part in text.split(",") if "=" in part)
    return Loss(int(found.get("ring", 0)), int(found.get("rate", 0)))
