"""The inventory entry of a host: its session, what is wanted of it, and how far it is."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

from netsonde.capture.session import Session
from netsonde.config.sections import AgentSection, Config
from netsonde.core.values import Stats
from netsonde.service.host_entry import HostDescription, WantedState

SECOND = 1_000_000_000


def session_of(backend: str) -> Session:
    stats = Stats(
        time_ns=100 * SECOND, packets_captured=7, packets_dropped=2, link_up=True, finished=False,
        buffer_oldest_ns=70 * SECOND, buffer_newest_ns=75 * SECOND,
    )  # fmt: skip
    found = SimpleNamespace(
        id="s1",
        request=SimpleNamespace(interface="eth0", backend=backend),
        capture=SimpleNamespace(stats=lambda: stats),
        metrics=lambda: SimpleNamespace(packets_per_sec=30),
        uptime_sec=1.23456,
    )
    return cast(Session, found)


def test_entry_of_a_host() -> None:
    running: list[Session] = []
    host = HostDescription(
        Config(agent=AgentSection(host="alpha")),
        boot="b1",
        version="9.9",
        session=lambda: running[0] if running else None,
        server=lambda: "server:4222",
    )
    entry = host.entry()
    assert (entry.host, entry.boot, entry.version, entry.server) == (
        "alpha", "b1", "9.9", "server:4222",
    )  # fmt: skip
    assert entry.session is None
    assert (entry.wanted_rev, entry.drift) == (None, "")
    host.wanted = lambda: WantedState(wanted_rev=5, applied_rev=4, drift="pending", error="e")
    for backend, retention_sec in (("af_packet", 30), ("file", 5)):
        running[:] = [session_of(backend)]
        entry = host.entry()
        summary = entry.session
        assert summary is not None
        assert (summary.session_id, summary.interface, summary.backend) == ("s1", "eth0", backend)
        assert (summary.packets_captured, summary.packets_dropped) == (7, 2)
        assert (summary.packets_per_sec, summary.uptime_sec) == (30, 1.235)
        assert (summary.retention_sec, summary.link_up, summary.finished) == (
            retention_sec, True, False,
        )  # fmt: skip
    assert (entry.wanted_rev, entry.applied_rev, entry.drift, entry.error) == (5, 4, "pending", "e")
    assert host.candidate().host == "alpha"
