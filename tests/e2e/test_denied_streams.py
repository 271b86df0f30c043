"""The NATS server's permissions deny subjects to the agent. No record counts as sent, and status,
`stop`, the alarm stream, the log, /readyz and the metrics show the denied subject."""

from __future__ import annotations

import json
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nats.js.errors
import pytest

import recording
from agents import COMMAND, Agent, Fleet, client_flags
from bus import Bus, Collector
from deadlines import eventually
from packets import SECOND_NS, UDP, at, ethernet, ipv4, udp, write_pcap
from replay import check_conservation, finished, records_of
from servers import NatsServer, free_port

START_NS = 1_767_225_600 * SECOND_NS
FLOWS = 2_500  # more than two batches
RECORDS = "capture.stream.flows.alpha"


def permissions(denied: str) -> str:
    """Returns configuration lines: the user `agent` has all subjects but one. A client without a
    login has all."""
    return f"""
        no_auth_user: operator
        authorization {{ users = [
          {{ user: operator, password: x }}
          {{ user: agent, password: x, permissions: {{ publish: {{ deny: "{denied}" }} }} }}
        ] }}
    """


@pytest.fixture
def nats_server(tmp_path: Path) -> Iterator[NatsServer]:
    config = recording.jetstream(tmp_path / "js") + permissions("capture.stream.flows.>")
    server = NatsServer(tmp_path / "nats", config=config).start()
    yield server
    server.kill()


def start(fleet: Fleet, **sections: Any) -> Agent:
    url = fleet.server.url.replace("//", "//agent:x@")
    return fleet.start(nats={"servers": [url]}, **sections)


@pytest.fixture
def capture(tmp_path: Path) -> Path:
    frames = [
        ethernet(ipv4(udp(b"", 1000, 53), UDP, f"10.0.{n >> 8}.{n & 255}", "10.1.0.1"))
        for n in range(FLOWS)
    ]
    return write_pcap(tmp_path / "many.pcap", [at(START_NS + n, f) for n, f in enumerate(frames)])


def body(capture: Path) -> dict[str, Any]:
    return {"interface": str(capture), "backend": "file", "metering": {"enable": True}}


def page(port: int, name: str) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/{name}") as response:
        return str(response.read().decode())


def warnings(server: NatsServer, *words: str) -> str:
    done = subprocess.run(
        [str(COMMAND), *words, *client_flags(server.url)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stderr


async def test_denied_records_do_not_count_as_sent(fleet: Fleet, bus: Bus, capture: Path) -> None:
    port = free_port()
    alarms = await bus.events(kind="alarm")
    collector = await Collector.listen(bus)
    agent = start(fleet, http={"listen": f"127.0.0.1:{port}"})

    async def connected() -> dict[str, Any] | None:  # the records' connection may come later
        state: dict[str, Any] = (await bus.ok("status"))["bus"]
        return state if state["connected"] else None

    state = await eventually(connected, "both connections of the agent")
    assert state == {"connected": True, "denied": [], "denials": 0}
    await bus.ok("start", body(capture))
    status = await finished(bus)
    check_conservation(status)
    stopped = await bus.ok("stop")
    assert stopped["packets_captured"] == FLOWS
    assert (stopped["records_sent"], stopped["records_unsent"]) == (0, FLOWS)
    assert stopped["bus"]["denied"] == [RECORDS]
    denials = stopped["bus"]["denials"]
    assert denials >= 3  # one for each batch
    assert collector.batches == []
    assert (await bus.ok("status"))["bus"]["denied"] == [RECORDS]

    found = await eventually(
        lambda: [one for one in alarms.all() if one["event"] == "permission_denied"], "the alarm"
    )
    assert found[0]["data"]["subject"] == RECORDS
    assert f'may not publish to "{RECORDS}"' in found[0]["detail"]
    assert any(json.loads(line)["event"] == "permission denied" for line in agent.log.splitlines())

    assert f"permission denied for {RECORDS}" in page(port, "readyz")
    assert f'netsonde_nats_denials_total{{connection="data"}} {denials}.0' in page(port, "metrics")


async def test_commands_warn_of_denied_records(fleet: Fleet, bus: Bus, capture: Path) -> None:
    start(fleet)
    await bus.ok("start", body(capture))
    await finished(bus)
    stopped = warnings(fleet.server, "stop")
    assert f"alpha: warning: {FLOWS} records were not sent" in stopped
    denied = f"alpha: warning: the NATS server denies {RECORDS} to the agent"
    assert denied in stopped
    assert denied in warnings(fleet.server, "status")


async def test_denied_records_stay_in_the_spool(
    fleet: Fleet, bus: Bus, capture: Path, tmp_path: Path
) -> None:
    """Records arrive exactly once after the permissions have been corrected. The agent rests until
    the collector has subscribed again: core NATS keeps nothing for it."""
    agent = start(fleet, flows={"jetstream": True, "spool_dir": tmp_path / "spool"})
    collector = await Collector.listen(bus)
    started = await bus.ok("start", body(capture))
    check_conservation(await finished(bus))
    stopped = await bus.ok("stop")

    async def denied() -> bool:
        bus_state = (await bus.ok("status"))["bus"]
        return RECORDS in bus_state["denied"]

    await eventually(denied, "the denial in status")
    assert (await bus.ok("status"))["spool"]["records_waiting"] == FLOWS
    assert collector.batches == []
    agent.freeze()
    fleet.server.kill()
    fleet.server.config = fleet.server.config.replace("capture.stream.flows.>", "unused")
    fleet.server.start()
    await bus.returned()
    agent.thaw()
    records = await records_of(collector, started["session_id"], stopped)
    assert len(records) == FLOWS

    async def stored() -> bool:
        try:
            state = (await bus.client.jetstream().stream_info("CAPTURE_FLOWS")).state
        except nats.js.errors.APIError:
            return False
        return state.messages == len(collector.batches)

    await eventually(stored, "each batch in the stream once")


async def test_denied_alarm_causes_no_further_alarm(fleet: Fleet, bus: Bus) -> None:
    fleet.server.kill()
    fleet.server.config = permissions("capture.stream.events.>")
    fleet.server.start()
    await bus.returned()
    agent = start(fleet)

    async def alarm_denied() -> bool:
        return "capture.stream.events.alpha.alarm" in (await bus.ok("status"))["bus"]["denied"]

    await eventually(alarm_denied, "the alarm to be denied")
    assert agent.log.count("alarm: permission_denied") == 1
