"""A tap of a session: live copies of packets, as messages of pcapng packet blocks.

Wraps native/include/tap.h. `open_tap`, `Tap.stop` and what `Tap.retire` returns may block, so they
run on worker threads; the rest is for the event loop.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import InvalidFilter
from .flows import owner_match
from .library import check, ffi, lib, members, string_of
from .values import OwnerMatch

MESSAGE_BYTES_MAX: int = lib.SONDE_TAP_MESSAGE_BYTES
SNAPLEN_MAX: int = lib.SONDE_TAP_SNAPLEN_MAX
TAPS_MAX: int = lib.SONDE_TAPS_MAX


@dataclass(frozen=True, slots=True)
class TapInterface:
    """An interface of packet blocks; its position in a list is its number."""

    slot: int
    linktype: int


@dataclass(frozen=True, slots=True)
class TapSettings:
    """exclude: a filter of packets to leave out. rate: bytes per second. 0: no limit."""

    filter: str
    exclude: str
    snaplen: int
    direction: int
    slots: int
    max_packets: int
    max_bytes: int
    rate: int
    interfaces: Sequence[TapInterface]
    owner: OwnerMatch | None = None


@dataclass(frozen=True, slots=True)
class TapMessage:
    """data: whole packet blocks, perhaps empty. through_ns: later messages have no older packet."""

    data: bytes
    packets: int
    first_ns: int
    last_ns: int
    through_ns: int
    interfaces: int
    last: bool
    limited: bool


@dataclass(frozen=True, slots=True)
class TapCounts:
    matched_packets: int = 0
    matched_bytes: int = 0
    lost_ring_packets: int = 0
    lost_ring_bytes: int = 0
    lost_rate_packets: int = 0
    lost_rate_bytes: int = 0


class Tap:
    """One struct sonde_tap. Its session must stay open until the tap is closed. Its owner closes it
    on a thread, and meanwhile `status` may ask for its counts: see `retire`."""

    def __init__(self, handle: Any) -> None:
        self._handle = handle
        self._buffer = bytearray(MESSAGE_BYTES_MAX)
        self._message = ffi.new("struct sonde_tap_message *")
        self._counts = ffi.new("struct sonde_tap_counts *")
        self._retired = False
        self._last = TapCounts()
        self.event_fd: int = lib.sonde_tap_event_fd(handle)

    def rearm(self) -> None:
        """Makes event_fd readable only when another message is ready."""
        try:
            os.read(self.event_fd, 8)
        except BlockingIOError:
            return

    def take(self) -> TapMessage | None:
        """Returns the next message, or None if none is ready or the tap is retired."""
        if self._retired:
            return None
        room = ffi.from_buffer("uint8_t[]", self._buffer)
        if not lib.sonde_tap_take(self._handle, room, self._message):
            return None
        made = self._message
        data = bytes(memoryview(self._buffer)[: made.bytes])
        return TapMessage(data, **members(TapMessage, made))

    def counts(self) -> TapCounts:
        if not self._retired:
            lib.sonde_tap_counts(self._handle, self._counts)
            self._last = TapCounts(**members(TapCounts, self._counts))
        return self._last

    def interfaces(self) -> list[TapInterface]:
        if self._retired:
            return []
        listed = ffi.new("struct sonde_tap_interface[]", lib.SONDE_TAP_INTERFACES_MAX)
        count = lib.sonde_tap_interfaces(self._handle, listed, lib.SONDE_TAP_INTERFACES_MAX)
        return [TapInterface(listed[at].slot, listed[at].linktype) for at in range(count)]

    def set_rate(self, rate: int) -> None:
        if not self._retired:
            lib.sonde_tap_rate_set(self._handle, rate)

    def stop(self) -> None:
        """Copies no further packet. Blocks for one turn of the capture loop."""
        lib.sonde_tap_stop(self._handle)

    def retire(self) -> Callable[[], None]:
        """Keeps the last counts, and returns a function that closes the tap, for any thread. From
        now on no other method uses the C object. Call it on the event loop, once."""
        self.counts()
        self._retired = True
        handle = self._handle
        return lambda: lib.sonde_tap_close(handle)


def open_tap(handle: Any, settings: TapSettings) -> Tap:
    """Blocks up to some seconds. Raises InvalidFilter, NoSession."""
    config = ffi.new("struct sonde_tap_config *")
    expression = ffi.new("char[]", string_of(settings.filter, InvalidFilter))
    exclude = ffi.new("char[]", settings.exclude.encode())
    interfaces = ffi.new("struct sonde_tap_interface[]", max(len(settings.interfaces), 1))
    for at, one in enumerate(settings.interfaces):
        interfaces[at].slot, interfaces[at].linktype = one.slot, one.linktype
    config.filter, config.exclude = expression, exclude
    config.interfaces, config.interface_count = interfaces, len(settings.interfaces)
    kept: list[Any] = []
    if settings.owner is not None:
        config.owner = owner_match(settings.owner, kept)
    for name in ("snaplen", "direction", "slots", "max_packets", "max_bytes", "rate"):
        setattr(config, name, getattr(settings, name))
    tap = ffi.new("struct sonde_tap **")
    error = ffi.new("struct sonde_error *")
    check(lib.sonde_tap_open(handle, config, tap, error), error)
    return Tap(tap[0])
