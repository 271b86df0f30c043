"""Selectors: what they choose, and what they reject."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import pytest

from netsonde.wire.selector import DEPTH_MAX, SelectorError, parse, version_key


@dataclass(frozen=True)
class Host:
    host: str = "web1"
    labels: Mapping[str, str] = field(default_factory=lambda: {"site": "ams", "role": "web"})
    facts: Mapping[str, object] = field(
        default_factory=lambda: {
            "kernel": "6.10.0-18-amd64",
            "os": "Debian GNU/Linux 12 (bookworm)",
            "cpus": 8,
            "memory_mb": 16384,
            "interfaces": ["eth0", "lo"],
            "version": "",
        }
    )


def chooses(text: str) -> bool:
    return parse(text).matches(Host())


@pytest.mark.parametrize(
    "text",
    [
        "site = ams",
        "label.site = ams",
        "site in (ams, fra)",
        "site in (ams,fra) and role = web and not host ~ 'canary*' and fact.kernel >= 6.1",
        "site != fra",
        "rack != 7",  # no label of this name
        "rack not in (7, 8)",
        "rack !~ '*'",
        "host = web1",
        "host ~ web*",
        "host ~ w[a-f]b?",
        "fact.cpus > 4",
        "fact.memory_mb >= 16384",
        "fact.kernel > 6.9",
        "fact.kernel < 6.11",
        "fact.os ~ '*bookworm*'",
        'fact.os = "Debian GNU/Linux 12 (bookworm)"',
        "fact.interfaces = eth0",
        "fact.interfaces ~ eth*",
        "fact.version != 1",
        "site = fra or role = web",
        "site = fra and role = db or role = web",  # and binds before or
        "not (site = fra or role = db)",
        "not not site = ams",
        "host='web1'",
    ],
)
def test_selector_chooses(text: str) -> None:
    assert chooses(text)


@pytest.mark.parametrize(
    "text",
    [
        "site = fra",
        "site != ams",
        "rack = 7",
        "rack ~ '*'",
        "rack < 100",
        "site not in (ams)",
        "host !~ web*",
        "site = ams and (role = db or role = dns)",
        "not site = ams or role = db",
        "fact.kernel >= 6.11",
        "fact.interfaces != eth0",
        "fact.version < 2",
        "host = web",
    ],
)
def test_selector_does_not_choose(text: str) -> None:
    assert not chooses(text)


@pytest.mark.parametrize(
    ("text", "position", "what"),
    [
        ("", 1, "expected host, a label or fact.NAME"),
        ("site", 5, "expected =, !="),
        ("site =", 7, "expected a value"),
        ("site = and", 8, "expected a value"),
        ("site = ams role = web", 12, "expected 'and', 'or' or the end"),
        ("site = ams and", 15, "expected host"),
        ("(site = ams", 12, "expected ')'"),
        ("site in ams", 9, "expected '('"),
        ("site not ams", 10, "expected 'in'"),
        ("fact.color = red", 1, "unknown fact"),
        ("Site = ams", 1, "a label has only"),
        ("site = ams & role = web", 12, "unexpected character"),
        ("site = 'ams", 8, "unexpected character"),
        ("and = 1", 1, "expected host"),
    ],
)
def test_error_shows_the_place(text: str, position: int, what: str) -> None:
    with pytest.raises(SelectorError) as caught:
        parse(text)
    assert f"at character {position}: {what}" in str(caught.value)


def test_quotes_and_escapes() -> None:
    quoted = parse(r"host = 'it\'s'")
    assert quoted.matches(Host(host="it's"))
    assert parse('site = "in"').matches(Host(labels={"site": "in"}))


def test_depth_and_length_are_limited() -> None:
    assert parse("not " * (DEPTH_MAX - 1) + "site = ams")
    with pytest.raises(SelectorError, match="levels"):
        parse("(" * 5 * DEPTH_MAX)
    with pytest.raises(SelectorError, match="longer than"):
        parse("site in (" + "a," * 4096 + "b)")


def test_versions_are_ordered_by_number() -> None:
    versions = ["6", "6.1", "6.1.0-18-amd64", "6.9", "6.10", "6.10-rc1", "6.10.1", "9" * 5000]
    assert sorted(versions, key=version_key) == versions
