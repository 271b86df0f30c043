"""Roles and JetStream on a real server: the keys of `netsonde nats setup` collect records and fetch
packets, and cannot do anything else with stored data. In both forms: keys in the server's file, and
JWTs. Each host has a bucket of its name."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from agents import COMMAND, Agent, Fleet, client_flags
from deadlines import eventually, eventually_now
from packets import Packet, read_capture
from recording import numbered_file
from roles import RELOADED, ask, both_answer, entered, file_read, login_of, records_stored, setup
from servers import NatsServer

DATAGRAMS = 2000  # twenty chunks of an object
FLOWS = 350  # numbered datagrams use 50 ports and 7 addresses


FORMS = {
    "static": (),
    "jwt": ("--jwt",),
    "static-domain": ("--jetstream-domain", "hub"),
    "jwt-domain": ("--jwt", "--jetstream-domain", "hub"),
}


@pytest.fixture(params=FORMS)
def form(request: pytest.FixtureRequest) -> tuple[str, ...]:
    return FORMS[request.param]


@pytest.fixture
def domain(form: tuple[str, ...]) -> str:
    return form[-1] if "--jetstream-domain" in form else ""


@pytest.fixture
def nats_server(form: tuple[str, ...], tmp_path: Path) -> Iterator[NatsServer]:
    words = ("--jetstream", str(tmp_path / "jetstream"), *form)
    config = setup(tmp_path, *words).read_text()
    server = NatsServer(tmp_path / "nats", config=config).start()
    os.kill(server.pid, signal.SIGHUP)  # a reload must not change the rules
    log = server.directory / "nats-server.log"
    eventually_now(lambda: RELOADED in log.read_text(), "the reload")
    yield server
    server.kill()


@pytest.fixture
def stored(nats_server: NatsServer, tmp_path: Path, domain: str) -> None:
    done = make_streams(nats_server, tmp_path, "streams", domain)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.fixture
def agents(stored: None, fleet: Fleet, tmp_path: Path, domain: str) -> list[Agent]:
    made = []
    for host in ("alpha", "beta"):
        flows = {"jetstream": True, "spool_dir": tmp_path / host / "spool"}
        section = login_of(tmp_path, host) | {"jetstream_domain": domain}
        policy = {"identity": "server"}
        made.append(fleet.agent(host, nats=section, flows=flows, policy=policy).spawn())
    return made


def command(
    server: NatsServer, directory: Path, name: str, *arguments: str, domain: str
) -> subprocess.CompletedProcess[str]:
    """Runs `netsonde …` with the key of that name."""
    ((option, path),) = login_of(directory, name).items()
    named = ("--jetstream-domain", domain) if domain else ()
    return subprocess.run(
        [str(COMMAND), *arguments, *client_flags(server.url), f"--{option}", path, *named],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip


def make_streams(
    server: NatsServer, directory: Path, name: str, domain: str
) -> subprocess.CompletedProcess[str]:
    words = ("nats", "streams", "--host", "alpha", "--host", "beta", "--collector", "col")
    return command(server, directory, name, *words, domain=domain)


async def capture(server: NatsServer, directory: Path, host: str) -> list[Packet]:
    """Returns the packets that the host has recorded and metered."""
    path, made = numbered_file(directory / f"{host}.pcap", DATAGRAMS)
    async with entered(server, directory, "ctl") as controller:
        await both_answer(controller)
        start = {"interface": str(path), "backend": "file", "metering": {"enable": True}}
        assert (await ask(controller, f"capture.host.{host}.start", start)).code == 200
        await eventually(lambda: file_read(controller, host), "the end of the file")
    return made


# ---- what is allowed ------------------------------------------------------------------------


@pytest.mark.asyncio(loop_factories=["uvloop"])
async def test_records_and_packets_reach_their_owners(
    agents: list[Agent], nats_server: NatsServer, tmp_path: Path, domain: str
) -> None:
    made = await capture(nats_server, tmp_path, "alpha")
    fetched = tmp_path / "fetched.pcapng"
    asked = ("packets", "--host", "alpha", "-w", str(fetched), "--timeout", "60")
    run = partial(command, nats_server, tmp_path, domain=domain)
    done = await asyncio.to_thread(run, "ctl", *asked)
    assert done.returncode == 0, done.stderr
    assert [packet.data for packet in read_capture(fetched)] == [packet.data for packet in made]

    async with entered(nats_server, tmp_path, "ctl") as controller:
        stopped = await ask(controller, "capture.host.alpha.stop")
        await eventually(lambda: records_stored(controller, "alpha"), "the records stored")
    assert stopped.body["packets_captured"] == DATAGRAMS
    collect = ("collect", "-o", str(tmp_path / "records"), "--durable", "col", "--json",
               "--until-idle", "1")  # fmt: skip
    done = await asyncio.to_thread(run, "col", *collect)
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stderr.splitlines()[-1])
    assert (summary["records"], summary["packets"], summary["gaps"]) == (FLOWS, DATAGRAMS, [])
    files = (tmp_path / "records").glob("*.jsonl")
    assert sum(len(file.read_text().splitlines()) for file in files) == FLOWS
    # Everything was acked, so another run of the collector receives nothing.
    collect = ("collect", "-o", str(tmp_path / "again"), *collect[3:])
    done = await asyncio.to_thread(run, "col", *collect)
    assert json.loads(done.stderr.splitlines()[-1])["records"] == 0, done.stderr
    assert [agent.log.count("ermissions") for agent in agents] == [0, 0]
    listed = await asyncio.to_thread(run, "ops", "ps", "--json")
    assert listed.returncode == 0, listed.stderr
    assert '"absent"' not in listed.stdout


def test_streams_are_created_with_the_streams_key_only(
    stored: None, nats_server: NatsServer, tmp_path: Path, domain: str
) -> None:
    again = make_streams(nats_server, tmp_path, "streams", domain)
    assert (again.returncode, again.stderr) == (0, "")
    refused = make_streams(nats_server, tmp_path, "ctl", domain)
    assert refused.returncode == 1
    assert "Use the key streams.nk" in refused.stderr


# ---- what is forbidden ---------------------------------------------------------------------------

BUCKET, OTHER_BUCKET = "OBJ_capture-packets-alpha", "OBJ_capture-packets-beta"
# (owner of the key, subjects). Creating a stream allows copying any subject into it. Creating a
# consumer allows delivery of a stream's messages, and of empty ones, to any subject.
FORBIDDEN = {
    "alpha": (
        "$JS.API.INFO",
        "$JS.API.STREAM.NAMES",
        "$JS.API.STREAM.CREATE.MINE",
        f"$JS.API.STREAM.CREATE.{BUCKET}",
        f"$JS.API.STREAM.DELETE.{BUCKET}",
        f"$JS.API.CONSUMER.CREATE.{BUCKET}.mine",
        f"$JS.API.DIRECT.GET.{BUCKET}",
        f"$JS.API.STREAM.INFO.{OTHER_BUCKET}",
        f"$JS.API.STREAM.PURGE.{OTHER_BUCKET}",
        f"$JS.API.STREAM.MSG.GET.{OTHER_BUCKET}",
        f"$JS.API.DIRECT.GET.{OTHER_BUCKET}",
        "$O.capture-packets-beta.C.x",
        "$O.capture-packets-beta.M.x",
        "$JS.API.STREAM.UPDATE.CAPTURE_FLOWS",
        "$JS.API.STREAM.DELETE.CAPTURE_FLOWS",
        "$JS.API.STREAM.PURGE.CAPTURE_FLOWS",
        "$JS.API.STREAM.PURGE.CAPTURE_EVENTS",
        "$JS.API.STREAM.MSG.GET.CAPTURE_FLOWS",
        "$JS.API.STREAM.MSG.DELETE.CAPTURE_FLOWS",
        "$JS.API.DIRECT.GET.CAPTURE_FLOWS",
        "$JS.API.CONSUMER.CREATE.CAPTURE_FLOWS",
        "$JS.API.CONSUMER.CREATE.CAPTURE_FLOWS.mine",
        "$JS.API.CONSUMER.DELETE.CAPTURE_FLOWS.col",
        "$JS.API.CONSUMER.MSG.NEXT.CAPTURE_FLOWS.col",
        "$JS.ACK.CAPTURE_FLOWS.col.1.1.1.1.0",
    ),
    "col": (
        "$JS.API.STREAM.INFO.CAPTURE_FLOWS",
        "$JS.API.STREAM.UPDATE.CAPTURE_FLOWS",
        "$JS.API.STREAM.DELETE.CAPTURE_FLOWS",
        "$JS.API.STREAM.PURGE.CAPTURE_FLOWS",
        "$JS.API.STREAM.MSG.GET.CAPTURE_FLOWS",
        "$JS.API.STREAM.MSG.DELETE.CAPTURE_FLOWS",
        "$JS.API.CONSUMER.CREATE.CAPTURE_FLOWS",
        "$JS.API.CONSUMER.CREATE.CAPTURE_FLOWS.col",
        "$JS.API.CONSUMER.CREATE.CAPTURE_FLOWS.col.capture.stream.flows.alpha",
        "$JS.API.CONSUMER.DURABLE.CREATE.CAPTURE_FLOWS.col",
        "$JS.API.CONSUMER.DELETE.CAPTURE_FLOWS.col",
        "$JS.API.CONSUMER.PAUSE.CAPTURE_FLOWS.col",
        "$JS.API.CONSUMER.INFO.CAPTURE_FLOWS.other",
        "$JS.API.CONSUMER.MSG.NEXT.CAPTURE_FLOWS.other",
        "$JS.API.CONSUMER.MSG.NEXT.CAPTURE_EVENTS.col",
        "$JS.ACK.CAPTURE_FLOWS.other.1.1.1.1.0",
        f"$JS.API.DIRECT.GET.{BUCKET}",
    ),
    "ops": (
        f"$JS.API.DIRECT.GET.{BUCKET}",
        "$JS.API.CONSUMER.MSG.NEXT.CAPTURE_FLOWS.col",
        "$JS.ACK.CAPTURE_FLOWS.col.1.1.1.1.0",
        "$JS.API.STREAM.PURGE.CAPTURE_FLOWS",
    ),
    "ctl": (
        "$JS.API.STREAM.CREATE.MINE",
        f"$JS.API.STREAM.DELETE.{BUCKET}",
        f"$JS.API.STREAM.PURGE.{BUCKET}",
        f"$JS.API.CONSUMER.CREATE.{BUCKET}.mine",
        "$O.capture-packets-alpha.M.x",
        "$JS.API.DIRECT.GET.CAPTURE_EVENTS",
        "$JS.API.CONSUMER.MSG.NEXT.CAPTURE_FLOWS.col",
    ),
    "streams": ("capture.host.alpha.stop", "capture.stream.flows.alpha"),
}


@pytest.mark.asyncio(loop_factories=["uvloop"])
async def test_stored_data_is_out_of_reach(
    stored: None, nats_server: NatsServer, tmp_path: Path, domain: str
) -> None:
    api = f"$JS.{domain}.API." if domain else "$JS.API."
    for name, subjects in FORBIDDEN.items():
        inbox = "_INBOX_alpha" if name == "alpha" else "_INBOX"
        async with entered(nats_server, tmp_path, name, inbox=inbox) as thief:
            for subject in subjects:
                await thief.publish(subject.replace("$JS.API.", api))
            for subject in subjects:  # a server maps subjects of its domain to these
                await thief.refused(subject)
            assert len(thief.refusals) == len(subjects)


@pytest.mark.asyncio(loop_factories=["uvloop"])
async def test_jetstream_cannot_deliver_commands(
    agents: list[Agent], nats_server: NatsServer, tmp_path: Path
) -> None:
    """JetStream replies to any given subject; alpha's key uses that to send beta a request."""
    async with (
        entered(nats_server, tmp_path, "ctl") as controller,
        entered(nats_server, tmp_path, "col") as collector,
        entered(nats_server, tmp_path, "alpha", inbox="_INBOX_alpha") as thief,
    ):
        await both_answer(controller)
        audits = await collector.listen("capture.stream.events.beta.audit")
        await thief.publish("capture.stream.flows.alpha", reply="capture.host.beta.stop")
        await eventually(lambda: audits, "the refusal in beta's audit")
        event = json.loads(audits[0].data)
        assert (event["event"], event["data"]["code"]) == ("stop", 403)
        assert "caller" not in event["data"]
