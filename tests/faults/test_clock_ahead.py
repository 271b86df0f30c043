"""A host whose clock is ahead of the client's: it refuses requests that expire, and says why."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_stream_clock import SteppedClock

from agents import COMMAND, Fleet, client_flags
from deadlines import TIMEOUT_SEC
from servers import NatsServer

AHEAD_SEC = 3600


@pytest.fixture
def fleet(tmp_path: Path, nats_server: NatsServer) -> Iterator[Fleet]:
    made = Fleet(nats_server, tmp_path / "agents")
    yield made
    problems = made.dismiss()
    assert not problems, "\n".join([*problems, *(agent.log for agent in made.agents)])


def test_refusal_names_the_clock_and_the_difference(
    fleet: Fleet, nats_server: NatsServer, tmp_path: Path
) -> None:
    clock = SteppedClock(tmp_path)
    fleet.prefix = clock.prefix
    fleet.start("alpha")

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        command = [str(COMMAND), *words, "--host", "alpha", *client_flags(nats_server.url)]
        return subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_SEC)

    assert "no_session" in run("stop").stderr
    clock.set(AHEAD_SEC)
    refused = run("stop")
    assert refused.returncode == 1
    (late,) = re.findall(r"^alpha: 400 expired: .* expired ([0-9.]+) s ago by this host's clock",
                         refused.stderr, re.MULTILINE)  # fmt: skip
    assert AHEAD_SEC - TIMEOUT_SEC < float(late) <= AHEAD_SEC
    assert "correct the clocks" in refused.stderr
    assert "1 asked: 1 refused; request " in refused.stderr
    assert run("status").returncode == 0  # changes nothing, so it does not expire
    clock.set(0)
    assert "no_session" in run("stop").stderr
