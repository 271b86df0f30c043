"""The roles of `netsonde nats setup` on a real server: each can do its part and nothing more.

There are two agents, `alpha` and `beta`. The test also uses their keys as a thief would, and the
keys of a controller, an operator and a collector.
"""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from agents import COMMAND, Agent, Fleet, client_flags
from deadlines import eventually, eventually_now
from identities import secret_file
from netsonde.bus import nkey
from netsonde.bus.credentials import Login
from netsonde.bus.nats_client import GuardedClient
from netsonde.config.sections import NatsSection
from packets import UDP, at, ethernet, ipv4, udp, write_pcap
from roles import RoleClient, ask, both_answer, entered, file_read, key_of, raw_client, setup
from servers import NatsServer

QUIET_SEC = 0.3  # wait for messages that must not arrive; a round trip takes a few milliseconds


@pytest.fixture
def nats_server(tmp_path: Path) -> Iterator[NatsServer]:
    """Replaces the suite's server, which needs no login."""
    config = setup(tmp_path, "--tapper", "tap").read_text()
    server = NatsServer(tmp_path / "nats", config=config).start()
    yield server
    server.kill()


@pytest.fixture
def agents(fleet: Fleet, tmp_path: Path) -> list[Agent]:
    made = []
    for host, site in (("alpha", "ams"), ("beta", "fra")):
        section = {"nkey": key_of(tmp_path, host)}
        policy = {"identity": "server"}
        agent = fleet.agent(host, labels={"site": site}, nats=section, policy=policy)
        made.append(agent.spawn())
    return made


# ---- what is allowed ------------------------------------------------------------------------


async def test_each_role_can_do_its_part(
    agents: list[Agent], nats_server: NatsServer, tmp_path: Path
) -> None:
    frame = ethernet(ipv4(udp(b"payload", 1000, 53), UDP, "10.0.0.1", "10.0.0.2"))
    capture = write_pcap(tmp_path / "one.pcap", [at(1_767_225_600_000_000_000, frame)])
    async with (
        entered(nats_server, tmp_path, "ctl") as controller,
        entered(nats_server, tmp_path, "ops") as operator,
        entered(nats_server, tmp_path, "col") as collector,
    ):
        await both_answer(controller)
        await both_answer(operator)
        streams = await collector.listen("capture.stream.>")
        start = {"interface": str(capture), "backend": "file", "metering": {"enable": True}}
        assert (await ask(controller, "capture.host.alpha.start", start)).code == 200
        await eventually(lambda: file_read(controller, "alpha"), "the end of the file")
        assert (await ask(operator, "capture.host.alpha.status")).code == 200
        assert (await ask(operator, "capture.group.site.fra.status")).code == 204
        assert (await ask(controller, "capture.group.site.ams.flows")).code == 200
        assert (await ask(controller, "capture.host.alpha.stop")).code == 200
        assert (await ask(controller, "capture.host.alpha.reboot")).code == 404
        ping = "$SRV.PING.netsonde.alpha"
        assert b"alpha" in (await operator.client.request(ping, timeout=10)).data
        await eventually(
            lambda: (
                {"capture.stream.flows.alpha", "capture.stream.events.alpha.audit"}
                <= {message.subject for message in streams}
            ),
            "the streams",
        )
        for someone in (controller, operator, collector):
            assert someone.refusals == []
        assert [agent.log.count("ermissions") for agent in agents] == [0, 0]


def test_commands_accept_a_key(
    agents: list[Agent], nats_server: NatsServer, tmp_path: Path
) -> None:
    def run(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        key = str(key_of(tmp_path, name))
        return subprocess.run(
            [str(COMMAND), *arguments, *client_flags(nats_server.url), "--nkey", key, "--json",
             "--host", "alpha", "--timeout", "10"], capture_output=True, text=True,
        )  # fmt: skip

    eventually_now(lambda: '"host":"alpha"' in run("ops", "status").stdout, "alpha to answer")
    refused = run("ops", "stop")
    assert refused.returncode == 1
    assert "ermissions" in refused.stderr
    assert "no_session" in run("ctl", "stop").stdout


async def test_audit_names_the_caller_and_ignores_forged_headers(
    agents: list[Agent], nats_server: NatsServer, tmp_path: Path
) -> None:
    forged = '{"acc":"root","user":"root","host":"10.9.9.9"}'
    async with (
        entered(nats_server, tmp_path, "ctl") as controller,
        entered(nats_server, tmp_path, "col") as collector,
    ):
        await both_answer(controller)
        audits = await collector.listen("capture.stream.events.*.audit")
        await ask(controller, "capture.host.alpha.stop")
        await ask(controller, "capture.host.alpha.stop", Nats_Request_Info=forged)
        raw = raw_client(nats_server, key_of(tmp_path, "ctl").read_text().strip())
        spellings = (
            "Nats-Request-Info: {0}\r\nNats-Request-Info: {0}\r\n",
            "nats-request-info: {0}\r\n",
            "Nats-Request-Info : {0}\r\n",
            " Nats-Request-Info: {0}\r\n",
            "A: b\r\n Nats-Request-Info: {0}\r\n",
            "A: b\nNats-Request-Info: {0}\r\n",
            "A: b\r\n\r\nNats-Request-Info: {0}\r\n",
        )
        for spelling in spellings:
            head = b"NATS/1.0\r\n" + spelling.format(forged).encode() + b"\r\n"
            size = len(head)
            raw.sendall(b"HPUB capture.host.alpha.stop %d %d\r\n%s\r\n" % (size, size, head))
        await eventually(lambda: len(audits) == 2 + len(spellings), "the audit events")
        raw.close()
        public = nkey.public_key(key_of(tmp_path, "ctl").read_text().strip())
        for message in audits:
            caller = json.loads(message.data)["data"]["caller"]
            assert caller == {"account": "ctl", "user": public, "address": "127.0.0.1"}
    assert public in agents[0].log, "the audit is also in the log"


# ---- what is forbidden ---------------------------------------------------------------------------

# (owner of the key, publish or subscribe, subject)
FORBIDDEN = [
    # An agent's stolen key cannot command any host, not even its own.
    ("alpha", "publish", "capture.host.beta.start"),
    ("alpha", "publish", "capture.host.beta.stop"),
    ("alpha", "publish", "capture.host.beta.status"),
    ("alpha", "publish", "capture.host.alpha.stop"),
    ("alpha", "publish", "capture.stop"),
    ("alpha", "publish", "capture.status"),
    ("alpha", "publish", "capture.group.site.fra.stop"),
    ("alpha", "publish", "$SRV.PING"),
    # It cannot publish in another agent's name.
    ("alpha", "publish", "capture.stream.flows.beta"),
    ("alpha", "publish", "capture.stream.metrics.beta"),
    ("alpha", "publish", "capture.stream.events.beta.audit"),
    ("alpha", "publish", "capture.stream.events.alpha.forged"),
    ("alpha", "publish", "_INBOX.anyone"),
    ("alpha", "publish", "_INBOX_beta.1"),
    ("alpha", "publish", "_R_.guess.1"),
    # It receives nothing meant for other agents.
    ("alpha", "listen", "capture.stream.flows.beta"),
    ("alpha", "listen", "capture.stream.>"),
    ("alpha", "listen", "capture.host.beta.>"),
    ("alpha", "listen", "capture.host.*.start"),
    ("alpha", "listen", "capture.group.site.fra.>"),
    ("alpha", "listen", "capture.>"),
    ("alpha", "listen", ">"),
    ("alpha", "listen", "_INBOX.>"),
    ("alpha", "listen", "_INBOX_beta.>"),
    ("alpha", "listen", "_R_.>"),
    ("alpha", "listen", "$SRV.PING.netsonde.beta"),
    ("alpha", "listen", "$SYS.>"),
    # An operator cannot change anything.
    ("ops", "publish", "capture.start"),
    ("ops", "publish", "capture.host.alpha.stop"),
    ("ops", "publish", "capture.group.site.ams.flow.meter.enable"),
    ("ops", "publish", "capture.stream.flows.alpha"),
    ("ops", "publish", "capture.host.alpha.status.x"),
    ("ops", "listen", "capture.host.>"),
    # A collector cannot send requests.
    ("col", "publish", "capture.start"),
    ("col", "publish", "capture.status"),
    ("col", "publish", "capture.host.alpha.stop"),
    ("col", "publish", "capture.stream.flows.alpha"),
    ("col", "publish", "$SRV.PING"),
    ("col", "listen", "capture.stop"),
    # A controller cannot act as an agent.
    ("ctl", "publish", "capture.stream.events.alpha.audit"),
    ("ctl", "publish", "$SYS.REQ.SERVER.PING"),
    ("ctl", "publish", "$JS.API.STREAM.CREATE.X"),
    ("ctl", "listen", "capture.host.alpha.>"),
    ("ctl", "listen", "$SYS.>"),
]  # fmt: skip


async def test_forbidden_subjects_are_refused(
    agents: list[Agent], nats_server: NatsServer, tmp_path: Path
) -> None:
    assert len(FORBIDDEN) >= 25
    async with (
        entered(nats_server, tmp_path, "ctl") as controller,
        entered(nats_server, tmp_path, "col") as collector,
    ):
        await both_answer(controller)
        heard = await collector.listen("capture.stream.>")
        for name, action, subject in FORBIDDEN:
            inbox = f"_INBOX_{name}" if name in ("alpha", "beta") else "_INBOX"
            async with entered(nats_server, tmp_path, name, inbox=inbox) as thief:
                if action == "publish":
                    await thief.publish(subject, b'{"reason": "stolen"}')
                else:
                    await thief.listen(subject)
                await thief.refused(subject)
        assert [m for m in heard if b"stolen" in m.data] == []
        # No request had an effect.
        assert (await ask(controller, "capture.host.beta.stop")).error == "no_session"


async def test_replies_are_private(
    agents: list[Agent], nats_server: NatsServer, tmp_path: Path
) -> None:
    """Another client subscribes to every inbox of its account and receives nothing."""
    async with (
        entered(nats_server, tmp_path, "ctl") as controller,
        entered(nats_server, tmp_path, "ops") as snoop,
        entered(nats_server, tmp_path, "alpha", inbox="_INBOX_alpha") as thief,
    ):
        await both_answer(controller)
        heard = await snoop.listen("_INBOX.>")
        # The stolen key receives requests to alpha and none to beta.
        asked = await thief.listen("capture.host.alpha.>")
        await ask(controller, "capture.host.beta.status")
        assert (await ask(controller, "capture.host.beta.status")).code == 204
        await asyncio.sleep(QUIET_SEC)
        assert heard == []
        assert asked == []


async def test_agent_can_reply_only_to_received_requests(
    agents: list[Agent], nats_server: NatsServer, tmp_path: Path
) -> None:
    """The stolen key may send one reply to a received request, and none without a request."""
    async with (
        entered(nats_server, tmp_path, "ctl") as controller,
        entered(nats_server, tmp_path, "alpha", inbox="_INBOX_alpha") as thief,
    ):
        await both_answer(controller)
        asked = await thief.listen("capture.host.alpha.>")
        await ask(controller, "capture.host.alpha.status")
        await eventually(lambda: asked, "the request to reach the thief")
        await thief.publish(asked[0].reply, b"{}")
        await thief.publish(asked[0].reply, b"{}")
        await thief.refused(asked[0].reply)


async def test_reply_subject_cannot_carry_a_command(
    agents: list[Agent], nats_server: NatsServer, tmp_path: Path
) -> None:
    """An operator is not allowed to stop beta and asks alpha to reply to beta's `stop` subject."""
    async with (
        entered(nats_server, tmp_path, "ctl") as controller,
        entered(nats_server, tmp_path, "ops") as operator,
        entered(nats_server, tmp_path, "col") as collector,
    ):
        await both_answer(controller)
        audits = await collector.listen("capture.stream.events.*.audit")
        for order in ("capture.host.beta.stop", "capture.stop", "capture.stream.flows.beta"):
            await operator.publish("capture.host.alpha.status", reply=order)
        await ask(operator, "capture.host.alpha.status")
        await ask(operator, "capture.host.beta.status")
        await asyncio.sleep(QUIET_SEC)
        assert audits == []


async def test_client_without_a_key_is_rejected(nats_server: NatsServer, tmp_path: Path) -> None:
    stranger = secret_file(tmp_path / "stranger.nk", nkey.make_seed())
    login = Login(NatsSection(nkey=str(stranger)))
    for options in ({}, {"user": "alpha", "password": ""}, login.options):
        client = GuardedClient()
        client.login = login if "signature_cb" in options else None
        with pytest.raises(Exception, match=r"(?i)authorization"):
            await client.connect(nats_server.url, allow_reconnect=False, **options)


# ---- taps -----------------------------------------------------------------------------------


def follow_words(nats_server: NatsServer, directory: Path, name: str) -> list[str]:
    config = directory / f"{name}.toml"
    config.write_text(
        f'[nats]\nservers = ["{nats_server.url}"]\nnkey = "{key_of(directory, name)}"\n'
    )
    words = [
        str(COMMAND),
        "packets",
        "--follow",
        "--config",
        str(config),
        "--nats",
        nats_server.url,
    ]
    return [*words, "--filter", "udp", "--host", "alpha", "-w", str(directory / f"{name}.pcapng")]


@pytest.mark.parametrize("name", ["ctl", "tap"])
async def test_a_tap_reaches_only_its_caller(
    agents: list[Agent], nats_server: NatsServer, tmp_path: Path, name: str
) -> None:
    """The agent's messages cross accounts. Neither another controller nor a collector hears them,
    and neither may control the tap."""
    frame = ethernet(ipv4(udp(b"payload", 1000, 53), UDP, "10.0.0.1", "10.0.0.2"))
    times = range(1_767_225_600_000_000_000, 1_767_225_600_000_000_000 + 20 * 10**9, 10**8)
    capture = write_pcap(tmp_path / "slow.pcap", [at(time_ns, frame) for time_ns in times])
    other = "ctl" if name == "tap" else "tap"
    async with (
        entered(nats_server, tmp_path, "ctl") as controller,
        entered(nats_server, tmp_path, other) as stranger,
        entered(nats_server, tmp_path, "col") as collector,
    ):
        await both_answer(controller)
        start = {"interface": str(capture), "backend": "file", "replay_speed": 1.0}
        assert (await ask(controller, "capture.host.alpha.start", start)).code == 200
        heard = await stranger.listen("capture.tapped.mine.>")
        words = follow_words(nats_server, tmp_path, name)
        live = await asyncio.create_subprocess_exec(*words)
        tap = await eventually(lambda: _open_tap(controller), "the tap")
        reply = await ask(stranger, f"capture.host.alpha.tap.{tap}.credit", {"bytes": 1})
        assert (reply.code, reply.body["error"]) == (403, "policy_denied")
        file = tmp_path / f"{name}.pcapng"
        await eventually(lambda: file.read_bytes().count(b"payload") >= 5, "the packets")
        live.send_signal(signal.SIGINT)
        assert await live.wait() == 0
        live = await asyncio.create_subprocess_exec(*words, "--max-packets", "5")
        assert await live.wait() == 0
        assert file.read_bytes().count(b"payload") == 5
        assert heard == []
        await collector.publish("capture.host.alpha.tap", b"{}")
        await collector.refused("capture.host.alpha.tap")


async def _open_tap(controller: RoleClient) -> str | None:
    status = await ask(controller, "capture.host.alpha.status")
    taps = status.body.get("taps") or []
    return str(taps[0]["tap"]) if taps else None


async def test_a_tapper_may_not_retrieve_and_an_operator_may_not_tap(
    agents: list[Agent], nats_server: NatsServer, tmp_path: Path
) -> None:
    async with (
        entered(nats_server, tmp_path, "tap") as tapper,
        entered(nats_server, tmp_path, "ops") as operator,
    ):
        await both_answer(tapper)
        await tapper.publish("capture.host.alpha.packets")
        await tapper.refused("capture.host.alpha.packets")
        await operator.publish("capture.host.alpha.tap")
        await operator.refused("capture.host.alpha.tap")
