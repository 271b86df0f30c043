"""Targets: parsing of host names and groups, and the subjects that reach them."""

from __future__ import annotations

from pathlib import Path

import pytest

from netsonde.errors import EXIT_USAGE
from netsonde.fleet.targeting import (
    Limit,
    Target,
    TargetError,
    host_subject,
    parse_group,
    parse_hosts,
    parse_limit,
    parse_target,
)
from netsonde.wire.selector import SelectorError


def test_subject_names_all_hosts_a_group_or_a_host() -> None:
    assert Target().subject("capture", "status") == "capture.status"
    group = Target(groups=(("site", "ams"),))
    assert group.subject("acme.capture", "stop") == "acme.capture.group.site.ams.stop"
    assert host_subject("capture", "web1", "flow.meter.enable") == (
        "capture.host.web1.flow.meter.enable"
    )


def test_named_hosts_have_no_common_subject() -> None:
    with pytest.raises(ValueError, match="its own subject"):
        Target(hosts=("a", "b")).subject("capture", "status")


def test_parse_hosts_returns_unique_tokens_in_order() -> None:
    assert parse_hosts(["Web2.example", "web1", "WEB2.EXAMPLE"]) == ("web2_example", "web1")


@pytest.mark.parametrize("text", ["site", "=ams", "site=", "Site=ams", "a.b=c", "a=b*", "a=b=c"])
def test_malformed_group_is_a_usage_error(text: str) -> None:
    with pytest.raises(TargetError) as caught:
        parse_group(text)
    assert caught.value.exit_code == EXIT_USAGE


def test_nodes_file_skips_comments_and_joins_host_flags(tmp_path: Path) -> None:
    nodes = tmp_path / "nodes"
    nodes.write_text("# the front\nweb1   # first\n\nweb2\n")
    assert parse_target(["db1"], [], str(nodes)).hosts == ("db1", "web1", "web2")


@pytest.mark.parametrize("content", [b"", b"# nobody\n", b"\xff\xfe"])
def test_nodes_file_without_hosts_is_an_error(tmp_path: Path, content: bytes) -> None:
    nodes = tmp_path / "nodes"
    nodes.write_bytes(content)
    with pytest.raises(TargetError):
        parse_target([], [], str(nodes))
    with pytest.raises(TargetError):
        parse_target([], [], str(tmp_path / "absent"))


def test_hosts_and_a_group_exclude_each_other() -> None:
    with pytest.raises(TargetError, match="not both"):
        parse_target(["web1"], ["site=ams"], None)


def test_limit_takes_the_first_hosts_by_name() -> None:
    hosts = ["c", "a", "d", "b"]
    assert parse_limit("2").apply(hosts) == ("a", "b")
    assert parse_limit("50%").apply(hosts) == ("a", "b")
    assert parse_limit("1%").apply(hosts) == ("a",)
    assert parse_limit("100%").apply(hosts) == ("a", "b", "c", "d")
    assert Limit(9).apply(hosts) == ("a", "b", "c", "d")


@pytest.mark.parametrize("text", ["", "0", "-1", "101%", "0%", "%", "x", "1.5", "1%%"])
def test_malformed_limit_is_a_usage_error(text: str) -> None:
    with pytest.raises(TargetError):
        parse_limit(text)


def test_globs_and_selectors_choose_hosts() -> None:
    labels = {"site": "ams"}
    web = parse_target(["Web*", "db[12]"], [], None, exclude=["web9"])
    assert web.expected is None
    chosen = [host for host in ("web1", "web9", "db1", "db3") if web.matches(host, labels)]
    assert chosen == ["web1", "db1"]
    selected = parse_target([], ["site=ams"], None, select="fact.cpus > 4 or host = web1")
    assert not selected.one_subject
    assert selected.matches("web1", labels)
    assert selected.matches("web2", labels, {"cpus": 8})
    assert not selected.matches("web2", labels)
    assert not selected.matches("web1", {"site": "fra"})
    assert "hosts with fact.cpus > 4" in selected.describe()


@pytest.mark.parametrize(
    ("hosts", "select", "error"),
    [
        (["web*", "db1"], None, "not both"),
        (["web1"], "site = ams", "not both"),
        ([], "site =", "expected a value"),
    ],
)
def test_targets_that_contradict_are_rejected(
    hosts: list[str], select: str | None, error: str
) -> None:
    with pytest.raises((TargetError, SelectorError), match=error):
        parse_target(hosts, [], None, select=select)
