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
from ..wire.requests import MeterRequest, StartRequest
from .collectors import first_collectors, least_interval_sec

FLOW_TIMEOUT_SEC = 300
ACTIVE_TIMEOUT_SEC = 60


@dataclass(frozen=True, slots=True)
class CapturePlan:
    """settings: without the descriptor of a replay file. can_seal: the backend can, and packets
    are recorded."""

    request: StartRequest
    settings: CaptureSettings
    collectors: tuple[CollectorSettings, ...]
    metering: MeteringState
    encoding: Encoding
    record_fields: tuple[str, ...]
    can_meter: bool
    can_export: bool
    can_seal: bool


def plan(request: StartRequest, config: Config, report: BackendReport) -> CapturePlan:
    """Raises FlowMeteringUnavailable, NetflowExportUnavailable or EncryptionUnavailable if the
    request needs a feature that the backend lacks."""
    _require_features(request, report)
    can_export = "netflow_export" in report.features
    collectors = first_collectors(request.export, config.export) if can_export else ()
    asked = request.metering or MeterRequest(enable=False)
    metering = MeteringState(
        enabled=asked.enable or bool(collectors),
        flow_timeout_sec=asked.flow_timeout_sec or FLOW_TIMEOUT_SEC,
        active_timeout_sec=asked.active_timeout_sec or ACTIVE_TIMEOUT_SEC,
    )
    sealed = request.encryption is not None
    recorded = request.record or (request.encryption is not None and request.encryption.enable)
    return CapturePlan(
        request=request,
        settings=_settings(request, config, metering, least_interval_sec(collectors), recorded),
        collectors=collectors,
        metering=metering,
        encoding=config.flows.encoding,
        record_fields=tuple(config.flows.fields),
        can_meter="flow_metering" in report.features,
        can_export=can_export,
        can_seal=(request.record or sealed) and "buffer_encryption" in report.features,
    )


def _require_features(request: StartRequest, report: BackendReport) -> None:
    wants_metering = request.metering is not None and request.metering.enable
    if wants_metering and "flow_metering" not in report.features:
        raise FlowMeteringUnavailable(field="$.metering")
    wants_export = request.export is not None and request.export.enable
    if wants_export and "netflow_export" not in report.features:
        raise NetflowExportUnavailable(field="$.export")
    wants_sealing = request.encryption is not None and request.encryption.enable
    if wants_sealing and "buffer_encryption" not in report.features:
        raise EncryptionUnavailable(field="$.encryption")


def _settings(
    request: StartRequest,
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
        replay_speed=request.replay_speed,
        metering=metering.enabled,
        idle_timeout_sec=metering.flow_timeout_sec,
        active_timeout_sec=export_interval_sec or metering.active_timeout_sec,
        buffer_bytes=request.buffer_size_mb << 20 if recorded else 0,
        buffer_dir=config.buffer.dir if recorded else "",
        buffer_disk_bytes=config.buffer.disk_mb << 20,
        host=config.host,
    )
