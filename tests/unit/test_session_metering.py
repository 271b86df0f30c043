"""Metering of a running session: which active timeout the core gets."""

from __future__ import annotations

from typing import Any, cast

import pytest

from netsonde.capture.plan import plan
from netsonde.capture.session import Session
from netsonde.config.sections import Config
from netsonde.core.capture import Capture
from netsonde.core.values import BackendReport
from netsonde.wire.replies import MeteringState
from netsonde.wire.requests import ExportRequest, StartRequest

FULL = BackendReport(
    name="af_packet",
    description="",
    features=("flow_metering", "netflow_export"),
    usable=True,
    reason="",
)


class FakeCapture:
    def __init__(self) -> None:
        self.metered: list[dict[str, Any]] = []

    def __getattr__(self, name: str) -> Any:
        return lambda *arguments, **named: None

    async def meter(self, **settings: Any) -> None:
        self.metered.append(settings)


@pytest.mark.parametrize(
    ("export_interval_sec", "active_timeout_sec"), [(None, 60), (7, 7)], ids=["without", "with"]
)
async def test_export_interval_stays_the_active_timeout(
    export_interval_sec: int | None, active_timeout_sec: int
) -> None:
    """Metering may be turned off and on while a collector is set."""
    export = None
    if export_interval_sec is not None:
        export = ExportRequest(
            collector_ip="127.0.0.1", collector_port=2055, export_interval_sec=export_interval_sec
        )
    capture = FakeCapture()
    planned = plan(
        StartRequest(interface="eth0", backend="af_packet", export=export), Config(), FULL
    )
    session = Session(
        planned, cast(Capture, capture), sink=cast(Any, FakeCapture()), events=cast(Any, None)
    )
    wanted = MeteringState(enabled=True, flow_timeout_sec=30, active_timeout_sec=60)
    await session.meter(wanted)
    assert capture.metered == [
        {"on": True, "idle_timeout_sec": 30, "active_timeout_sec": active_timeout_sec}
    ]
    assert session.metering == wanted
