"""`netsonde packets --around`: the packets of a host around one of its events."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
from pathlib import Path

import pytest

from agents import COMMAND, Fleet, client_flags
from bus import Bus
from deadlines import eventually
from netsonde.wire.instant import parse_rfc3339
from packets import SECOND_NS, at, read_capture, write_pcap
from recording import numbered, spelled
from replay import check_conservation
from servers import NatsServer

pytestmark = pytest.mark.jetstream


async def netsonde(server: NatsServer, *words: str) -> subprocess.CompletedProcess[str]:
    full = [str(COMMAND), *words, *client_flags(server.url)]
    return await asyncio.to_thread(
        lambda: subprocess.run(full, capture_output=True, text=True, timeout=120)
    )


async def test_packets_around_an_event_are_fetched_from_its_host(
    fleet: Fleet, bus: Bus, nats_server: NatsServer, tmp_path: Path
) -> None:
    done = await netsonde(nats_server, "nats", "streams", "--replicas", "1", "--host", "web1")
    assert done.returncode == 0, done.stderr
    for host in ("web1", "web2"):
        fleet.start(host)
    assert (await bus.request("stop", {}, host="web1")).code == 400  # an audit event

    async def stored() -> bool:
        return "audit" in (await netsonde(nats_server, "events", "--kind", "audit")).stdout

    await eventually(stored, "the event in the stream")
    words = ("events", "--kind", "audit", "--host", "web1")
    text = (await netsonde(nats_server, *words)).stdout
    (identity,) = re.findall(r"\[(web1\.[0-9a-f]{16}\.\d+)\]$", text, re.MULTILINE)
    event = json.loads((await netsonde(nats_server, *words, "--json")).stdout)
    event_ns = parse_rfc3339(event["time"])

    # One packet each second, from a minute before the event to a minute after.
    frames = numbered(121)
    made = [at(event_ns + (n - 60) * SECOND_NS, one.data) for n, one in enumerate(frames)]
    path = write_pcap(tmp_path / "made.pcap", made)
    for host in ("web1", "web2"):
        body = {"interface": str(path), "backend": "file", "metering": {"enable": True}}
        await bus.ok("start", body, host=host)

        async def read(host: str = host) -> bool:
            return bool((await bus.ok("status", host=host)).get("finished"))

        await eventually(read, f"{host} to read its file")
        check_conservation(await bus.ok("status", host=host))

    out = tmp_path / "around.pcapng"
    for around, seconds in (
        ((identity, "--span", "10s"), 10),
        ((identity,), 30),
        ((f"web1@{spelled(event_ns)}", "--span", "2500ms"), 2),
    ):
        done = await netsonde(nats_server, "packets", "--around", *around, "-w", str(out))
        assert done.returncode == 0, done.stderr
        assert "1 asked: 1 ok" in done.stderr
        found = read_capture(out)
        assert found == made[60 - seconds : 61 + seconds]

    wrong = f"{identity}9"
    done = await netsonde(nats_server, "packets", "--around", wrong)
    assert (done.returncode, f"no event {wrong}" in done.stderr) == (1, True)


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("--around", "web1"), "neither an event's id nor HOST@TIME"),
        (("--around", "web1@yesterday"), "--around"),
        (("--around", "web1@-5m", "--start", "-1m"), "leave out the other options"),
        (("--around", "web1@-5m", "--host", "web2"), "leave out the other options"),
        (("--around", "web1@-5m", "--span", "soon"), "is not a duration"),
        (("--span", "5s"), "--span needs --around"),
    ],
)
def test_wrong_options(words: tuple[str, ...], reason: str) -> None:
    done = subprocess.run([str(COMMAND), "packets", *words], capture_output=True, text=True)
    assert (done.returncode, reason in done.stderr) == (2, True), done.stderr
