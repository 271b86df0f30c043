"""Permission errors of the server name the role that includes the subject."""

from __future__ import annotations

from typing import Literal

import pytest

from netsonde.bus.nats_client import PermissionDeniedError
from netsonde.fleet.denied import covers, explain_denial, role_for


@pytest.mark.parametrize(
    ("pattern", "subject", "covered"),
    [
        ("a.b", "a.b", True),
        ("a.b", "a.c", False),
        ("a.b", "a", False),
        ("a", "a.b", False),
        ("a.*", "a.b", True),
        ("a.*", "a", False),
        ("a.*", "a.b.c", False),
        ("*.b", "a.b", True),
        ("a.>", "a.b", True),
        ("a.>", "a.b.c", True),
        ("a.>", "a", False),
        ("a.>", "b.c", False),
        (">", "a", True),
    ],
)
def test_patterns_cover_subjects(pattern: str, subject: str, covered: bool) -> None:
    assert covers(pattern, subject) == covered


@pytest.mark.parametrize(
    ("kind", "subject", "role", "advice"),
    [
        ("publish", "capture.host.alpha.status", "operator", "To get a key with this role"),
        ("publish", "capture.host.alpha.start", "controller", "To get a key with this role"),
        ("publish", "$JS.API.STREAM.CREATE.X", "streams", "Use the key streams.nk"),
        ("publish", "other.subject", None, "No role of `netsonde nats setup` includes it"),
        ("subscribe", "capture.stream.events.>", "collector", "let this login subscribe to"),
        ("subscribe", "other.subject", None, "No role of `netsonde nats setup` includes it"),
    ],
)
def test_a_denial_names_the_role(
    kind: Literal["publish", "subscribe"], subject: str, role: str | None, advice: str
) -> None:
    denial = PermissionDeniedError(kind, subject)
    found = role_for(denial, "capture")
    text = explain_denial(denial, "capture")
    assert subject in text
    assert f"let this login {kind} to {subject}" in text
    assert advice in text
    assert found == role
