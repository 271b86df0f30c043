"""The listing of active flows: pages of flows, and sums over them.

A reply may be too small for the rows that a request wants. The rows are then kept for a while, so
that the pages of one request show one moment: a flow that ends meanwhile stays, and none comes
twice. A later page continues after the last row's place in the order. A flow only moves up in the
order, so it does not come twice there either.
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
import secrets
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass, replace
from typing import Any

import msgspec
from msgspec import Raw

from ..errors import InvalidRequest
from ..wire.protocols import protocol_name
from .library import check, check_status, ffi, lib
from .values import FlowMatch, FlowPage, FlowQuery, OwnerMatch

LISTINGS_MAX = 4
LISTING_SEC = 60.0

SORTS: dict[str, int] = {
    "bytes": lib.SONDE_FLOW_SORT_BYTES,
    "packets": lib.SONDE_FLOW_SORT_PACKETS,
    "recent": lib.SONDE_FLOW_SORT_RECENT,
}
_BY: dict[str, int] = {
    "source_ip": lib.SONDE_FLOW_BY_SOURCE_IP,
    "dest_ip": lib.SONDE_FLOW_BY_DEST_IP,
    "source_port": lib.SONDE_FLOW_BY_SOURCE_PORT,
    "dest_port": lib.SONDE_FLOW_BY_DEST_PORT,
    "protocol": lib.SONDE_FLOW_BY_PROTOCOL,
}


_HIDDEN: dict[str, int] = {"name": lib.SONDE_HIDE_NAME, "process": lib.SONDE_HIDE_PROCESS}


class _Cursor(msgspec.Struct, array_like=True):
    """The place after a row. listing: its rows may still be kept. The rest orders the row."""

    listing: int
    offset: int
    sort: str
    flow_id: int = 0
    flow_start_ns: int = 0
    last_ns: int = 0
    packets: int = 0
    bytes: int = 0


@dataclass(frozen=True, slots=True)
class _Listing:
    """rows: a C array of records, or the rendered sums. more: rows that match beyond them."""

    query: FlowQuery
    rows: Any
    count: int
    matching: int
    active: int
    born_sec: float


class FlowListings:
    """The listings of one session. Its methods may run on several threads at once."""

    def __init__(self) -> None:
        self._kept: OrderedDict[int, _Listing] = OrderedDict()
        self._lock = threading.Lock()

    def page(
        self, handle: Any, query: FlowQuery, after: str | None, *, encoding: int, bytes_max: int
    ) -> FlowPage:
        """Blocks for one turn of the capture loop. Raises InvalidRequest for a bad cursor."""
        cursor = _read_cursor(after, query.sort) if after is not None else None
        key, offset, listing = 0, 0, None
        if cursor is not None:
            key, offset, listing = cursor.listing, cursor.offset, self._find(cursor, query)
        if listing is None:
            key = secrets.randbits(63)
            if query.by:
                listing = _sum(handle, replace(query, limit=10_000))
            else:
                listing, offset = _list(handle, query, cursor), 0
        left = max(min(listing.count - offset, query.limit), 0)
        render = self._render_sums if query.by else self._render_flows
        data, rows = render(handle, listing, offset, left, encoding, bytes_max)
        offset += rows
        following = ""
        if offset < listing.matching and rows:
            following = _write_cursor(key, offset, query, listing)
        if offset < listing.count and rows:
            self._keep(key, listing)
        return FlowPage(data, listing.active, offset < listing.matching, following)

    def _find(self, cursor: _Cursor, query: FlowQuery) -> _Listing | None:
        with self._lock:
            for key in [k for k, kept in self._kept.items() if _expired(kept)]:
                del self._kept[key]
            listing = self._kept.get(cursor.listing)
        if listing is None or cursor.offset >= listing.count:
            return None
        same = replace(listing.query, limit=query.limit) == query
        return listing if same else None

    def _keep(self, key: int, listing: _Listing) -> None:
        with self._lock:
            self._kept[key] = listing
            while len(self._kept) > LISTINGS_MAX:
                self._kept.popitem(last=False)

    def _render_flows(
        self, handle: Any, listing: _Listing, offset: int, count: int, encoding: int, bytes_max: int
    ) -> tuple[bytes, int]:
        capacity = min(bytes_max, (count + 1) * lib.SONDE_RENDERED_RECORD_MAX)
        buffer = ffi.new("uint8_t[]", capacity)
        batch = ffi.new("struct sonde_batch *")
        hidden = sum(_HIDDEN[name] for name in listing.query.hidden)
        check_status(
            lib.sonde_session_records_render(
                handle, listing.rows + offset, count, encoding, hidden, buffer, capacity, batch
            )
        )
        return bytes(ffi.buffer(buffer, batch.bytes)), batch.records

    def _render_sums(
        self, handle: Any, listing: _Listing, offset: int, count: int, encoding: int, bytes_max: int
    ) -> tuple[bytes, int]:
        wire = msgspec.json if encoding == lib.SONDE_ENCODING_JSON else msgspec.msgpack
        rows: list[Raw] = []
        room = bytes_max - 8  # brackets, or the array's head
        for row in listing.rows[offset : offset + count]:
            encoded = wire.encode(row)
            room -= len(encoded) + 1
            if room < 0:
                break
            rows.append(Raw(encoded))
        return wire.encode(rows), len(rows)


def _expired(listing: _Listing) -> bool:
    return time.monotonic() - listing.born_sec > LISTING_SEC


def _list(handle: Any, query: FlowQuery, cursor: _Cursor | None) -> _Listing:
    (made, _kept), last = _query(query), ffi.new("struct sonde_record *")
    if cursor is not None:
        last.flow_id, last.flow_start_ns = cursor.flow_id, cursor.flow_start_ns
        last.last_ns, last.packets[0], last.bytes[0] = cursor.last_ns, cursor.packets, cursor.bytes
        made.after = last
    records = ffi.new("struct sonde_record[]", query.limit)
    matching, active = ffi.new("uint64_t *"), ffi.new("uint64_t *")
    error = ffi.new("struct sonde_error *")
    count = check(lib.sonde_session_list(handle, made, records, matching, active, error), error)
    return _Listing(query, records, count, matching[0], active[0], time.monotonic())


def _sum(handle: Any, query: FlowQuery) -> _Listing:
    made, _kept = _query(query)
    sums = ffi.new("struct sonde_flow_sum[]", query.limit)
    distinct, left_out, active = (ffi.new("uint64_t *") for _ in range(3))
    error = ffi.new("struct sonde_error *")
    by = sum(_BY[name] for name in set(query.by))
    count = check(
        lib.sonde_session_sum(handle, made, by, sums, distinct, left_out, active, error), error
    )
    rows = [_row(sums[index], query.by) for index in range(count)]
    matching = distinct[0] + left_out[0]
    return _Listing(query, rows, count, matching, active[0], time.monotonic())


def _row(made: Any, by: tuple[str, ...]) -> dict[str, str | int]:
    row: dict[str, str | int] = {}
    for name in by:
        if name == "protocol":
            row[name] = protocol_name(made.protocol)
        elif name.endswith("_ip"):
            row[name] = _address(getattr(made, name), made.ip_version)
        else:
            row[name] = int(getattr(made, name))
    return row | {"flows": made.flows, "packets": made.packets, "bytes": made.bytes}


def _address(ip: Any, version: int) -> str:
    return str(ipaddress.ip_address(bytes(ffi.buffer(ip, 4 if version == 4 else 16))))


def _query(query: FlowQuery) -> tuple[Any, list[Any]]:
    """Returns a query, and the objects that must live as long."""
    made = ffi.new("struct sonde_flow_query *")
    made.limit = query.limit
    made.sort = SORTS[query.sort]
    made.min_packets = query.min_packets
    kept: list[Any] = []
    _fill_match(made.match, query.match, kept)
    if query.excluded is not None:
        made.excludes = 1
        _fill_match(getattr(made, "except"), query.excluded, kept)
    return made, kept


def _fill_match(made: Any, match: FlowMatch, kept: list[Any]) -> None:
    """Adds what `made` points to to `kept`."""
    made.port = -1 if match.port is None else match.port
    made.protocol = -1 if match.protocol is None else match.protocol
    if match.ip is not None:
        made.ip_version = 4 if len(match.ip) == 4 else 6
        made.ip_bits_ignored = match.ip_bits_ignored
        ffi.memmove(made.ip, match.ip, len(match.ip))
    made.name = _text(match.name, kept)
    if match.owner is not None:
        made.owner = owner_match(match.owner, kept)


def owner_match(match: OwnerMatch, kept: list[Any]) -> Any:
    """Returns a struct sonde_owner_match. kept: what has to live as long."""
    made = ffi.new("struct sonde_owner_match *")
    kept.append(made)
    made.pid = -1 if match.pid is None else match.pid
    for name in ("unit", "container", "pod", "process"):
        setattr(made, name, _text(getattr(match, name), kept))
    return made


def _text(text: str | None, kept: list[Any]) -> Any:
    if text is None:
        return ffi.NULL
    kept.append(ffi.new("char[]", text.encode()))
    return kept[-1]


def _write_cursor(key: int, offset: int, query: FlowQuery, listing: _Listing) -> str:
    cursor = _Cursor(key, offset, query.sort)
    if not query.by:
        row = listing.rows[offset - 1]
        cursor.flow_id, cursor.flow_start_ns = row.flow_id, row.flow_start_ns
        cursor.last_ns = row.last_ns
        cursor.packets = row.packets[0] + row.packets[1]
        cursor.bytes = row.bytes[0] + row.bytes[1]
    return base64.urlsafe_b64encode(msgspec.msgpack.encode(cursor)).decode()


def _read_cursor(text: str, sort: str) -> _Cursor:
    try:
        cursor = msgspec.msgpack.decode(
            base64.b64decode(text.encode(), altchars=b"-_", validate=True), type=_Cursor
        )
    except (binascii.Error, UnicodeEncodeError, msgspec.MsgspecError):
        raise InvalidRequest("not a cursor of an earlier reply", field="$.after") from None
    numbers = msgspec.structs.astuple(cursor)
    if not all(0 <= number < 2**64 for number in numbers if isinstance(number, int)):
        raise InvalidRequest("not a cursor of an earlier reply", field="$.after")
    if cursor.sort != sort:
        raise InvalidRequest("the cursor is of a listing with another sort", field="$.after")
    return cursor
