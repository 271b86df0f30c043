"""Tests the action for each pair of wanted and running, the waits, and the kept start."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from netsonde.capture.persisted import PersistedStart
from netsonde.capture.wanted import (
    RETRY_MAX_SEC,
    RETRY_MIN_SEC,
    Action,
    Backoff,
    Running,
    Wanted,
    capture_options,
    decide,
)
from netsonde.wire.requests import (
    CaptureOptions,
    EncryptionOptions,
    ExportOptions,
    MeterOptions,
    StartRequest,
)

SEAL = EncryptionOptions(cipher_suite="AES-256-GCM", key_file="/k")


def capture(**options: Any) -> CaptureOptions:
    return CaptureOptions(**{"interface": "eth0", "backend": "af_packet", **options})


WANTED = Wanted("config", capture())


@pytest.mark.parametrize(
    ("wanted", "running", "action"),
    [
        (None, None, Action.NOTHING),
        (None, Running(None), Action.NOTHING),
        (None, Running(capture()), Action.STOP),
        (WANTED, None, Action.START),
        (WANTED, Running(capture()), Action.NOTHING),
        (WANTED, Running(None), Action.REPLACE),
        (WANTED, Running(capture(), ended=True), Action.REPLACE),
        (WANTED, Running(capture(), changed=True), Action.ADJUST),
    ],
)
def test_each_state_has_one_action(
    wanted: Wanted | None, running: Running | None, action: Action
) -> None:
    assert decide(wanted, running, overridden=False) is action
    assert decide(wanted, running, overridden=True) is Action.NOTHING


@pytest.mark.parametrize(
    ("options", "action"),
    [
        ({"metering": MeterOptions(enable=True)}, Action.ADJUST),
        ({"export": ExportOptions(collector_ip="::1", collector_port=9)}, Action.ADJUST),
        ({"encryption": SEAL}, Action.ADJUST),
        ({"encryption": SEAL, "record": False}, Action.ADJUST),
        ({"record": False}, Action.REPLACE),
        ({"interface": "eth1"}, Action.REPLACE),
        ({"backend": "pcap"}, Action.REPLACE),
        ({"buffer_size_mb": 9}, Action.REPLACE),
        ({"filter": "udp"}, Action.REPLACE),
        ({"snaplen": 96}, Action.REPLACE),
        ({"promiscuous": False}, Action.REPLACE),
        ({"workers": 2}, Action.REPLACE),
        ({"dedicated": True}, Action.REPLACE),
        ({"replay_speed": 1.0}, Action.REPLACE),
    ],
)
def test_changed_option_interrupts_no_more_than_needed(
    options: dict[str, Any], action: Action
) -> None:
    assert decide(Wanted("config", capture(**options)), Running(capture()), overridden=False) is (
        action
    )


def test_only_policy_and_configuration_are_managed() -> None:
    managed = {by: Wanted(by, capture()).managed for by in ("policy", "config", "persist")}
    assert managed == {"policy": True, "config": True, "persist": False}


def test_waits_double_up_to_a_minute() -> None:
    backoff = Backoff()
    waits = [backoff.next_sec() for _ in range(12)]
    assert all(RETRY_MIN_SEC <= wait <= RETRY_MAX_SEC for wait in waits)
    assert waits[0] == RETRY_MIN_SEC
    assert all(wait >= RETRY_MAX_SEC / 2 for wait in waits[6:])
    assert len(set(waits[6:])) > 1, "without jitter all hosts retry at the same moment"
    backoff.reset()
    assert backoff.next_sec() == RETRY_MIN_SEC


def test_capture_options_are_those_of_the_start_request() -> None:
    request = StartRequest(interface="eth0", backend="pcap", persist=True, override=True)
    assert capture_options(request) == CaptureOptions(interface="eth0", backend="pcap")


def test_kept_start_is_read_again(tmp_path: Path) -> None:
    store = PersistedStart(tmp_path / "made" / "on demand")
    assert store.read() is None
    options = capture(metering=MeterOptions(enable=True, flow_timeout_sec=9), encryption=SEAL)
    store.prepare(options)
    assert store.read() is None, "kept only once the capture runs"
    store.commit()
    assert PersistedStart(tmp_path / "made" / "on demand").read() == options
    store.remove()
    store.remove()
    assert store.read() is None


@pytest.mark.parametrize("content", [b"", b"{", b'{"interface": 7}', b"\xff"])
def test_damaged_file_is_not_a_start(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "session.json").write_bytes(content)
    assert PersistedStart(tmp_path).read() is None
