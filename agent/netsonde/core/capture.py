"""One capture session of the C core, as a class with typed methods.

Wraps native/include/netsonde.h: structs become values.py, negative statuses become errors, and
calls that may block run on a worker thread. A `Capture` counts the calls in progress, so that
`close` waits for them and a closed handle is never used.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

from ..errors import BackendUnavailable, InvalidBackend, InvalidFilter, InvalidInterface, NoSession
from ..wire.instant import NS_PER_SEC
from .flows import FlowListings
from .library import PLUGIN_DIR, check, check_status, ffi, lib, members, string_of, text_of
from .values import (
    Batch,
    CaptureSettings,
    CoreEvent,
    FlowPage,
    FlowQuery,
    InterfaceStats,
    Stats,
    Undecoded,
)

DRAIN_BYTES_MAX = (256 << 10) - 1024  # the rest of the 256 KiB is the batch's envelope
DRAIN_BYTES_MIN = 2 * lib.SONDE_RENDERED_RECORD_MAX  # below this one record might not fit
DRAIN_RECORDS_MAX = 1000
DISCARD_RECORDS_MAX = 1 << 18  # a few tens of milliseconds
EVENTS_MAX = 64

JSON: int = lib.SONDE_ENCODING_JSON
MSGPACK: int = lib.SONDE_ENCODING_MSGPACK
IPFIX: int = lib.SONDE_ENCODING_IPFIX

END_REASONS = ("", "idle", "active", "end", "forced", "resources")
_FILE_CUT: dict[int, bool | None] = {
    lib.SONDE_FILE_UNKNOWN: None,
    lib.SONDE_FILE_WHOLE: False,
    lib.SONDE_FILE_CUT: True,
}

# Members of struct sonde_session_config that are copied from CaptureSettings as they are.
_SAME_NAME = (
    *("file_fd", "workers", "snaplen", "ring_bytes", "flow_table_size", "record_ring_size"),
    *("promiscuous", "dedicated", "replay_speed", "metering", "buffer_bytes", "buffer_disk_bytes"),
    *("exclude_own", "label_bytes", "owners", "quic_per_second"),
)
_LABEL_PROTOCOLS: dict[str, int] = {
    "tls": lib.SONDE_LABEL_TLS,
    "quic": lib.SONDE_LABEL_QUIC,
    "dns": lib.SONDE_LABEL_DNS,
    "http": lib.SONDE_LABEL_HTTP,
}

_T = TypeVar("_T")
Prepare = Callable[[Any], None]


# ---- without a session -----------------------------------------------------------------------


def _non_flow_names() -> tuple[str, ...]:
    names: list[str] = []
    while len(names) < lib.SONDE_NON_FLOW_MAX:
        name = lib.sonde_non_flow_name(len(names))
        if name == ffi.NULL:
            break
        names.append(text_of(name))
    return tuple(names)


NON_FLOW_NAMES = _non_flow_names()


def _field_names() -> tuple[str, ...]:
    names: list[str] = []
    while (name := lib.sonde_record_field_name(len(names))) != ffi.NULL:
        names.append(text_of(name))
    return tuple(names)


FIELD_NAMES = _field_names()  # in the record's order


def field_bits(names: Iterable[str]) -> int:
    """Returns the core's bit set of these FIELD_NAMES; 0, for all fields, without names."""
    return sum(1 << FIELD_NAMES.index(name) for name in set(names))


# ---- a session -------------------------------------------------------------------------------


class Capture:
    """One struct sonde_session: open → start → … → stop → drain → close."""

    def __init__(self, handle: Any) -> None:
        self._handle = handle
        self._listings = FlowListings()
        self._inside = 0  # calls on worker threads that hold the handle
        self._outside = asyncio.Event()
        self._outside.set()
        self._closed = False
        self.closing = asyncio.Event()  # holders of the handle must release it
        self._last = Stats()
        self._last_interfaces: tuple[InterfaceStats, ...] = ()
        self._buffer = ffi.new("uint8_t[]", DRAIN_BYTES_MAX)
        self._batch = ffi.new("struct sonde_batch *")
        self._events = ffi.new("struct sonde_event[]", EVENTS_MAX)
        self._stats = ffi.new("struct sonde_stats *")
        self._interfaces = ffi.new("struct sonde_interface_stats[]", lib.SONDE_INTERFACES_MAX)
        self.event_fd: int = lib.sonde_session_event_fd(handle)

    @classmethod
    async def open(cls, settings: CaptureSettings, prepare: Prepare | None = None) -> Capture:
        """Opens and starts a session, which owns settings.file_fd. `prepare` runs between open
        and start with the handle, on a worker thread; if it raises, nothing starts."""
        opening = asyncio.ensure_future(asyncio.to_thread(_open, settings, prepare))
        try:
            handle = await asyncio.shield(opening)
        except asyncio.CancelledError:
            await asyncio.wait({opening})
            if opening.exception() is None:
                await asyncio.to_thread(lib.sonde_session_close, opening.result())
            raise
        return cls(handle)

    async def _call(self, function: Callable[[], _T]) -> _T:
        """Runs it on a worker thread. If the caller is cancelled, `close` waits for the call."""
        self._enter()
        call = asyncio.ensure_future(asyncio.to_thread(function))
        call.add_done_callback(self._leave)
        return await asyncio.shield(call)

    @contextlib.contextmanager
    def held(self) -> Iterator[Any]:
        """Lends the handle for several calls; `close` waits for its release."""
        self._enter()
        try:
            yield self._handle
        finally:
            self._exit()

    async def lend(self, function: Callable[[Any], _T]) -> _T:
        """Runs it on a worker thread with the handle, which stays open until it returns."""
        return await self._call(lambda: function(self._handle))

    def look(self, function: Callable[[Any], _T], otherwise: _T) -> _T:
        """Runs a non-blocking function here. Returns `otherwise` if the session is closed."""
        return otherwise if self._closed else function(self._handle)

    def _enter(self) -> None:
        if self._closed:
            raise NoSession
        self._inside += 1
        self._outside.clear()

    def _exit(self) -> None:
        self._inside -= 1
        if self._inside == 0:
            self._outside.set()

    def _leave(self, call: asyncio.Future[Any]) -> None:
        self._exit()
        if not call.cancelled():
            call.exception()  # seen here too, for a caller that has gone

    async def stop(self) -> None:
        """Blocks up to a second; the records stay to be drained."""

        def stop() -> None:
            error = ffi.new("struct sonde_error *")
            check(lib.sonde_session_stop(self._handle, error), error)

        await self._call(stop)

    async def end_stream(self) -> None:
        """No record is kept for `drain` any more."""

        def end() -> None:
            error = ffi.new("struct sonde_error *")
            check(lib.sonde_session_stream_set(self._handle, 0, error), error)

        await self._call(end)

    async def discard(self) -> Batch:
        """Drops records without rendering them. Returns their sums; no records: none are left."""

        def discard() -> Batch:
            batch = ffi.new("struct sonde_batch *")
            lib.sonde_session_discard(self._handle, DISCARD_RECORDS_MAX, batch)
            return _batch(b"", batch)

        return await self._call(discard)

    async def close(self) -> None:
        if self._closed:
            return
        self._last, self._last_interfaces = self.stats(), self.interface_stats()
        self._closed = True
        self.closing.set()
        await self._outside.wait()
        handle, self._handle = self._handle, ffi.NULL
        await asyncio.shield(asyncio.to_thread(lib.sonde_session_close, handle))

    async def meter(self, *, on: bool, idle_timeout_sec: int, active_timeout_sec: int) -> None:
        def meter() -> None:
            error = ffi.new("struct sonde_error *")
            status = lib.sonde_session_metering_set(
                self._handle,
                int(on),
                idle_timeout_sec * NS_PER_SEC,
                active_timeout_sec * NS_PER_SEC,
                error,
            )
            check(status, error)

        await self._call(meter)

    async def set_interfaces(self, names: Sequence[str]) -> None:
        """Captures from these interfaces from now on. Raises InvalidInterface or another error of
        `open` if one cannot be captured, and then changes nothing."""

        def change() -> None:
            error = ffi.new("struct sonde_error *")
            wanted = _name_array(names)
            status = lib.sonde_session_interfaces_set(self._handle, wanted.array, len(names), error)
            if status == lib.SONDE_SYSTEM:
                raise BackendUnavailable(text_of(error.detail))
            check(status, error)

        await self._call(change)

    async def flows(
        self, query: FlowQuery, after: str | None, *, encoding: int, bytes_max: int
    ) -> FlowPage:
        """Returns the rows that fit into bytes_max. Raises InvalidRequest for a bad cursor."""
        return await self._call(
            lambda: self._listings.page(
                self._handle, query, after, encoding=encoding, bytes_max=bytes_max
            )
        )

    # ---- non-blocking: for the event loop ----------------------------------------------------

    def stats(self) -> Stats:
        if self._closed:
            return self._last
        lib.sonde_session_stats(self._handle, self._stats)
        return _snapshot(self._stats)

    def interface_stats(self) -> tuple[InterfaceStats, ...]:
        """Returns every interface that the session has had, in the order of slots."""
        if self._closed:
            return self._last_interfaces
        count = lib.sonde_session_interface_stats(
            self._handle, self._interfaces, lib.SONDE_INTERFACES_MAX
        )
        return tuple(
            InterfaceStats(**members(InterfaceStats, one))
            for one in (self._interfaces[index] for index in range(count))
        )

    def events(self) -> list[CoreEvent]:
        """Returns the queued events, in order."""
        if self._closed:
            return []
        count = lib.sonde_session_events(self._handle, self._events, EVENTS_MAX)
        taken = [self._events[index] for index in range(count)]
        return [CoreEvent(e.kind, e.time_ns, e.value, text_of(e.detail)) for e in taken]

    def select(self, names: Iterable[str]) -> None:
        """Sets the fields that `drain` renders; all fields without names."""
        if not self._closed:
            lib.sonde_session_stream_fields_set(self._handle, field_bits(names))

    def drain(self, *, encoding: int, bytes_max: int) -> Batch | None:
        """Returns the next rendered batch, valid until the next call, or None."""
        if self._closed:
            return None
        capacity = max(min(bytes_max, DRAIN_BYTES_MAX), DRAIN_BYTES_MIN)
        status = lib.sonde_session_drain(
            self._handle, encoding, DRAIN_RECORDS_MAX, self._buffer, capacity, self._batch
        )
        check_status(status)
        if self._batch.records == 0:
            return None
        return _batch(memoryview(ffi.buffer(self._buffer, self._batch.bytes)), self._batch)


class _Names(NamedTuple):
    """An array of C strings, and the strings that it points to."""

    array: Any
    strings: list[Any]


def _name_array(names: Sequence[str]) -> _Names:
    strings = [ffi.new("char[]", string_of(name, InvalidInterface)) for name in names]
    return _Names(ffi.new("const char *[]", strings), strings)


def _open(settings: CaptureSettings, prepare: Prepare | None) -> Any:
    """Opens and starts a session; releases everything on failure."""
    config = ffi.new("struct sonde_session_config *")
    strings = [
        ffi.new("char[]", str(PLUGIN_DIR).encode()),
        ffi.new("char[]", string_of(settings.backend, InvalidBackend)),
        ffi.new("char[]", string_of(settings.filter, InvalidFilter)),
        ffi.new("char[]", settings.buffer_dir.encode()),
        ffi.new("char[]", settings.host.encode()),
    ]
    interfaces = _name_array(settings.interfaces or (settings.interface,))
    config.plugin_dir, config.backend = strings[:2]
    config.interfaces, config.interface_count = interfaces.array, len(interfaces.strings)
    config.filter = strings[2] if settings.filter else ffi.NULL
    for name in _SAME_NAME:
        setattr(config, name, getattr(settings, name))
    config.labels = sum(_LABEL_PROTOCOLS[name] for name in set(settings.labels))
    config.tunnel_mode = (
        lib.SONDE_TUNNEL_MODE_INNER if settings.tunnel_inner else lib.SONDE_TUNNEL_MODE_OUTER
    )
    config.vxlan_ports[0 : len(settings.vxlan_ports)] = settings.vxlan_ports
    config.idle_timeout_ns = settings.idle_timeout_sec * NS_PER_SEC
    config.active_timeout_ns = settings.active_timeout_sec * NS_PER_SEC
    config.host = strings[4] if settings.host else ffi.NULL
    config.buffer_dir = strings[3] if settings.buffer_dir else ffi.NULL

    session = ffi.new("struct sonde_session **")
    error = ffi.new("struct sonde_error *")
    status = lib.sonde_session_open(config, session, error)
    if status >= 0:
        try:
            if prepare is not None:
                prepare(session[0])
        except BaseException:
            lib.sonde_session_close(session[0])
            raise
        status = lib.sonde_session_start(session[0], error)
        if status < 0:
            lib.sonde_session_close(session[0])
    if status == lib.SONDE_SYSTEM:  # the source cannot be opened
        raise BackendUnavailable(text_of(error.detail))
    check(status, error)
    return session[0]


def _snapshot(stats: Any) -> Stats:
    return Stats(
        **members(Stats, stats),
        file_state=_FILE_CUT[stats.file_state],
        undecoded=tuple(_undecoded(one) for one in stats.undecoded if one.packets),
        non_flow=tuple(zip(NON_FLOW_NAMES, stats.non_flow, strict=False)),
        records_by_reason=tuple(zip(END_REASONS, stats.records_by_reason, strict=True))[1:],
    )


def _undecoded(one: Any) -> Undecoded:
    name = lib.sonde_linktype_name(one.linktype)
    description = lib.sonde_linktype_description(one.linktype)
    return Undecoded(
        one.linktype,
        "" if name == ffi.NULL else text_of(name),
        "" if description == ffi.NULL else text_of(description),
        one.packets,
    )


def _batch(data: bytes | memoryview, batch: Any) -> Batch:
    return Batch(data, batch.records, batch.packets, batch.first_ns, batch.last_ns)
