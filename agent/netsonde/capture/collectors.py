"""The NetFlow and IPFIX collectors of a session.

They come from the configuration, from `start` and from `netflow.export.enable`. Address and
port identify a collector. While a session exports, its active timeout is the shortest export
interval. Records lost on the way to a collector raise one alarm per metrics interval.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

from ..config.addresses import collector_address, endpoint
from ..config.sections import ExportSection
from ..core.capture import Capture
from ..core.collectors import add_collector, flush_export, read_collectors, remove_collector
from ..core.values import CollectorSettings, CollectorStats
from ..errors import InvalidCollector
from ..wire.events import EventLog
from ..wire.quantity import counted
from ..wire.replies import CollectorState, ExportState, LostRecords
from ..wire.requests import ExportOptions, Version

MBPS_BYTES_PER_SEC = 125_000
REMOVAL_FLUSH_SEC = 1.0  # for messages already encoded for a collector that is removed
# Fields of CollectorState that are copied from CollectorStats as they are.
_SAME_NAME = (
    *("connected", "messages_sent", "bytes_sent", "templates_sent", "records_sent"),
    *("packets_sent", "octets_sent", "records_skipped_ipv6", "packets_lost", "octets_lost"),
    *("refusals", "times_clamped", "last_error"),
)
LOSS_CAUSES = ("refused", "no_room", "error")


def read_address(request: ExportOptions, *, field: str = "$.collector_ip") -> str:
    """Returns the collector's canonical address. Raises InvalidCollector."""
    try:
        return collector_address(request.collector_ip)
    except ValueError as error:
        raise InvalidCollector(f"{error}.", field=field) from None


def requested_collector(request: ExportOptions, section: ExportSection) -> CollectorSettings:
    return _settings(
        read_address(request),
        request.collector_port,
        request.version,
        request.export_interval_sec,
        section,
        standing=False,
    )


def first_collectors(
    request: ExportOptions | None, section: ExportSection
) -> tuple[CollectorSettings, ...]:
    """Returns the configured collectors plus the requested one. A request with `enable: false`
    leaves out the configured collector of that address."""
    chosen = {}
    for one in section.collectors:
        address = collector_address(one.ip)  # valid: checked when loaded
        standing = _settings(
            address, one.port, one.version, one.interval_sec, section, standing=True
        )
        chosen[standing.key] = standing
    if request is not None:
        asked = requested_collector(request, section)
        chosen.pop(asked.key, None)
        if request.enable:
            chosen[asked.key] = asked
    return tuple(chosen.values())


def _settings(
    address: str,
    port: int,
    version: int,
    interval_sec: int,
    section: ExportSection,
    *,
    standing: bool,
) -> CollectorSettings:
    return CollectorSettings(
        address=address,
        port=port,
        version=version,
        interval_sec=interval_sec,
        standing=standing,
        full=section.profile == "full",
        biflow=section.biflow,
        message_bytes_max=section.max_message_bytes,
        enterprise=section.enterprise_number,
        pace_bytes_per_sec=section.pace_mbps * MBPS_BYTES_PER_SEC,
    )


def least_interval_sec(collectors: Sequence[CollectorSettings]) -> int | None:
    return min((one.interval_sec for one in collectors), default=None)


def adding(collectors: Sequence[CollectorSettings]) -> Callable[[Any], None]:
    """Returns the function that adds them before the session's first packet."""

    def add(handle: Any) -> None:
        for one in collectors:
            add_collector(handle, one)

    return add


class Exporting:
    """The collectors of one session. The caller serialises changes."""

    def __init__(
        self,
        capture: Capture,
        collectors: Sequence[CollectorSettings],
        events: EventLog,
        *,
        session_id: str,
    ) -> None:
        self._capture = capture
        self._events = events
        self._session_id = session_id
        self._settings = {one.key: one for one in collectors}
        self._stats: list[CollectorStats] = []
        self._reported: dict[tuple[str, int], CollectorStats] = {}  # at the last report
        self._gone_sent = 0  # by removed collectors
        self._gone_lost = 0

    @property
    def interval_sec(self) -> int | None:
        """The shortest export interval; None without a collector."""
        return least_interval_sec(tuple(self._settings.values()))

    def has(self, key: tuple[str, int]) -> bool:
        return key in self._settings

    async def add(self, collector: CollectorSettings) -> None:
        """Adds a collector, or changes the one with that address and port."""
        await self._capture.lend(lambda handle: add_collector(handle, collector))
        self._settings[collector.key] = collector

    async def remove(self, address: str, port: int) -> None:
        if not self.has((address, port)):
            raise InvalidCollector(f"The session does not export to {endpoint(address, port)}.")
        await self.flush(REMOVAL_FLUSH_SEC)
        self.report_losses()
        for one in self.stats():
            if (one.address, one.port) == (address, port):
                self._gone_sent += one.records_sent
                self._gone_lost += one.records_lost
        await self._capture.lend(lambda handle: remove_collector(handle, address, port))
        del self._settings[address, port]
        self._reported.pop((address, port), None)

    async def replace(self, collectors: Sequence[CollectorSettings]) -> None:
        """Removes all others, and adds or changes these. Equal ones are left as they are."""
        wanted = {one.key: one for one in collectors}
        for key in [key for key in self._settings if key not in wanted]:
            await self.remove(*key)
        for key, one in wanted.items():
            if self._settings.get(key) != one:
                await self.add(one)

    async def flush(self, timeout_sec: float) -> bool:
        """Waits until every record is sent or counted as lost; False on timeout."""
        return await self._capture.lend(lambda handle: flush_export(handle, timeout_sec))

    def stats(self) -> list[CollectorStats]:
        """Returns counters in the order of adding; the final ones once the capture is closed."""
        if self._settings:
            self._stats = self._capture.look(read_collectors, self._stats)
        else:
            self._stats = []
        return self._stats

    def sums(self, stats: Sequence[CollectorStats]) -> dict[str, int]:
        """Returns totals over the session's life, removed collectors included."""
        return {
            "export_records_sent": self._gone_sent + sum(one.records_sent for one in stats),
            "export_records_lost": self._gone_lost + sum(one.records_lost for one in stats),
        }

    def state(self) -> ExportState | None:
        interval_sec = self.interval_sec
        if interval_sec is None:
            return None
        newest = list(self._settings.values())[-1]
        return ExportState(
            enabled=True,
            export_interval_sec=interval_sec,
            profile="full" if newest.full else "compat",
            biflow=newest.biflow,
            max_message_bytes=newest.message_bytes_max,
            collectors=[
                _collector_state(self._settings[one.address, one.port], one) for one in self.stats()
            ],
        )

    def report_losses(self) -> None:
        """Raises an alarm if records were lost since the last report."""
        lost: list[CollectorStats] = []
        for one in self.stats():
            key = one.address, one.port
            before = self._reported.get(key)
            if one.records_lost > (before.records_lost if before else 0):
                lost.append(one)
            self._reported[key] = one
        if lost:
            self._events.emit(
                "alarm",
                "export_records_lost",
                "; ".join(map(_loss_words, lost)),
                session_id=self._session_id,
                data={"collectors": [_loss_data(one) for one in lost]},
            )

    def report_unfinished(self, waited_sec: float) -> None:
        self._events.emit(
            "alarm",
            "export_unfinished",
            f"some records were not sent within {waited_sec:.0f} s of the session's end",
            session_id=self._session_id,
        )


def _loss_words(one: CollectorStats) -> str:
    reason = f": {one.last_error}" if one.last_error else ""
    lost = counted(one.records_lost, "record")
    return f"{endpoint(one.address, one.port)} missed {lost} so far{reason}"


def _loss_data(one: CollectorStats) -> dict[str, Any]:
    return {
        "collector_ip": one.address,
        "collector_port": one.port,
        "records_lost": {cause: getattr(one, f"records_lost_{cause}") for cause in LOSS_CAUSES},
        "last_error": one.last_error,
    }


def _collector_state(settings: CollectorSettings, stats: CollectorStats) -> CollectorState:
    return CollectorState(
        collector_ip=stats.address,
        collector_port=stats.port,
        version=cast(Version, stats.version),
        export_interval_sec=settings.interval_sec,
        standing=settings.standing,
        **{name: getattr(stats, name) for name in _SAME_NAME},
        records_lost=LostRecords(
            refused=stats.records_lost_refused,
            no_room=stats.records_lost_no_room,
            error=stats.records_lost_error,
        ),
    )
