"""The counters of a session, each declared once.

`status`, `metrics` and their stream show all of them under these names, `stop` some. A counter of
the C core also needs a line in native/include/counters.h.
"""

from __future__ import annotations

from dataclasses import dataclass, fields


@dataclass(frozen=True, slots=True)
class CoreCounters:
    """Counters of the C core, named as in struct sonde_stats.

    packets_captured = packets_recorded + packets_active + packets_non_flow + packets_unmetered.
    """

    packets_captured: int = 0
    packets_dropped: int = 0
    bytes_captured: int = 0
    frames_captured: int = 0
    packets_recorded: int = 0
    packets_active: int = 0
    packets_non_flow: int = 0
    packets_unmetered: int = 0
    packets_records_dropped: int = 0
    records: int = 0
    records_dropped: int = 0
    records_waiting: int = 0
    flows_created: int = 0
    timestamps_corrected: int = 0
    timestamps_late: int = 0
    labels_complete: int = 0
    labels_partial: int = 0
    labels_skipped: int = 0
    owners_found: int = 0
    owners_lost: int = 0
    owners_evicted: int = 0
    ring_freezes: int = 0
    chunks_overwritten: int = 0
    packets_overwritten: int = 0
    packets_unrecorded: int = 0
    packets_seal_lost: int = 0
    packets_spill_lost: int = 0
    seal_failures: int = 0
    spill_failures: int = 0


@dataclass(frozen=True, slots=True)
class Counters(CoreCounters):
    """Adds the counters of the agent. All are cumulative since the session's start.

    records = records_sent + records_unsent + records_dropped + records_waiting, except for records
    in flight.
    """

    records_sent: int = 0
    records_unsent: int = 0
    packets_records_unsent: int = 0
    export_records_sent: int = 0
    export_records_lost: int = 0


CORE_COUNTERS = tuple(field.name for field in fields(CoreCounters))
COUNTERS = tuple(field.name for field in fields(Counters))
