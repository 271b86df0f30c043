"""Captures that run without a request: `[session]`, `start` with `persist`, overrides, SIGHUP.

A real agent on a veth pair. Each test checks that every packet sent while the capture runs is
counted, and that the counters add up.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import socket
import stat
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from nats.errors import NoRespondersError

import capturing
from agents import COMMAND, Agent, Fleet, client_flags, toml
from bus import Bus, Collector
from deadlines import eventually, eventually_now
from netns import HOST_DEVICE, Sender, Wire
from netsonde.capture.links import link_changes
from packets import UDP, ethernet, ipv4, udp
from recording import make_key, sealing
from replay import check_lives, records_of
from servers import NatsServer, free_port

FRAMES = [
    ethernet(ipv4(udp(bytes(50), 1000 + number, 53), UDP, "10.0.0.1", "10.1.0.1"))
    for number in range(200)
]
SESSION = {"interface": HOST_DEVICE, "backend": "af_packet", "metering": {"enable": True}}
OTHER = {"interface": HOST_DEVICE, "backend": "af_packet", "buffer_size_mb": 9}


def standing(fleet: Fleet, session: dict[str, Any] | None = None, **sections: Any) -> Agent:
    """Returns an agent, not started, with HTTP and `[session]`."""
    listen = f"127.0.0.1:{free_port()}"
    if session is not None:
        sections["session"] = session
    return fleet.agent(http={"listen": listen}, **sections)


def page(agent: Agent, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://{agent.config['http']['listen']}{path}") as reply:
            return reply.status, reply.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()
    except urllib.error.URLError:
        return 0, ""  # the agent does not listen yet


def gauges(agent: Agent) -> tuple[str, str]:
    """Returns netsonde_capture_wanted and netsonde_capture_running as they are exposed."""
    values = dict(
        line.split() for line in page(agent, "/metrics")[1].splitlines() if not line.startswith("#")
    )
    return (
        values.get("netsonde_capture_wanted", ""),
        values.get("netsonde_capture_running", ""),
    )


async def runs(bus: Bus, *, other_than: str = "") -> dict[str, Any]:
    """Returns the status of a running capture that is as wanted."""

    async def ask() -> dict[str, Any] | None:
        status = await bus.ok("status")
        good = status["running"] and "reason" not in status and status["session_id"] != other_than
        return status if good else None

    return await eventually(ask, "the wanted capture to run", interval_sec=0.05)


async def counts(bus: Bus, sender: Sender) -> dict[str, Any]:
    """Sends frames on a silent wire and expects that exactly those are captured."""
    before = await capturing.at_rest(bus)
    sender.send(FRAMES)
    offered = before["packets_captured"] + before["packets_dropped"] + len(FRAMES)
    return await capturing.settled(bus, offered)


def reload(agent: Agent, /, **sections: Any) -> None:
    """Changes the file and sends SIGHUP. None removes a section."""
    config = dict(agent.config) | sections
    agent.config = {name: keys for name, keys in config.items() if keys is not None}
    agent.config_path.write_text(toml(agent.config))
    agent.signal(signal.SIGHUP)


# ---- without a request ---------------------------------------------------------------------------


async def test_configured_capture_runs_without_a_request(
    fleet: Fleet, bus: Bus, sender: Sender
) -> None:
    agent = standing(fleet, SESSION).start()
    status = await runs(bus)
    assert status["wanted_by"] == "config"
    assert status["wanted"]["interface"] == HOST_DEVICE
    assert status["wanted"]["metering"] == {"enable": True}
    assert not {"drift", "reason"} & status.keys()
    assert (await counts(bus, sender))["active_flows"] == len(FRAMES)
    await eventually(lambda: page(agent, "/readyz")[0] == 200, "the agent to be ready")
    assert gauges(agent) == ("1.0", "1.0")


async def test_agent_without_a_wanted_capture_is_ready(fleet: Fleet, bus: Bus) -> None:
    agent = standing(fleet).start()
    await eventually(lambda: page(agent, "/readyz")[0] == 200, "the agent to be ready")
    assert gauges(agent) == ("0.0", "0.0")
    status = await bus.request("status")
    assert (status.code, "wanted" in status.body) == (204, False)


@pytest.mark.parametrize("end", ["kill", "terminate"])
async def test_configured_capture_runs_after_a_restart(
    fleet: Fleet, bus: Bus, sender: Sender, end: str
) -> None:
    agent = standing(fleet, SESSION).start()
    first = await runs(bus)
    await counts(bus, sender)
    getattr(agent, end)()
    agent.start()
    second = await runs(bus)
    assert second["session_id"] != first["session_id"]
    assert (await counts(bus, sender))["packets_captured"] == len(FRAMES)


async def test_configured_capture_runs_without_nats(
    fleet: Fleet, bus: Bus, sender: Sender, nats_server: NatsServer
) -> None:
    nats_server.kill()
    agent = standing(fleet, SESSION).spawn()
    eventually_now(lambda: gauges(agent) == ("1.0", "1.0"), "the capture to run")
    assert page(agent, "/readyz")[0] == 503
    sender.send(FRAMES)
    nats_server.start()
    await bus.returned()
    await eventually(lambda: page(agent, "/readyz")[0] == 200, "the agent to reconnect")
    status = await capturing.settled(bus, len(FRAMES))
    assert status["packets_captured"] == len(FRAMES)


async def test_capture_starts_when_its_interface_appears(
    fleet: Fleet, bus: Bus, wire: Wire
) -> None:
    wire.host_ip("link", "delete", HOST_DEVICE)
    agent = standing(fleet, SESSION)
    alarms = await bus.events(kind="alarm")
    agent.start()
    await eventually(lambda: alarms.all(), "the alarm")  # the first attempt has failed
    reply = await bus.request("status")
    assert reply.code == 204
    assert HOST_DEVICE in reply.body["reason"]
    assert reply.body["wanted_by"] == "config"
    code, body = page(agent, "/readyz")
    assert (code, HOST_DEVICE in body) == (503, True)
    assert gauges(agent) == ("1.0", "0.0")
    assert alarms.all()[0]["event"] == "capture_waiting"
    wire.connect()
    await runs(bus)
    sender = wire.sender()
    with contextlib.closing(sender):
        await counts(bus, sender)
    await eventually(lambda: page(agent, "/readyz")[0] == 200, "the agent to be ready")
    assert gauges(agent) == ("1.0", "1.0")
    assert len(alarms.all()) == 1, "an unchanged reason is reported once"


async def test_new_interface_is_noticed(wire: Wire) -> None:
    noticed = asyncio.Event()
    with link_changes(noticed.set):
        wire.connect("late0", "late1")
        await eventually(noticed.is_set, "the notice")


async def test_capture_starts_when_its_key_appears(
    fleet: Fleet, bus: Bus, sender: Sender, tmp_path: Path
) -> None:
    key = tmp_path / "keys" / "late.key"
    key.parent.mkdir()
    session = {**SESSION, "encryption": sealing(key)}
    standing(fleet, session, encryption={"key_dirs": [key.parent]}).start()

    async def ask() -> bool:
        return "key file" in (await bus.ok("status")).get("reason", "")

    await eventually(ask, "the reason")
    make_key(key)
    status = await runs(bus)
    assert status["encryption"]["key_file"] == str(key)
    await counts(bus, sender)


async def test_finished_file_is_not_read_again(fleet: Fleet, bus: Bus, capture_file: Any) -> None:
    path = capture_file([])
    standing(fleet, {"interface": str(path), "backend": "file"}).start()
    first = await runs(bus)

    async def ask() -> dict[str, Any] | None:
        status = await bus.ok("status")
        return status if status["finished"] else None

    status = await eventually(ask, "the file to be read")
    await asyncio.sleep(6)  # longer than the interval of the checks
    assert (await bus.ok("status"))["session_id"] == status["session_id"] == first["session_id"]


# ---- managed captures and overrides --------------------------------------------------------------

CHANGES: list[tuple[str, dict[str, Any]]] = [
    ("start", OTHER),
    ("stop", {}),
    ("flow.meter.enable", {"enable": False}),
    ("netflow.export.enable", {"collector_ip": "127.0.0.1", "collector_port": 9}),
    ("encryption.enable", {"cipher_suite": "AES-256-GCM", "key_file": "", "enable": False}),
]


@pytest.mark.parametrize("present", [True, False])
async def test_managed_capture_is_not_changed_by_a_request(
    fleet: Fleet, bus: Bus, sender: Sender, *, present: bool
) -> None:
    standing(fleet, SESSION if present else {**SESSION, "interface": "absent0"}).start()
    before = await runs(bus) if present else await bus.ok("status")
    for verb, body in CHANGES:
        reply = await bus.request(verb, body)
        assert (reply.code, reply.error) == (409, "managed"), verb
    after = await bus.ok("status")
    for name in ("running", "wanted", "wanted_by"):
        assert after[name] == before[name]
    if present:
        for name in ("session_id", "metering", "export"):
            assert after[name] == before[name]
        await counts(bus, sender)


async def test_override_of_metering_lapses_in_the_same_session(
    fleet: Fleet, bus: Bus, sender: Sender
) -> None:
    standing(fleet, SESSION).start()
    before = await runs(bus)
    for verb, body in CHANGES[2:4]:
        await bus.ok(verb, {**body, "override": True, "override_sec": 60})
    await bus.ok("flow.meter.enable", {"enable": False, "override": True, "override_sec": 5})
    changed = await bus.ok("status")
    assert changed["metering"]["enabled"] is False
    assert changed["export"] is not None
    assert "flow.meter.enable" in changed["drift"]
    assert changed["reason"] == changed["drift"]
    restored = await runs(bus)
    assert "drift" not in restored
    for name in ("session_id", "metering", "export"):
        assert restored[name] == before[name]
    await counts(bus, sender)


async def test_override_of_the_capture_lapses(fleet: Fleet, bus: Bus, sender: Sender) -> None:
    agent = standing(fleet, SESSION).start()
    collector = await Collector.listen(bus)
    first = await runs(bus)
    await counts(bus, sender)
    started = await bus.ok("start", {**OTHER, "override": True, "override_sec": 60})
    records = await collector.packets_of(first["session_id"], len(FRAMES))
    check_lives(records)
    status = await bus.ok("status")
    assert status["buffer_size_mb"] == 9
    assert "the verb start" in status["drift"]
    assert status["session_id"] == started["session_id"]
    await counts(bus, sender)
    stopped = await bus.ok("stop", {"override": True, "override_sec": 5})
    assert stopped["packets_captured"] == len(FRAMES)
    reply = await bus.request("status")
    assert reply.code == 204
    assert "the verb stop" in reply.body["drift"]
    assert gauges(agent) == ("1.0", "0.0")
    assert page(agent, "/readyz")[0] == 503
    restored = await runs(bus, other_than=first["session_id"])
    assert restored["buffer_size_mb"] == 256
    await counts(bus, sender)
    assert page(agent, "/readyz")[0] == 200


async def test_override_ends_with_the_agent(fleet: Fleet, bus: Bus, sender: Sender) -> None:
    agent = standing(fleet, SESSION).start()
    await runs(bus)
    await bus.ok("stop", {"override": True})
    agent.terminate()
    agent.start()
    await runs(bus)
    await counts(bus, sender)


async def test_failed_override_changes_nothing(fleet: Fleet, bus: Bus, sender: Sender) -> None:
    standing(fleet, SESSION).start()
    before = await runs(bus)
    for body in ({**OTHER, "interface": "absent0"}, {**OTHER, "filter": "no such filter"}):
        assert (await bus.request("start", {**body, "override": True})).code == 400
    status = await bus.ok("status")
    assert "drift" not in status
    assert status["session_id"] == before["session_id"]
    await counts(bus, sender)


async def test_commands_persist_and_override(
    fleet: Fleet, bus: Bus, sender: Sender, nats_server: NatsServer
) -> None:
    async def command(*words: str) -> tuple[int, str]:
        shown = await asyncio.create_subprocess_exec(
            COMMAND,
            *(*words, "--host", "alpha", *client_flags(nats_server.url)),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        text = (await shown.communicate())[0].decode()
        return int(shown.returncode or 0), text

    agent = standing(fleet).start()
    code, text = await command("start", "-i", HOST_DEVICE, "-b", "af_packet", "--persist")
    assert code == 0, text
    assert (await runs(bus))["wanted_by"] == "persist"
    await counts(bus, sender)
    assert (await command("stop"))[0] == 0
    reload(agent, session=SESSION)
    await runs(bus)
    code, text = await command("stop")
    assert code == 1
    assert "managed" in text or "override" in text
    assert (await command("stop", "--override", "600"))[0] == 0
    assert "waiting" in (await command("status"))[1]
    code, text = await command("start", "-i", HOST_DEVICE, "-b", "af_packet", "--override")
    assert code == 0, text
    assert "the verb start" in (await bus.ok("status"))["drift"]
    assert (await command("meter", "on", "--override", "1"))[0] == 0
    await runs(bus)
    await counts(bus, sender)


# ---- persist -------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["kill", "terminate"])
async def test_persisted_start_lasts_until_stop(
    fleet: Fleet, bus: Bus, sender: Sender, end: str
) -> None:
    agent = standing(fleet).start()
    await bus.ok("start", {**SESSION, "persist": True})
    kept = agent.directory / "state" / "session.json"
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert (await bus.ok("status"))["wanted_by"] == "persist"
    await bus.ok("flow.meter.enable", {"enable": True, "flow_timeout_sec": 9})
    getattr(agent, end)()
    agent.start()
    status = await runs(bus)
    assert status["wanted"]["metering"] == {"enable": True}
    await counts(bus, sender)
    assert gauges(agent) == ("1.0", "1.0")
    collector = await Collector.listen(bus)
    stopped = await bus.ok("stop")
    records = await records_of(collector, status["session_id"], stopped)
    assert sum(record["packets"] for record in records) == stopped["packets_captured"]
    assert not kept.exists()
    assert "wanted" not in (await bus.ok("status"))
    agent.terminate()
    agent.start()
    assert (await bus.request("status")).code == 204


async def test_persisted_start_that_waits_can_be_stopped(
    fleet: Fleet, bus: Bus, wire: Wire
) -> None:
    agent = standing(fleet).start()
    await bus.ok("start", {**SESSION, "persist": True})
    agent.terminate()
    wire.host_ip("link", "delete", HOST_DEVICE)
    agent.start()
    assert (await bus.request("start", OTHER)).error == "session_active"
    stopped = await bus.ok("stop")
    assert (stopped["session_id"], stopped["packets_captured"]) == ("", 0)
    wire.connect()
    assert (await bus.request("stop")).error == "no_session"
    assert (await bus.request("status")).code == 204


async def test_failed_start_is_not_kept(fleet: Fleet, bus: Bus) -> None:
    agent = standing(fleet).start()
    bad = {**SESSION, "interface": "absent0", "persist": True}
    assert (await bus.request("start", bad)).error == "invalid_interface"
    both = await bus.request("start", {**SESSION, "persist": True, "override": True})
    assert (both.code, both.body["field"]) == (422, "$.persist")
    assert list((agent.directory / "state").iterdir()) == []


async def test_start_fails_if_it_cannot_be_kept(fleet: Fleet, bus: Bus) -> None:
    agent = fleet.agent()
    agent.directory.mkdir(parents=True)
    (agent.directory / "state").write_text("a file where the directory belongs")
    agent.start()
    reply = await bus.request("start", {**SESSION, "persist": True})
    assert (reply.code, reply.error) == (503, "state_unavailable")
    assert (await bus.request("status")).code == 204


async def test_configuration_comes_before_a_persisted_start(
    fleet: Fleet, bus: Bus, sender: Sender
) -> None:
    agent = standing(fleet).start()
    await bus.ok("start", {**OTHER, "persist": True})
    first = await runs(bus)
    reload(agent, session=SESSION)
    status = await runs(bus, other_than=first["session_id"])
    assert (status["wanted_by"], status["buffer_size_mb"]) == ("config", 256)
    await counts(bus, sender)
    reload(agent, session=None)
    status = await runs(bus, other_than=status["session_id"])
    assert (status["wanted_by"], status["buffer_size_mb"]) == ("persist", 9)
    await counts(bus, sender)


# ---- SIGHUP --------------------------------------------------------------------------------------


async def test_reload_changes_metering_and_export_without_a_gap(
    fleet: Fleet, bus: Bus, sender: Sender
) -> None:
    agent = standing(fleet, SESSION).start()
    before = await runs(bus)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.bind(("127.0.0.1", 0))
        port = receiver.getsockname()[1]
        export = {"collector_ip": "127.0.0.1", "collector_port": port, "export_interval_sec": 7}
        metering = {"enable": True, "flow_timeout_sec": 9}
        reload(agent, session={**SESSION, "metering": metering, "export": export})

        async def reloaded() -> dict[str, Any] | None:
            status = await bus.ok("status")
            metered = status["metering"]["flow_timeout_sec"] == 9
            return status if metered and status["export"] is not None else None

        status = await eventually(reloaded, "the collector and the timeout")
        assert status["session_id"] == before["session_id"]
        await counts(bus, sender)
        reload(agent, session={**SESSION, "metering": {"enable": False}})

        async def ended() -> bool:
            status = await bus.ok("status")
            return not status["metering"]["enabled"] and status["export"] is None

        await eventually(ended, "metering and export to end")
    status = await counts(bus, sender)
    assert status["export"] is None
    assert status["session_id"] == before["session_id"]
    assert status["packets_captured"] == 2 * len(FRAMES)


async def test_reload_of_another_option_starts_another_session(
    fleet: Fleet, bus: Bus, sender: Sender, tmp_path: Path
) -> None:
    agent = standing(fleet, SESSION, buffer={"export_dir": tmp_path / "packets"})
    agent.config["buffer"]["export_dir"].mkdir()
    agent.start()
    collector = await Collector.listen(bus)
    first = await runs(bus)
    await counts(bus, sender)
    reload(agent, session={**SESSION, "buffer_size_mb": 9})
    status = await runs(bus, other_than=first["session_id"])
    assert status["buffer_size_mb"] == 9
    assert len(await collector.packets_of(first["session_id"], len(FRAMES))) == len(FRAMES)
    await counts(bus, sender)
    found = await bus.ok("packets", {"to": "file", "start": "-1h"})
    assert found["packets"] == len(FRAMES)
    assert found["complete"] is False
    assert [gap["reason"] for gap in found["gaps"]] == ["replaced"]
    found = await bus.ok("packets", {"to": "file", "start": found["gaps"][0]["to"]})
    assert found["gaps"][0]["reason"] == "replaced", "the limits of a range are inclusive"
    found = await bus.ok("packets", {"to": "file", "start": found["first_time"]})
    assert (found["packets"], found["complete"]) == (len(FRAMES), True)
    reload(agent, session=None)

    async def stopped() -> bool:
        return (await bus.request("status")).code == 204

    await eventually(stopped, "the capture to end")


async def test_reload_without_the_interface_keeps_the_capture(
    fleet: Fleet, bus: Bus, sender: Sender
) -> None:
    agent = standing(fleet, SESSION).start()
    before = await runs(bus)
    reload(agent, session={**SESSION, "interface": "absent0"})

    async def reason() -> str:
        return str((await bus.ok("status")).get("reason", ""))

    await eventually(lambda: _contains(reason(), "absent0"), "the reason")
    status = await counts(bus, sender)
    assert status["session_id"] == before["session_id"]
    reload(agent, session=SESSION)
    assert (await runs(bus))["session_id"] == before["session_id"]


async def _contains(text: Any, part: str) -> bool:
    return part in await text


async def test_reload_changes_labels_and_groups(fleet: Fleet, bus: Bus) -> None:
    agent = fleet.start(labels={"site": "ams", "role": "web"})
    reload(agent, agent={"host": "alpha", "labels": {"site": "fra", "role": "web"}})

    async def metadata() -> dict[str, Any]:
        reply = await bus.client.request("$SRV.INFO.netsonde.alpha", timeout=15)
        return dict(json.loads(reply.data)["metadata"])

    async def moved() -> bool:
        return bool((await metadata())["site"] == "fra")

    await eventually(moved, "the new label")
    assert len(await bus.gather("capture.group.site.fra.status", 1)) == 1
    assert len(await bus.gather("capture.group.role.web.status", 1)) == 1
    with pytest.raises(NoRespondersError):
        await bus.client.request("capture.group.site.ams.status", timeout=15)


# ---- readiness for systemd -----------------------------------------------------------------------


@pytest.fixture
def notices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The datagrams that systemd would receive."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        listener.settimeout(60)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        yield lambda: listener.recv(4096).decode()


async def test_agent_is_ready_once_the_capture_runs(
    fleet: Fleet, bus: Bus, sender: Sender, notices: Any
) -> None:
    agent = standing(fleet, SESSION).spawn()
    assert notices().startswith("READY=1\nSTATUS=netsonde")
    assert gauges(agent) == ("1.0", "1.0")
    await runs(bus)
    await counts(bus, sender)


async def test_agent_is_ready_without_the_capture_after_a_time(
    fleet: Fleet, bus: Bus, wire: Wire, notices: Any
) -> None:
    wire.host_ip("link", "delete", HOST_DEVICE)
    standing(fleet, SESSION).spawn()
    first = await asyncio.to_thread(notices)
    assert first.startswith("READY=1\n")
    assert f"no interface '{HOST_DEVICE}'" in first
    wire.connect()
    then = await asyncio.to_thread(notices)
    assert then.startswith("STATUS=")
    assert "does not run" not in then
    await runs(bus)
    with contextlib.closing(wire.sender()) as sender:
        await counts(bus, sender)
