"""Every shared trace exported to real collectors, in all three versions at once.

Each trace is one session with five standing collectors: nfcapd for v5, v9 and IPFIX, nfacctd for v9
and IPFIX. tcpdump captures all datagrams for tshark. Each collector must hold exactly the records
that the agent also sent over NATS, field by field.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

import oracle
from agents import Fleet
from bus import Bus
from collectors import (
    HOST,
    Nfacctd,
    Nfcapd,
    Sniffer,
    Tshark,
    Uniflow,
    added_up,
    next_port,
    totals,
    uniflows,
    without,
)
from netns import Wire
from oracle import Trace
from replay import Replay, replay

VERSIONS = (5, 9, 10)
IDLE_SEC, ACTIVE_SEC = 15, 60
FULL_PROFILE = ("02", "03", "08", "09", "12", "15", "17")  # tags, labels, tunnels, no MAC addresses

TRACES = oracle.traces()


@pytest.fixture(autouse=True)
def inside(wire: Wire) -> Wire:
    return wire


def test_every_collector_reads_back_every_trace(fleet: Fleet, tmp_path: Path) -> None:
    assert len(TRACES) == oracle.TRACES_EXPECTED
    asyncio.run(Stage(tmp_path, profile="compat").play(fleet, TRACES))


def test_full_profile_reads_back_too(fleet: Fleet, tmp_path: Path) -> None:
    chosen = [oracle.trace(prefix) for prefix in FULL_PROFILE]
    asyncio.run(Stage(tmp_path, profile="full", max_message_bytes=512).play(fleet, chosen))


class Stage:
    """The collectors of several sessions. Each session has a new nfcapd, so none sees a restart."""

    def __init__(self, directory: Path, **export: Any) -> None:
        self.directory = directory
        self.ports = {version: next_port() for version in VERSIONS}
        self.nfacctds: dict[int, Nfacctd] = {}
        self.message_bytes_max = export.get("max_message_bytes", 1400)
        self.messages_sent = 0  # from the last session
        self.expected: list[Uniflow] = []
        self.settings = export

    async def play(self, fleet: Fleet, traces: list[Trace]) -> None:
        with ExitStack() as running:
            for version in (9, 10):
                nfacctd = Nfacctd(self.directory / f"nfacctd-{version}")
                self.nfacctds[version] = running.enter_context(nfacctd)
            fleet.start(export={**self.settings, "collectors": self.collectors()})
            bus = await Bus.connect(fleet.server.url)
            for trace in traces:
                # One capture per session: a later session may reuse an earlier source port, and
                # tshark would take both for one exporter whose sequence numbers run backwards.
                with Sniffer(self.directory / f"sniffer-{trace.path.name[:2]}") as sniffer:
                    await self.play_one(bus, trace)
                    self.check_datagrams(sniffer)
            await bus.close()
            self.check_nfacctds()

    def collectors(self) -> list[dict[str, Any]]:
        ports = [(port, v) for v, port in self.ports.items()]
        ports += [(one.port, v) for v, one in self.nfacctds.items()]
        return [
            {"ip": HOST, "port": port, "version": v, "interval_sec": ACTIVE_SEC}
            for port, v in ports
        ]

    async def play_one(self, bus: Bus, trace: Trace) -> None:
        name = trace.path.name[:2]
        nfcapds: dict[int, Nfcapd] = {}
        with ExitStack() as running:
            for version, port in self.ports.items():
                nfcapd = Nfcapd(self.directory / f"nfcapd-{name}-{version}", port=port)
                nfcapds[version] = running.enter_context(nfcapd)
            replayed = await replay(bus, trace.path, idle_sec=IDLE_SEC, active_sec=ACTIVE_SEC)
            counted = {one["collector_port"]: one for one in reported(replayed)["collectors"]}
            for version, nfcapd in nfcapds.items():
                check_nfcapd(name, version, nfcapd, replayed, counted[nfcapd.port])
        self.messages_sent = sum(one["messages_sent"] for one in counted.values())
        self.expected += uniflows(replayed.records).elements()

    def check_datagrams(self, sniffer: Sniffer) -> None:
        sniffer.finish(self.messages_sent)
        ports = [*self.ports.values(), *(one.port for one in self.nfacctds.values())]
        tshark = Tshark(sniffer.path, ports)
        assert tshark.complaints() == ""
        assert tshark.messages() == self.messages_sent
        assert max(tshark.payload_bytes()) <= self.message_bytes_max

    def check_nfacctds(self) -> None:
        for version, nfacctd in self.nfacctds.items():
            expected = added_up(as_nfacctd_says(version, flow) for flow in self.expected)
            found = nfacctd.flows()
            assert found == expected, (version, difference(found, expected))


def reported(replayed: Replay) -> Mapping[str, Any]:
    """Checks the export part of the stop reply: no record was lost."""
    export: Mapping[str, Any] = replayed.stopped["export"]
    for one in export["collectors"]:
        assert set(one["records_lost"].values()) == {0}, one
        assert one["standing"]
        assert one["last_error"] == ""
    return export


def check_nfcapd(
    name: str, version: int, nfcapd: Nfcapd, replayed: Replay, counted: Mapping[str, Any]
) -> None:
    summary = nfcapd.summary()
    assert summary["Sequence Errors"] == summary["Bad Packets"] == 0, (name, version, summary)
    expected = uniflows(replayed.records, ipv4_only=version == 5)
    if version == 5:
        expected = without(expected, "vlan")
        ipv6 = uniflows(replayed.records).total() - expected.total()
        assert counted["records_skipped_ipv6"] == ipv6, name
    found = nfcapd.flows()
    assert found == expected, (name, version, difference(found, expected))
    sums = totals(expected)
    assert sums == (summary["Flows"], summary["Packets"], summary["Bytes"]), (name, version)
    assert sums == tuple(counted[f"{what}_sent"] for what in ("records", "packets", "octets"))


def as_nfacctd_says(version: int, flow: Uniflow) -> Uniflow:
    """Rounds version 9 times up to whole seconds, as nfacctd does: it truncates the age."""
    if version == 10:
        return flow
    return flow._replace(
        first_ms=-(-flow.first_ms // 1000) * 1000, last_ms=-(-flow.last_ms // 1000) * 1000
    )


def difference(found: Counter[Uniflow], expected: Counter[Uniflow]) -> str:
    return f"too many: {sorted(found - expected)[:3]}; missing: {sorted(expected - found)[:3]}"
