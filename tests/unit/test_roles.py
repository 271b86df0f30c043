"""Rights of each role: exactly which subjects, and the server configuration that grants them."""

from __future__ import annotations

import re
from typing import Any

import msgspec
import pytest

from netsonde.errors import ConfigError
from netsonde.fleet.roles import (
    Client,
    Host,
    Transport,
    agent_permissions,
    check_clients,
    client_permissions,
    jetstream_imports,
    jetstream_subjects,
    parse_hosts,
    request_subjects,
    server_config,
)
from netsonde.wire.verbs import VERBS

HOSTS = [Host("alpha", {"site": "ams"}), Host("beta")]


def test_hosts_are_read_with_labels() -> None:
    lines = ["# comment", "", "Alpha site=ams rack=r1 # comment", "beta"]
    assert parse_hosts(lines) == [Host("alpha", {"site": "ams", "rack": "r1"}), Host("beta")]


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (["a", "b", "a"], "line 3: duplicate host a"),
        (["a", "b x"], "line 2: 'x' is not key=value"),
        (["a x="], "line 1"),
        (["a =x"], "line 1"),
    ],
)
def test_malformed_lines_are_named(lines: list[str], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        parse_hosts(lines)


@pytest.mark.parametrize(
    "name", ["AGENTS", "agents", "Store", "SYS", "streams", "1a", "", "a b", "a" * 65]
)
def test_reserved_and_malformed_clients_are_rejected(name: str) -> None:
    with pytest.raises(ConfigError):
        check_clients([Client(name, "operator")])


def test_clients_have_one_role() -> None:
    check_clients([Client("a" * 64, "operator"), Client("b", "controller")])
    with pytest.raises(ConfigError, match="only one role"):
        check_clients([Client("a", "operator"), Client("a", "controller")])


def test_operators_cannot_change_anything() -> None:
    subjects = request_subjects("capture", "operator")
    for name, verb in VERBS.items():
        for prefix in ("capture.", "capture.host.*.", "capture.group.*.*."):
            assert (f"{prefix}{name}" in subjects) is not verb.changes
    assert "capture.host.*.>" not in subjects
    assert "$SRV.PING.netsonde.*" in subjects
    assert request_subjects("capture", "collector") == []
    assert "capture.host.*.>" in request_subjects("capture", "controller")


def test_collectors_pull_from_their_consumer_only() -> None:
    stored = jetstream_subjects("capture", Client("lake", "collector"), HOSTS)
    assert stored == [
        "$JS.API.CONSUMER.INFO.CAPTURE_FLOWS.lake",
        "$JS.API.CONSUMER.MSG.NEXT.CAPTURE_FLOWS.lake",
        "$JS.ACK.CAPTURE_FLOWS.lake.>",
    ]
    assert jetstream_imports(stored) == ["$JS.API.>", "$JS.ACK.CAPTURE_FLOWS.lake.>"]
    assert client_permissions("capture", "collector", stored)["publish"] == {"allow": stored}
    assert client_permissions("capture", "collector")["publish"] == {"deny": [">"]}
    reading = [
        "$JS.API.STREAM.INFO.KV_capture-hosts",
        "$JS.API.STREAM.INFO.KV_capture-policy",
        "$JS.API.DIRECT.GET.KV_capture-hosts",
        "$JS.API.DIRECT.GET.KV_capture-policy.$KV.capture-policy.>",
    ]
    assert jetstream_subjects("capture", Client("op", "operator"), HOSTS) == reading


@pytest.mark.parametrize("jetstream", [False, True])
def test_agents_publish_their_own_subjects(jetstream: bool) -> None:
    rights = agent_permissions("capture", HOSTS[0], jetstream=jetstream)
    allowed = rights["publish"]["allow"]  # type: ignore[index]
    assert "capture.stream.flows.alpha" in allowed
    assert not [subject for subject in allowed if "beta" in subject]
    assert ("$O.capture-packets-alpha.>" in allowed) is jetstream
    heard = rights["subscribe"]["allow"]  # type: ignore[index]
    assert "capture.host.alpha.>" in heard
    assert "capture.group.site.ams.>" in heard
    assert "_INBOX_alpha.>" in heard
    assert rights["allow_responses"] == {"max": 1, "expires": "15m"}


def test_agents_cannot_permit_themselves_a_subject() -> None:
    """nats-server permits a reply to each message that an agent receives, also its own."""
    rights = msgspec.convert(
        agent_permissions("capture", HOSTS[0], jetstream=True), type=dict[str, dict[str, Any]]
    )
    for sent in rights["publish"]["allow"]:
        for heard in rights["subscribe"]["allow"]:
            assert not overlap(sent.split("."), heard.split(".")), (sent, heard)


def overlap(one: list[str], other: list[str]) -> bool:
    """Returns whether a subject can match both patterns."""
    for left, right in zip(one, other, strict=False):
        if ">" in (left, right):
            return True
        if "*" not in (left, right) and left != right:
            return False
    return len(one) == len(other)


def test_jetstream_replies_cannot_reach_a_stream() -> None:
    """Agents are in an account without JetStream."""
    text = server_config(
        "capture", HOSTS, [], {"alpha": "UA", "beta": "UB", "streams": "US"},
        Transport(jetstream_dir="/j"),
    )  # fmt: skip
    agents, store = text.split('"STORE": {')
    assert '"UA"' in agents
    assert "jetstream: enabled" not in agents
    assert "jetstream: enabled" in store
    assert '"US"' in store


def test_names_of_hosts_and_clients_differ() -> None:
    with pytest.raises(ConfigError, match="beta: used as a host name and as a client name"):
        server_config("capture", HOSTS, [Client("beta", "operator")], {}, Transport())


def test_configuration_has_what_was_asked_for() -> None:
    nkeys = {"alpha": "UA", "beta": "UB", "op": "UO", "streams": "US"}
    clients = [Client("op", "operator")]
    plain = server_config("capture", HOSTS, clients, nkeys, Transport())
    assert 'listen: "0.0.0.0:4222"' in plain
    assert "tls {" not in plain
    assert "jetstream" not in plain
    assert "US" not in plain
    full = server_config(
        "capture",
        HOSTS,
        clients,
        nkeys,
        Transport(
            tls_cert="/c", tls_key="/k", tls_ca="/a", tls_handshake_first=True, jetstream_dir="/j"
        ),
    )
    for line in (
        '  cert_file: "/c"',
        '  ca_file: "/a"',
        "  verify: true",
        "  handshake_first: true",
        'jetstream { store_dir: "/j" }',
        "    jetstream: enabled",
    ):
        assert line in full.splitlines()
    assert '"US"' in full


def test_a_collector_imports_no_requests() -> None:
    nkeys = {"alpha": "UA", "beta": "UB", "op": "UO", "col": "UC", "streams": "US"}
    clients = [Client("op", "operator"), Client("col", "collector")]
    text = server_config("capture", HOSTS, clients, nkeys, Transport(jetstream_dir="/j"))
    found = re.findall(r'{"\w+": "(\S+)".*"accounts": (\[.*\])}', text)
    exports = dict(reversed(found))  # the agents' account comes first
    assert exports["capture.>"] == exports["$SRV.>"] == '["op"]'
    assert exports["capture.stream.>"] == '["op", "col"]'
