"""The `[policy]` table: how a caller is identified and which verbs the caller may use."""

from __future__ import annotations

import pytest

from netsonde.config.sections import PolicySection
from netsonde.errors import PolicyDenied
from netsonde.service.policy import Caller, Policy
from netsonde.wire.verbs import VERBS

INFO = '{"acc":"ops","user":"UABC","host":"10.0.0.9","rtt":1,"lang":"python3"}'
OPS = Caller("ops", "UABC", "10.0.0.9")


def identified(headers: dict[str, str] | None, identity: str = "server") -> Caller | None:
    return Policy(PolicySection(identity=identity)).identify(headers)  # type: ignore[arg-type]


def test_identity_is_read_from_the_servers_header() -> None:
    assert identified({"Nats-Request-Info": INFO}) == OPS
    assert identified({"Nats-Request-Info": INFO}, "none") is None


@pytest.mark.parametrize(
    "headers",
    [
        None,
        {},
        {"nats-request-info": INFO},
        {"Nats-Request-Info ": INFO},
        {"NATS-REQUEST-INFO": INFO},
        {"Nats-Request-Info": ""},
        {"Nats-Request-Info": "{"},
        {"Nats-Request-Info": '{"acc": 5}'},
        {"Nats-Request-Info": "\ud800"},
    ],
)
def test_other_headers_identify_no_caller(headers: dict[str, str] | None) -> None:
    assert identified(headers) is None


def allowed(allow: dict[str, list[str]], caller: Caller | None) -> set[str]:
    policy = Policy(PolicySection(identity="server", allow=allow))
    found = set()
    for name, verb in VERBS.items():
        try:
            policy.check(caller, verb)
        except PolicyDenied:
            continue
        found.add(name)
    return found


READING = {name for name, verb in VERBS.items() if not verb.changes}


@pytest.mark.parametrize(
    ("allow", "caller", "verbs"),
    [
        ({}, None, READING),
        ({"*": ["*"]}, None, READING),
        ({}, OPS, set(VERBS)),
        ({"ops": ["*"]}, OPS, set(VERBS)),
        ({"ops": ["*"]}, None, set()),
        ({"ops": ["*"]}, Caller("other", "UXYZ", ""), set()),
        ({"ops": ["read"]}, OPS, READING),
        ({"ops": ["read", "stop"]}, OPS, READING | {"stop"}),
        ({"ops": []}, OPS, set()),
        ({"ops": [], "*": ["*"]}, OPS, set()),  # the exact entry wins, and it is empty
        ({"UABC": ["status"], "ops": ["*"]}, OPS, {"status"}),
        ({"*": ["status"]}, None, {"status"}),
        ({"*": ["status"]}, OPS, {"status"}),
        ({"ops": ["*"], "*": ["status"]}, None, {"status"}),
        ({"": ["*"]}, Caller("", "", ""), set()),
        ({"*": ["status"], "x": ["*"]}, Caller("*", "*", ""), {"status"}),
    ],
)
def test_allowed_verbs_by_caller(
    allow: dict[str, list[str]], caller: Caller | None, verbs: set[str]
) -> None:
    assert allowed(allow, caller) == verbs


@pytest.mark.parametrize(
    ("allow", "allowed"),
    [
        ({}, True),
        ({"fleet": ["start"]}, True),
        ({"fleet": ["*"]}, True),
        ({"fleet": ["status", "stop"]}, False),
        ({"fleet": []}, False),
        ({"*": ["start"]}, True),
        ({"*": ["*"]}, True),
        ({"*": ["status"]}, False),
        ({"*": ["start"], "fleet": ["status"]}, False),
        ({"ops": ["start"]}, False),
    ],
)
def test_a_fleet_policy_needs_the_right_to_start(
    allow: dict[str, list[str]], allowed: bool
) -> None:
    assert Policy(PolicySection(identity="server", allow=allow)).allows_policies() == allowed


def test_hidden_fields_are_those_of_the_nearest_entry() -> None:
    policy = Policy(PolicySection(identity="server", hide={"ops": [], "*": ["name"]}))
    assert policy.hidden(OPS) == frozenset()
    assert policy.hidden(Caller("other", "UXYZ", "")) == policy.hidden(None) == {"name"}
    assert Policy(PolicySection()).hidden(None) == frozenset()
