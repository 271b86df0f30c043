"""Fixtures of the stream fault tests, and the table that they print at the end."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from stage import ROWS, Crowd, Row, Stage, jetstream, write_crowd

from agents import Fleet
from netsonde.bus.connection import order_servers
from servers import NatsServer


@pytest.fixture(scope="session")
def crowd(tmp_path_factory: pytest.TempPathFactory) -> Crowd:
    return write_crowd(tmp_path_factory.mktemp("crowd") / "crowd.pcap")


@pytest.fixture
def set_stage(
    tmp_path: Path, crowd: Crowd, request: pytest.FixtureRequest
) -> Iterator[Callable[..., Stage]]:
    """Makes a stage, on one JetStream server unless given others. A second stage in a test needs a
    name."""
    made: list[Stage] = []

    def make(*servers: NatsServer, name: str = "") -> Stage:
        directory = tmp_path / name
        ordered = order_servers([one.url for one in servers], "alpha")  # the agent's order
        chosen = sorted(servers, key=lambda one: ordered.index(one.url))
        chosen = chosen or [jetstream(directory / "nats").start()]
        fleet = Fleet(chosen[0], directory)
        fleet.replay_dirs = [crowd.path.parent]
        if "wire" in request.fixturenames:
            fleet.prefix = request.getfixturevalue("wire").prefix
        made.append(Stage(fleet, directory, crowd, chosen))
        return made[-1]

    yield make
    for stage in made:
        for process in stage.collectors:
            process.kill()
            process.wait()
        for agent in stage.fleet.agents:
            print(f"---- {agent.host}\n{agent.log[-20_000:]}")
        problems = stage.fleet.dismiss()
        for server in stage.servers:
            server.kill()
        assert not problems, "\n".join(problems)


@pytest.fixture(autouse=True)
def rows(record_property: Callable[[str, object], None]) -> Iterator[None]:
    """Adds a test's table rows to its report, because the test may run in another process."""
    before = len(ROWS)
    yield
    for row in ROWS[before:]:
        record_property("row", dataclasses.astuple(row))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    rows = [
        Row(*row)
        for reports in terminalreporter.stats.values()
        for report in reports
        if getattr(report, "when", "") == "teardown"
        for name, row in report.user_properties
        if name == "row"
    ]
    if not rows:
        return
    terminalreporter.section("records through faults")
    line = "{:<44} {:>9} {:>10} {:>7} {:>8} {:>8} {:>6}"
    terminalreporter.write_line(
        line.format("fault", "metered", "collected", "lost", "doubled", "dropped", "s")
    )
    for row in rows:
        terminalreporter.write_line(
            line.format(*dataclasses.astuple(row)[:-1], f"{row.seconds:.0f}")
        )
