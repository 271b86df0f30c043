"""The plan of a start request, made before anything is opened.

`plan` is pure: the same request, configuration and backend report give the same plan, or the
same 503. checks.py has verified the request before; sessions.py opens the plan after.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..config.sections import Config
from ..core.values import BackendReport, CaptureSettings, CollectorSettings
from ..errors import EncryptionUnavailable, FlowMeteringUnavailable, NetflowExportUnavailable
from ..sinks.composer import Encoding
from ..wire.replies import MeteringState
from ..wire.requests import CaptureOptions, MeterOptions
from .collectors import first_collectors, least_interval_sec

FLOW_TIMEOUT_SEC = 300
LABEL_SNAPLEN_MIN = 256  # a shorter snaplen cuts the names
ACTIVE_TIMEOUT_SEC = 60


@dataclass(frozen=True, slots=True)
class Features:
    """The features of a backend."""

    can_meter: bool
    can_export: bool
    can_seal: bool


@dataclass(frozen=True, slots=True)
class CapturePlan:
    """settings: without the descriptor of a replay file. can_seal: the backend can, and packets
    are recorded."""

    request: CaptureOptions
    settings: CaptureSettings
    collectors: tuple[CollectorSettings, ...]
    metering: MeteringState
    encoding: Encoding
    record_fields: tuple[str, ...]
    can_meter: bool
    can_export: bool
    can_seal: bool


def plan(request: CaptureOptions, config: Config, report: BackendReport) -> CapturePlan:
    """Raises FlowMeteringUnavailable, NetflowExportUnavailable or EncryptionUnavailable if the
    request needs a feature that the backend lacks."""
    features = Features(
        can_meter="flow_metering" in report.features,
        can_export="netflow_export" in report.features,
        can_seal="buffer_encryption" in report.features,
    )
    check_features(request, features)
    collectors, metering = first_streams(request, config, can_export=features.can_export)
    sealed = request.encryption is not None
    recorded = request.record or (request.encryption is not None and request.encryption.enable)
    return CapturePlan(
        request=request,
        settings=_settings(request, config, metering, least_interval_sec(collectors), recorded),
        collectors=collectors,
        metering=metering,
        encoding=config.flows.encoding,
        record_fields=tuple(config.flows.fields),
        can_meter=features.can_meter,
        can_export=features.can_export,
        can_seal=(request.record or sealed) and features.can_seal,
    )


def first_streams(
    request: CaptureOptions, config: Config, *, can_export: bool
) -> tuple[tuple[CollectorSettings, ...], MeteringState]:
    """Returns the collectors and the metering of a request. A collector turns metering on."""
    collectors = first_collectors(request.export, config.export) if can_export else ()
    asked = request.metering or MeterOptions(enable=False)
    metering = MeteringState(
        enabled=asked.enable or bool(collectors),
        flow_timeout_sec=asked.flow_timeout_sec or FLOW_TIMEOUT_SEC,
        active_timeout_sec=asked.active_timeout_sec or ACTIVE_TIMEOUT_SEC,
    )
    return collectors, metering


def check_features(request: CaptureOptions, features: Features | CapturePlan) -> None:
    """Raises FlowMeteringUnavailable, NetflowExportUnavailable or EncryptionUnavailable."""
    if request.metering is not None and request.metering.enable and not features.can_meter:
        raise FlowMeteringUnavailable(field="$.metering")
    if request.export is not None and request.export.enable and not features.can_export:
        raise NetflowExportUnavailable(field="$.export")
    if request.encryption is not None and request.encryption.enable and not features.can_seal:
        raise EncryptionUnavailable(field="$.encryption")


def _settings(
    request: CaptureOptions,
    config: Config,
    metering: MeteringState,
    export_interval_sec: int | None,
    recorded: bool,
) -> CaptureSettings:
    """export_interval_sec: the active timeout while the session exports; None without a
    collector."""
    return CaptureSettings(
        backend=request.backend,
        interface=request.interface,
        filter=request.filter,
        file_fd=-1,
        workers=request.workers,
        snaplen=request.snaplen,
        ring_bytes=config.capture.ring_mb << 20,
        flow_table_size=config.flows.flow_table_size,
        record_ring_size=config.flows.record_ring_size,
        promiscuous=request.promiscuous,
        dedicated=request.dedicated,
        tunnel_inner=config.flows.tunnel == "inner",
        vxlan_ports=tuple(config.flows.vxlan_ports),
        exclude_own=config.capture.own_traffic == "exclude",
        labels=tuple(config.flows.labels) if request.snaplen >= LABEL_SNAPLEN_MIN else (),
        label_bytes=(config.flows.labels_mb << 20) * request.workers,
        owners=config.flows.owners == "auto",
        quic_per_second=config.flows.quic_per_second,
        replay_speed=request.replay_speed,
        metering=metering.enabled,
        idle_timeout_sec=metering.flow_timeout_sec,
        active_timeout_sec=export_interval_sec or metering.active_timeout_sec,
        buffer_bytes=request.buffer_size_mb << 20 if recorded else 0,
        buffer_dir=config.buffer.dir if recorded else "",
        buffer_disk_bytes=config.buffer.disk_mb << 20,
        host=config.host,
    )
