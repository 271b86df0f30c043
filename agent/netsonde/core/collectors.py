"""The NetFlow and IPFIX collectors of a session: add, remove, flush, statistics.

Wraps the part of native/include/export.h that takes a session.
"""

from __future__ import annotations

from typing import Any

from ..config.addresses import endpoint
from ..errors import InvalidCollector, NetflowExportUnavailable, RequestError
from .library import CoreError, check_status, ffi, lib, text_of
from .values import CollectorSettings, CollectorStats

COLLECTORS_MAX: int = lib.SONDE_COLLECTORS_MAX
_NUMBERS = tuple(
    name for name, field in CollectorStats.__dataclass_fields__.items() if field.type == "int"
)


def add_collector(handle: Any, settings: CollectorSettings) -> None:
    """Records reach it from the next one on."""
    config = ffi.new("struct sonde_collector_config *")
    address = ffi.new("char[]", settings.address.encode())
    config.address = address
    config.port = settings.port
    config.version = settings.version
    config.profile = lib.SONDE_PROFILE_FULL if settings.full else lib.SONDE_PROFILE_COMPAT
    config.biflow = int(settings.biflow)
    config.message_bytes_max = settings.message_bytes_max
    config.pace_bytes_per_sec = settings.pace_bytes_per_sec
    error = ffi.new("struct sonde_error *")
    status = lib.sonde_session_collector_add(handle, config, error)
    if status < 0:
        raise _refusal(status, text_of(error.detail), settings)


def _refusal(status: int, detail: str, settings: CollectorSettings) -> RequestError | CoreError:
    if status != lib.SONDE_INVALID:
        return CoreError(status, detail)
    if settings.standing:  # the request is not to blame
        where = endpoint(settings.address, settings.port)
        return NetflowExportUnavailable(f"[export] collectors: {where}: {detail}")
    return InvalidCollector(f"{detail}.")


def remove_collector(handle: Any, address: str, port: int) -> None:
    error = ffi.new("struct sonde_error *")
    status = lib.sonde_session_collector_remove(handle, address.encode(), port, error)
    if status == lib.SONDE_INVALID:
        raise InvalidCollector(f"{text_of(error.detail)}.")
    check_status(status)


def read_collectors(handle: Any) -> list[CollectorStats]:
    """In the order of adding. Takes a turn of the export thread, well below a millisecond
    as a rule."""
    stats = ffi.new("struct sonde_collector_stats[]", COLLECTORS_MAX)
    count = lib.sonde_session_collectors(handle, stats, COLLECTORS_MAX)
    return [_snapshot(stats[index]) for index in range(count)]


def _snapshot(stats: Any) -> CollectorStats:
    return CollectorStats(
        address=text_of(stats.address),
        connected=bool(stats.connected),
        last_error=text_of(stats.last_error),
        **{name: getattr(stats, name) for name in _NUMBERS},
    )


def flush_export(handle: Any, timeout_sec: float) -> bool:
    """Waits until every record made so far was sent or lost, and counted; false if the time
    was too short for it."""
    error = ffi.new("struct sonde_error *")
    status = lib.sonde_session_export_flush(handle, int(timeout_sec * 1000), error)
    if status == lib.SONDE_STATE:
        return False
    check_status(status)
    return True
