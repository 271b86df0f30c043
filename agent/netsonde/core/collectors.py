"""The NetFlow and IPFIX collectors of a session: add, remove, flush, statistics.

Wraps the part of native/include/export.h that takes a session.
"""

from __future__ import annotations

from typing import Any

from ..config.addresses import endpoint
from ..errors import InvalidCollector, NetflowExportUnavailable, RequestError
from .library import CoreError, check_status, ffi, lib, members, text_of
from .values import CollectorSettings, CollectorStats

COLLECTORS_MAX: int = lib.SONDE_COLLECTORS_MAX


def add_collector(handle: Any, settings: CollectorSettings) -> None:
    """Adds a collector. It gets the records from the next one on."""
    config = ffi.new("struct sonde_collector_config *")
    address = ffi.new("char[]", settings.address.encode())
    config.address = address
    config.port = settings.port
    config.version = settings.version
    config.profile = lib.SONDE_PROFILE_FULL if settings.full else lib.SONDE_PROFILE_COMPAT
    config.biflow = int(settings.biflow)
    config.message_bytes_max = settings.message_bytes_max
    config.enterprise = settings.enterprise
    config.pace_bytes_per_sec = settings.pace_bytes_per_sec
    error = ffi.new("struct sonde_error *")
    status = lib.sonde_session_collector_add(handle, config, error)
    if status < 0:
        raise _refusal(status, text_of(error.detail), settings)


def _refusal(status: int, detail: str, settings: CollectorSettings) -> RequestError | CoreError:
    if status != lib.SONDE_INVALID:
        return CoreError(status, detail)
    if settings.standing:  # a fault of the configuration, not of the request
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
    """Returns the collectors' counters in the order of adding. Waits for the export thread, which
    takes less than a millisecond."""
    stats = ffi.new("struct sonde_collector_stats[]", COLLECTORS_MAX)
    count = lib.sonde_session_collectors(handle, stats, COLLECTORS_MAX)
    return [CollectorStats(**members(CollectorStats, stats[index])) for index in range(count)]


def flush_export(handle: Any, timeout_sec: float) -> bool:
    """Waits until every record is sent, or counted as lost. Returns False on timeout."""
    error = ffi.new("struct sonde_error *")
    status = lib.sonde_session_export_flush(handle, int(timeout_sec * 1000), error)
    if status == lib.SONDE_STATE:
        return False
    check_status(status)
    return True
