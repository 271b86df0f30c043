"""capture.plan.plan: a pure function from request, configuration and backend report."""

from __future__ import annotations

import msgspec
import pytest

from netsonde.capture.plan import plan
from netsonde.config.sections import BufferSection, CaptureSection, Config, FlowsSection
from netsonde.core.values import BackendReport
from netsonde.errors import (
    EncryptionUnavailable,
    FlowMeteringUnavailable,
    NetflowExportUnavailable,
    RequestError,
)
from netsonde.wire.requests import EncryptionRequest, ExportRequest, MeterRequest, StartRequest

FULL = BackendReport(
    name="af_packet",
    description="",
    features=(
        "basic_capture",
        "flow_tracking",
        "flow_metering",
        "netflow_export",
        "buffer_encryption",
    ),
    usable=True,
    reason="",
)
PLAIN = BackendReport(
    name="pcap",
    description="",
    features=("basic_capture", "flow_tracking"),
    usable=True,
    reason="",
)
EXPORT = ExportRequest(collector_ip="127.0.0.1", collector_port=2055, export_interval_sec=7)
SEAL = EncryptionRequest(cipher_suite="AES-256-GCM", key_file="/keys/k1")


def start(**fields: object) -> StartRequest:
    return StartRequest(interface="eth0", backend="af_packet", **fields)  # type: ignore[arg-type]


def test_same_inputs_give_the_same_plan() -> None:
    request = start(metering=MeterRequest(enable=True), export=EXPORT, encryption=SEAL)
    assert plan(request, Config(), FULL) == plan(request, Config(), FULL)


def test_sizes_come_from_request_and_configuration() -> None:
    config = Config(
        capture=CaptureSection(ring_mb=3),
        buffer=BufferSection(dir="/var/lib/n", disk_mb=5),
        flows=FlowsSection(encoding="msgpack", tunnel="inner", fields=["packets"]),
    )
    planned = plan(start(buffer_size_mb=2, workers=4), config, FULL)
    settings = planned.settings
    assert settings.ring_bytes == 3 << 20
    assert settings.buffer_bytes == 2 << 20
    assert (settings.buffer_dir, settings.buffer_disk_bytes) == ("/var/lib/n", 5 << 20)
    assert settings.workers == 4
    assert settings.tunnel_inner
    assert (planned.encoding, planned.record_fields) == ("msgpack", ("packets",))
    assert settings.file_fd == -1


def test_export_turns_metering_on_and_sets_the_active_timeout() -> None:
    planned = plan(start(export=EXPORT), Config(), FULL)
    assert planned.settings.metering
    assert planned.metering.enabled
    assert planned.settings.active_timeout_sec == 7
    assert [one.port for one in planned.collectors] == [2055]


@pytest.mark.parametrize(
    ("record", "encryption", "bytes_kept", "can_seal"),
    [
        (True, None, 256 << 20, True),
        (False, None, 0, False),
        (False, SEAL, 256 << 20, True),
        (False, msgspec.structs.replace(SEAL, enable=False), 0, True),
    ],
)
def test_encryption_implies_recording(
    record: bool, encryption: EncryptionRequest | None, bytes_kept: int, can_seal: bool
) -> None:
    config = Config(buffer=BufferSection(dir="/var/lib/n"))
    planned = plan(start(record=record, encryption=encryption), config, FULL)
    assert planned.settings.buffer_bytes == bytes_kept
    assert planned.settings.buffer_dir == ("/var/lib/n" if bytes_kept else "")
    assert planned.can_seal is can_seal


@pytest.mark.parametrize(
    ("fields", "error", "field"),
    [
        ({"metering": MeterRequest(enable=True)}, FlowMeteringUnavailable, "$.metering"),
        ({"export": EXPORT}, NetflowExportUnavailable, "$.export"),
        ({"encryption": SEAL}, EncryptionUnavailable, "$.encryption"),
    ],
)
def test_missing_backend_feature_is_rejected(
    fields: dict[str, object], error: type[RequestError], field: str
) -> None:
    with pytest.raises(error) as refused:
        plan(start(**fields), Config(), PLAIN)
    assert refused.value.field == field


def test_plain_start_plans_no_features() -> None:
    planned = plan(start(), Config(), PLAIN)
    assert (planned.can_meter, planned.can_export, planned.can_seal) == (False, False, False)
    assert planned.collectors == ()
