"""A stolen credential of one host does nothing to another host on a real server.

The thief has the credential of `alpha`, in both forms: a key in the server's file, and a JWT that
a signing key made offline. He uses it at the hub, and at a leaf node of a hub with a JetStream
domain. Each attempt is refused by the server, or has no effect.
"""

from __future__ import annotations

import asyncio
import base64
import json
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import pytest_asyncio

from agents import COMMAND, Agent, Fleet, client_flags
from bus import settled
from deadlines import eventually
from packets import UDP, at, ethernet, ipv4, udp, write_pcap
from roles import (
    FORMS,
    RoleClient,
    RoleServers,
    answers,
    ask,
    entered,
    file_read,
    login_of,
    records_stored,
)
from servers import NatsServer

SITE = "capture-packets"
OWN_KEY = "$KV.capture-hosts.alpha"
OTHER_GET = "$JS.API.DIRECT.GET.KV_capture-hosts.$KV.capture-hosts.beta"
FLOWS_GET = "$JS.API.DIRECT.GET.CAPTURE_FLOWS"
CONSUMER = "$JS.API.CONSUMER.CREATE.CAPTURE_FLOWS.mine.capture.stream.flows.beta"
MINE = b'{"name":"MINE","subjects":["capture.>"]}'
OWN_GET = f"$JS.API.DIRECT.GET.KV_capture-hosts.{OWN_KEY}"
STREAMS = (
    "CAPTURE_FLOWS",
    "CAPTURE_EVENTS",
    "KV_capture-hosts",
    "KV_capture-policy",
    f"OBJ_{SITE}",
)


@dataclass(frozen=True)
class Attempt:
    what: str
    subject: str
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)


# ---- the table ------------------------------------------------------------------------------

HEARD = [
    Attempt("requests to another host", "capture.host.beta.>"),
    Attempt("one request to another host", "capture.host.beta.status"),
    Attempt("requests to any host", "capture.host.*.status"),
    Attempt("requests to another group", "capture.group.site.fra.>"),
    Attempt("requests to any group", "capture.group.>"),
    Attempt("every subject of the fleet", "capture.>"),
    Attempt("every subject", ">"),
    Attempt("discovery of another host", "$SRV.PING.netsonde.beta"),
    Attempt("every discovery", "$SRV.>"),
    Attempt("records of another host", "capture.stream.flows.beta"),
    Attempt("every record", "capture.stream.>"),
    Attempt("its own records, to permit itself a reply", "capture.stream.flows.alpha"),
    Attempt("inventory of another host", "$KV.capture-hosts.beta"),
    Attempt("the inventory", "$KV.capture-hosts.>"),
    Attempt("its own inventory key, to permit itself a reply", OWN_KEY),
    Attempt("changes of another host's entry", "capture.inventory.beta"),
    Attempt("changes of any entry", "capture.inventory.*"),
    Attempt("leases of rollouts", "capture.policy.lease"),
    Attempt("every bucket", "$KV.>"),
    Attempt("results of another host", f"$O.{SITE}.C.beta.>"),
    Attempt("results of every host", f"$O.{SITE}.>"),
    Attempt("its own results, to permit itself a reply", f"$O.{SITE}.C.alpha.*"),
    Attempt("the inbox of another host", "_INBOX_beta.>"),
    Attempt("the inboxes of clients", "_INBOX.>"),
    Attempt("replies across accounts", "_R_.>"),
    Attempt("requests to JetStream", "$JS.API.>"),
    Attempt("JetStream's events", "$JS.EVENT.>"),
    Attempt("the server's events", "$SYS.>"),
]

DELETE = {"KV-Operation": "DEL"}
PURGE = {"KV-Operation": "PURGE", "Nats-Rollup": "sub"}
SENT = [
    Attempt("stop another host", "capture.host.beta.stop"),
    Attempt("start a capture elsewhere", "capture.host.beta.start"),
    Attempt("stop its own host", "capture.host.alpha.stop"),
    Attempt("stop every host", "capture.stop"),
    Attempt("stop another group", "capture.group.site.fra.stop"),
    Attempt("discovery", "$SRV.PING"),
    Attempt("records of another host", "capture.stream.flows.beta", b"forged"),
    Attempt("metrics of another host", "capture.stream.metrics.beta", b"forged"),
    Attempt("events of another host", "capture.stream.events.beta.audit", b"forged"),
    Attempt("an event of an unknown kind", "capture.stream.events.alpha.forged"),
    Attempt("changes of another host's entry", "capture.inventory.beta", b'{"boot":"0"}'),
    Attempt("announce a policy", "capture.policy.release", b"forged"),
    Attempt("write another host's entry", "$KV.capture-hosts.beta", b"forged"),
    Attempt("delete another host's entry", "$KV.capture-hosts.beta", b"", DELETE),
    Attempt("purge another host's entry", "$KV.capture-hosts.beta", b"", PURGE),
    Attempt("write a new entry", "$KV.capture-hosts.gamma", b"forged"),
    Attempt("release a policy", "$KV.capture-policy.release", b"forged"),
    Attempt("write a revision", "$KV.capture-policy.revision.1", b"forged"),
    Attempt("delete a revision", "$KV.capture-policy.revision.1", b"", DELETE),
    Attempt("take the lease of a rollout", "$KV.capture-policy.lease", b"forged"),
    Attempt("read another host's entry", OTHER_GET),
    Attempt("read all entries", "$JS.API.DIRECT.GET.KV_capture-hosts", b'{"seq":1}'),
    Attempt("read an entry by number", "$JS.API.STREAM.MSG.GET.KV_capture-hosts", b'{"seq":1}'),
    Attempt("read the records", FLOWS_GET, b'{"seq":1}'),
    Attempt("read another host's records", f"{FLOWS_GET}.capture.stream.flows.beta"),
    Attempt("read a record by number", "$JS.API.STREAM.MSG.GET.CAPTURE_FLOWS", b'{"seq":1}'),
    Attempt("read the events", "$JS.API.DIRECT.GET.CAPTURE_EVENTS", b'{"seq":1}'),
    Attempt("read the results", f"$JS.API.DIRECT.GET.OBJ_{SITE}", b'{"seq":1}'),
    Attempt("read a result by number", f"$JS.API.STREAM.MSG.GET.OBJ_{SITE}", b'{"seq":1}'),
    Attempt("list the results", f"$JS.API.STREAM.INFO.OBJ_{SITE}", b'{"subjects_filter":">"}'),
    Attempt("read another host's own bucket", "$JS.API.DIRECT.GET.OBJ_capture-packets-beta"),
    Attempt("list another host's own bucket", "$JS.API.STREAM.INFO.OBJ_capture-packets-beta"),
    Attempt("replace a result's entry", f"$O.{SITE}.M.beta.eA==", b"forged"),
    Attempt("replace a result's chunk", f"$O.{SITE}.C.beta.1", b"forged"),
    Attempt("an entry without a host", f"$O.{SITE}.M.eA==", b"forged"),
    Attempt("write into another host's own bucket", "$O.capture-packets-beta.C.1", b"forged"),
    Attempt("purge another host's own bucket", "$JS.API.STREAM.PURGE.OBJ_capture-packets-beta"),
    *(
        Attempt(f"{verb} {stream}", f"$JS.API.{verb}.{stream}")
        for stream in STREAMS
        for verb in (
            "STREAM.UPDATE", "STREAM.DELETE", "STREAM.PURGE", "STREAM.MSG.DELETE",
            "STREAM.SNAPSHOT", "STREAM.RESTORE", "CONSUMER.CREATE", "CONSUMER.LIST",
            "CONSUMER.NAMES", "STREAM.LEADER.STEPDOWN",
        )
    ),
    Attempt("a stream of every subject", "$JS.API.STREAM.CREATE.MINE", MINE),
    Attempt("a consumer of other records", CONSUMER),
    Attempt("a durable consumer", "$JS.API.CONSUMER.DURABLE.CREATE.CAPTURE_FLOWS.mine"),
    Attempt("take messages of a collector", "$JS.API.CONSUMER.MSG.NEXT.CAPTURE_FLOWS.col"),
    Attempt("look at a collector", "$JS.API.CONSUMER.INFO.CAPTURE_FLOWS.col"),
    Attempt("delete a collector", "$JS.API.CONSUMER.DELETE.CAPTURE_FLOWS.col"),
    Attempt("acknowledge for a collector", "$JS.ACK.CAPTURE_FLOWS.col.1.1.1.1.0"),
    Attempt("names of the streams", "$JS.API.STREAM.NAMES"),
    Attempt("list of the streams", "$JS.API.STREAM.LIST"),
    Attempt("use of the account", "$JS.API.INFO"),
    Attempt("reply to a client without a request", "_INBOX.x", b"forged"),
    Attempt("reply in the name of another host", "_INBOX_beta.x", b"forged"),
    Attempt("reply across accounts", "_R_.guess.1", b"forged"),
    Attempt("ask the server", "$SYS.REQ.SERVER.PING"),
    Attempt("change an account", "$SYS.REQ.CLAIMS.UPDATE", b"forged"),
]  # fmt: skip

# Subjects that a reply must not reach, named as the reply subject of a permitted message.
TARGETS = [
    "$KV.capture-hosts.beta",
    "$KV.capture-policy.release",
    "capture.stream.flows.beta",
    "capture.stream.events.beta.audit",
    "capture.inventory.beta",
    "capture.host.beta.stop",
    f"$O.{SITE}.C.beta.1",
    "$JS.API.STREAM.DELETE.KV_capture-policy",
    "$JS.API.STREAM.PURGE.KV_capture-hosts",
]


# ---- the stage -------------------------------------------------------------------------------


@pytest.fixture(params=list(FORMS))
def servers(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RoleServers]:
    """Has the streams, and one bucket for the results."""
    servers = RoleServers.start(tmp_path, str(request.param))
    done = command(
        servers, tmp_path, "streams", "nats", "streams", "--site-bucket", "--collector", "col"
    )
    assert (done.returncode, done.stderr) == (0, "")
    yield servers
    servers.kill()


@pytest.fixture
def nats_server(servers: RoleServers) -> NatsServer:
    """Replaces the suite's server."""
    return servers.hub


def command(
    servers: RoleServers, directory: Path, name: str, *words: str
) -> subprocess.CompletedProcess[str]:
    """Runs a command at the hub."""
    ((option, path),) = login_of(directory, name).items()
    flags = [*client_flags(servers.hub.url), f"--{option}", path]
    if servers.domain:
        flags += ["--jetstream-domain", servers.domain]
    return subprocess.run(
        [str(COMMAND), *words, *flags], capture_output=True, text=True, timeout=120
    )


@pytest.fixture
def beta(servers: RoleServers, fleet: Fleet, tmp_path: Path) -> Agent:
    section = {"servers": [servers.site.url], "jetstream_domain": servers.domain}
    return fleet.agent(
        "beta",
        labels={"site": "fra"},
        nats=section | login_of(tmp_path, "beta"),
        policy={"identity": "server", "allow": {"ctl": ["*"]}},
        flows={"jetstream": True, "spool_dir": tmp_path / "beta" / "spool"},
    ).spawn()


@pytest_asyncio.fixture
async def thief(servers: RoleServers, tmp_path: Path) -> AsyncIterator[RoleClient]:
    async with entered(servers.site, tmp_path, "alpha", inbox="_INBOX_alpha") as found:
        # The site's link to the hub may come up later than the site.
        await eventually(lambda: answers(found, servers.spelled(OWN_GET)), "the hub's JetStream")
        yield found


@pytest_asyncio.fixture
async def controller(nats_server: NatsServer, tmp_path: Path) -> AsyncIterator[RoleClient]:
    async with entered(nats_server, tmp_path, "ctl") as found:
        yield found


async def stored(server: NatsServer, directory: Path) -> dict[str, object]:
    """Returns what the streams hold of others than alpha: messages by subject."""
    found: dict[str, object] = {}
    async with entered(server, directory, "streams") as administrator:
        js = administrator.client.jetstream()
        for stream in STREAMS:
            info = await js.stream_info(stream, subjects_filter=">")
            counts = (info.state.subjects or {}).items()
            found |= {key: count for key, count in counts if "alpha" not in key.split(".")}
    return found


# ---- attempts --------------------------------------------------------------------------------


async def test_forbidden_subjects_are_refused(servers: RoleServers, tmp_path: Path) -> None:
    """At the site and at the hub, also after a reload, with and without the domain."""
    for _ in range(2):
        for server in servers.each:
            async with entered(server, tmp_path, "alpha", inbox="_INBOX_alpha") as thief:
                await check_refusals(servers, thief)
        await servers.reload()


@pytest.mark.parametrize("servers", ["static-leaf", "jwt-leaf"], indirect=True)
async def test_only_the_key_of_leaf_nodes_enters_as_one(
    servers: RoleServers, tmp_path: Path
) -> None:
    """nats-server does not check what a leaf node sends, so the login must be refused."""
    for name in ("alpha", "ctl", "streams"):
        intruder = intruding_leaf(servers, tmp_path, name).start()
        log = intruder.directory / "nats-server.log"

        def refused(log: Path = log) -> bool:
            return "Authorization Violation" in log.read_text()

        try:
            await eventually(refused, f"the refusal of {name}")
        finally:
            intruder.kill()


def intruding_leaf(servers: RoleServers, directory: Path, name: str) -> NatsServer:
    """Returns a server that connects to the hub as a leaf node, with the login of that name."""
    ((option, value),) = login_of(directory, name).items()
    login = f"credentials: {value}" if option == "creds" else f"nkey: {Path(value).read_text()}"
    url = f"nats-leaf://127.0.0.1:{servers.leaf_port}"
    remote = f"leafnodes {{ remotes: [ {{ url: {url}, {login} }} ] }}"
    return NatsServer(directory / f"intruder {name}", config=remote)


async def check_refusals(servers: RoleServers, thief: RoleClient) -> None:
    for attempt in HEARD:
        for subject in servers.spellings(attempt.subject):
            await thief.listen(subject)
            await thief.refused(subject)
    for attempt in SENT:
        for subject in servers.spellings(attempt.subject):
            thief.refusals.clear()
            await thief.client.publish(
                subject, attempt.body, reply="_INBOX_alpha.x", headers=attempt.headers or None
            )
            # The hub names the subject without its domain.
            await thief.refused(attempt.subject, subject)


async def test_reply_subject_reaches_nothing(
    beta: Agent,
    thief: RoleClient,
    controller: RoleClient,
    servers: RoleServers,
    nats_server: NatsServer,
    tmp_path: Path,
) -> None:
    """JetStream replies to any subject, and a received message permits a reply. Neither writes
    in another's name."""
    await eventually(lambda: answers(controller, "capture.host.beta.status"), "beta to answer")
    before = await settled_state(nats_server, tmp_path)
    forged = json.dumps({"host": "beta", "boot": "0", "version": "1", "time": "x"}).encode()
    for target in TARGETS:
        await thief.publish(servers.spelled(OWN_KEY), forged, reply=target)
        await thief.publish("capture.stream.flows.alpha", forged, reply=target)
        await thief.publish(f"$O.{SITE}.C.alpha.1", forged, reply=target)
        await thief.publish(servers.spelled(OWN_GET), b"", reply=target)
        await settled(thief.client)
        await thief.publish(target, b"")
        await thief.refused(target)
    reply = await ask(controller, "capture.host.beta.status")
    assert reply.code == 204, reply.body
    after = await stored(nats_server, tmp_path)
    changed = {key: count for key, count in after.items() if before.get(key) != count}
    assert set(changed) <= {"$KV.capture-hosts.beta", "capture.stream.events.beta.audit"}
    assert "name_taken" not in beta.log
    if "$KV.capture-hosts.beta" in before:
        assert after["$KV.capture-hosts.beta"] == 1
        entry = await entry_of(nats_server, tmp_path, "beta")
        assert entry["boot"] != "0"


async def settled_state(server: NatsServer, directory: Path) -> dict[str, object]:
    async def present() -> dict[str, object]:
        found = await stored(server, directory)
        return found if "$KV.capture-hosts.beta" in found else {}

    return await eventually(present, "beta's entry")


async def entry_of(server: NatsServer, directory: Path, host: str) -> dict[str, object]:
    async with entered(server, directory, "ctl") as someone:
        subject = "$JS.API.DIRECT.GET.KV_capture-hosts"
        body = json.dumps({"last_by_subj": f"$KV.capture-hosts.{host}"}).encode()
        reply = await someone.client.request(subject, body, timeout=10)
    found: dict[str, object] = json.loads(reply.data)
    return found


async def test_rollup_of_an_own_message_removes_nothing(
    beta: Agent,
    thief: RoleClient,
    servers: RoleServers,
    nats_server: NatsServer,
    tmp_path: Path,
) -> None:
    before = await settled_state(nats_server, tmp_path)
    for subject in (servers.spelled(OWN_KEY), f"$O.{SITE}.C.alpha.1", "capture.stream.flows.alpha"):
        for rollup in ("all", "sub"):
            reply = await thief.client.request(
                subject, b"x", timeout=10, headers={"Nats-Rollup": rollup}
            )
            assert "error" in json.loads(reply.data), (subject, rollup)
    assert before.keys() <= (await stored(nats_server, tmp_path)).keys()


# ---- positive controls -----------------------------------------------------------------------


async def test_the_same_credential_can_do_its_own_work(
    servers: RoleServers, thief: RoleClient, controller: RoleClient
) -> None:
    own_key = servers.spelled(OWN_KEY)
    entry = base64.urlsafe_b64encode(b"x").decode()
    for subject in (
        "capture.stream.flows.alpha",
        "capture.stream.events.alpha.audit",
        own_key,
        f"$O.{SITE}.C.alpha.1",
        f"$O.{SITE}.M.alpha.{entry}",
    ):
        reply = await thief.client.request(subject, b"{}", timeout=10)
        assert json.loads(reply.data)["seq"] > 0, subject
    assert (await thief.client.request(servers.spelled(OWN_GET), b"", timeout=10)).data == b"{}"
    release = servers.spelled("$JS.API.DIRECT.GET.KV_capture-policy.$KV.capture-policy.release")
    missing = await thief.client.request(release, b"", timeout=10)
    assert (missing.headers or {})["Status"] == "404"
    changes = await thief.listen("capture.inventory.alpha")
    await thief.listen("$KV.capture-policy.release")
    await thief.listen("capture.policy.release")
    asked = await thief.listen("capture.host.alpha.>")
    grouped = await thief.listen("capture.group.site.ams.>")
    await thief.client.request(own_key, b"{}", timeout=10)
    await eventually(lambda: changes, "the change")
    assert changes[0].reply == "", "a reply subject would permit a message to it"
    inbox = controller.client.new_inbox()
    heard = await controller.listen(inbox)
    await controller.publish("capture.host.alpha.status", reply=inbox)
    await controller.publish("capture.group.site.ams.status", reply=inbox)
    await eventually(lambda: asked and grouped, "the requests")
    for message in (asked[0], grouped[0]):
        await thief.publish(message.reply, b"{}")
    await eventually(lambda: len(heard) == 2, "the replies")
    assert thief.refusals == []


def test_an_agent_works_with_its_credential(
    beta: Agent, servers: RoleServers, nats_server: NatsServer, tmp_path: Path
) -> None:
    """Packets by way of the site's bucket, records by way of the stream."""
    frame = ethernet(ipv4(udp(b"payload", 1000, 53), UDP, "10.0.0.1", "10.0.0.2"))
    capture = write_pcap(tmp_path / "one.pcap", [at(1_767_225_600_000_000_000, frame)] * 3)
    asyncio.run(reached(nats_server, tmp_path))
    begun = command(
        servers, tmp_path, "ctl", "start", "--host", "beta", "--backend", "file",
        "--interface", str(capture), "--meter", "--buffer-mb", "1",
    )  # fmt: skip
    assert begun.returncode == 0, begun.stderr
    asyncio.run(when(nats_server, tmp_path, file_read, "the end of the file"))
    out = tmp_path / "out.pcapng"
    fetched = command(servers, tmp_path, "ctl", "packets", "--host", "beta", "-w", str(out))
    assert fetched.returncode == 0, fetched.stderr
    assert out.read_bytes().count(b"payload") == 3
    ended = command(servers, tmp_path, "ctl", "stop", "--host", "beta", "--json")
    assert ended.returncode == 0, ended.stderr
    asyncio.run(when(nats_server, tmp_path, records_stored, "the records stored"))
    refused = command(servers, tmp_path, "ops", "stop", "--host", "beta")
    assert refused.returncode == 1
    collected = command(
        servers, tmp_path, "col", "collect", "-o", str(tmp_path / "lake"),
        "--durable", "col", "--until-idle", "2", "--format", "jsonl",
    )  # fmt: skip
    assert collected.returncode == 0, collected.stderr
    lines = [
        json.loads(line)
        for path in (tmp_path / "lake").rglob("*.jsonl")
        for line in path.read_text().splitlines()
    ]
    assert sum(line["packets"] for line in lines) == 3
    assert {line["host"] for line in lines} == {"beta"}


async def reached(server: NatsServer, directory: Path) -> None:
    async with entered(server, directory, "ctl") as someone:
        await eventually(lambda: answers(someone, "capture.host.beta.status"), "beta to answer")


async def when(
    server: NatsServer,
    directory: Path,
    holds: Callable[[RoleClient, str], Awaitable[bool]],
    what: str,
) -> None:
    async with entered(server, directory, "ctl") as someone:
        await eventually(lambda: holds(someone, "beta"), what)
