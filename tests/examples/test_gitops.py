"""The GitOps folder of examples/: a check before the merge, a release after it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from agents import COMMAND, Fleet, client_flags
from bus import Bus
from netsonde.bus.nats_client import GuardedClient
from operators import entries, known
from servers import NatsServer

pytestmark = pytest.mark.jetstream

EXAMPLE = Path(__file__).resolve().parents[2] / "examples/gitops"


def run(script: str, server: NatsServer) -> subprocess.CompletedProcess[str]:
    path = f"{COMMAND.parent}:{os.environ['PATH']}"
    return subprocess.run(
        [str(EXAMPLE / script), *client_flags(server.url)],
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )


async def test_a_release_brings_each_host_to_its_policy(
    nats_server: NatsServer, fleet: Fleet, client: GuardedClient, bus: Bus
) -> None:
    fleet.start("edge1", labels={"role": "edge"})
    fleet.start("db1", labels={"role": "db"})
    await known(client, "edge1", "db1")

    checked = run("check.sh", nats_server)
    assert checked.returncode == 0, checked.stderr
    assert {entry.applied_rev for entry in (await entries(client)).values()} == {None}

    released = run("release.sh", nats_server)
    assert released.returncode == 0, released.stdout + released.stderr
    assert {entry.applied_rev for entry in (await entries(client)).values()} == {1}
    sizes = {
        host: (await bus.ok("status", host=host))["buffer_size_mb"] for host in ("edge1", "db1")
    }
    assert sizes == {"edge1": 64, "db1": 16}
