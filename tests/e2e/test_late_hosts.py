"""`flows --follow` and `top` with a selection show hosts that join after the command began."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from agents import Fleet
from bus import Bus
from deadlines import eventually
from netsonde.bus.nats_client import GuardedClient
from operators import Operator, known
from packets import SECOND_NS, UDP, at, ethernet, ipv4, udp, write_pcap
from replay import replay

pytestmark = pytest.mark.jetstream

SELECTIONS = [("--select", "role = web"), ("--group", "role=web"), ("--host", "web*")]


@pytest.mark.parametrize("selection", SELECTIONS, ids=lambda one: one[0])
async def test_follow_prints_records_of_a_host_that_joins_later(
    fleet: Fleet,
    client: GuardedClient,
    operator: Operator,
    bus: Bus,
    tmp_path: Path,
    selection: tuple[str, ...],
) -> None:
    fleet.start("web1", labels={"role": "web"})
    fleet.start("db1", labels={"role": "db"})
    await known(client, "web1", "db1")
    words = ("flows", "--follow", "-n", "1", *selection)
    following = operator.spawn(*words, stdout=subprocess.PIPE)
    try:
        frame = ethernet(ipv4(udp(b"", 1000, 53), UDP, "10.0.0.1", "10.1.0.1"))
        capture = write_pcap(tmp_path / "one.pcap", [at(SECOND_NS, frame)])
        fleet.start("web2", labels={"role": "web"})
        await known(client, "web2")

        async def ended() -> bool:
            await replay(bus, capture, host="db1")
            await replay(bus, capture, host="web2")
            return following.poll() is not None

        await eventually(ended, "a record of the late host", interval_sec=0.5)
        assert following.stdout is not None
        assert following.stdout.read().startswith(b"web2 ")
    finally:
        following.kill()
        following.communicate()


async def test_top_shows_a_host_that_joins_later(
    fleet: Fleet, client: GuardedClient, operator: Operator
) -> None:
    fleet.start("web1", labels={"role": "web"})
    await known(client, "web1")
    words = ("top", "--json", "--interval", "0.5", "--select", "role = web")
    watching = operator.spawn(*words, stdout=subprocess.PIPE)
    try:
        assert watching.stdout is not None
        assert b'"web1"' in watching.stdout.readline()
        fleet.start("web2", labels={"role": "web"})
        assert any(b'"web2"' in line for line in watching.stdout)
    finally:
        watching.kill()
        watching.communicate()
