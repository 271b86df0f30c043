"""Texts of the agent for people: its readable name, and the fields of a log line."""

from __future__ import annotations

import json

import pytest
import structlog

from netsonde.config.sections import LogSection
from netsonde.daemon.app import readable_name
from netsonde.daemon.logs import configure

AUDIT = {"verb": "start", "code": 200, "request": {"interface": "eth0", "promiscuous": True}}


@pytest.mark.parametrize(
    ("names", "shown"),
    [
        (("web1.example", "web1", "web1"), "web1.example"),
        (("localhost", "web1", "token"), "web1"),
        (("localhost.localdomain", "localhost", "web1_example"), "web1_example"),
        (("ip6-localhost", "localhost", "web1"), "web1"),
        (("localhost", "localhost", "localhost"), "localhost"),
    ],
)
def test_description_does_not_name_localhost(names: tuple[str, ...], shown: str) -> None:
    assert readable_name(*names) == shown


@pytest.mark.parametrize("form", ["json", "console"])
def test_audit_line_holds_json(
    form: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    try:
        configure(LogSection(level="info", format=form))  # type: ignore[arg-type]  # a parameter
        structlog.get_logger().info("audit: start", data=AUDIT)
        line = capsys.readouterr().err
    finally:
        structlog.reset_defaults()
    if form == "json":
        assert json.loads(line)["data"] == AUDIT
        return
    text = line[line.index("{") : line.rindex("}") + 1]
    assert json.loads(text) == AUDIT
