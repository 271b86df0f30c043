"""Policies: their choice, their release, and the order of a rollout."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
import pytest

from netsonde.fleet.inventory import Host
from netsonde.fleet.policies import Released, check_policies, duration_sec, new_revision, share_of
from netsonde.fleet.rollout import (
    HostState,
    Progress,
    State,
    drift,
    exceeded,
    members,
    next_step,
    plan,
)
from netsonde.wire.inventory import LOST_AFTER_SEC, Chosen, HostEntry
from netsonde.wire.policy import (
    POINTS,
    UNSELECTED,
    Policy,
    PolicySet,
    Release,
    Rollout,
    effective,
    point,
)
from netsonde.wire.requests import CaptureOptions

TCP = CaptureOptions(interface="eth0", backend="af_packet", filter="tcp")
UDP = CaptureOptions(interface="eth0", backend="af_packet", filter="udp")


def policies(*pairs: tuple[str, str, CaptureOptions], revision: int = 1) -> PolicySet:
    made = [Policy(name=name, select=select, capture=one) for name, select, one in pairs]
    return PolicySet(new_revision(revision, made))


def host(name: str, age_sec: float = 1.0, **fields: object) -> Host:
    values: dict[str, object] = {
        "boot": "1", "version": "1", "time": "2026-01-01T00:00:00Z",
        "labels": {"role": name.rstrip("0123456789")},
    }  # fmt: skip
    entry = msgspec.convert({"host": name, **values, **fields}, HostEntry)
    return Host(entry, age_sec, 0.0)


def hosts(*found: Host) -> Mapping[str, Host]:
    return {one.entry.host: one for one in found}


WEB_AND_REST = (("web", "role = web", TCP), ("rest", "host ~ '*'", UDP))


def test_first_policy_that_selects_a_host_is_its_policy() -> None:
    wanted = policies(*WEB_AND_REST)
    web, db = (wanted.choose(Chosen.of(host(name).entry)) for name in ("web1", "db1"))
    assert web is not None
    assert db is not None
    assert (web.name, db.name) == ("web", "rest")
    assert policies(("web", "role = web", TCP)).choose(Chosen.of(host("db1").entry)) is None


def test_release_reaches_the_hosts_below_its_limit() -> None:
    old, new = (
        policies(("all", "host ~ '*'", TCP)),
        policies(("all", "host ~ '*'", UDP), revision=2),
    )
    first = Release(revision=1, complete=True)
    chosen = Chosen.of(host("web1").entry)
    place = point(2, "web1")
    assert 0 <= place < POINTS
    for limit, revision in ((place, 1), (place + 1, 2), (POINTS, 2)):
        second = Release(revision=2, previous=first, limits={"all": limit})
        assert effective(second, {1: old, 2: new}, chosen)[0] == revision
    alone = Release(revision=2, limits={"all": 0})
    assert effective(alone, {2: new}, chosen) == (None, None)


def test_unfinished_releases_are_nested() -> None:
    sets = {number: policies(("all", "host ~ '*'", TCP), revision=number) for number in (1, 2, 3)}
    first = Release(revision=1, complete=True)
    second = Release(revision=2, previous=first, limits={"all": POINTS})
    third = Release(revision=3, previous=second)
    assert third.revisions() == [3, 2, 1]
    assert effective(third, sets, Chosen.of(host("web1").entry))[0] == 2


def test_host_without_a_policy_is_released_with_the_rest() -> None:
    web = policies(("web", "role = web", TCP))
    chosen = Chosen.of(host("db1").entry)
    assert effective(Release(revision=1), {1: web}, chosen) == (None, None)
    whole = Release(revision=1, limits={UNSELECTED: POINTS})
    assert effective(whole, {1: web}, chosen) == (1, None)


def test_plan_shows_what_changes_on_each_host() -> None:
    now = Released(Release(revision=1, complete=True), {1: policies(*WEB_AND_REST)}, 1)
    wanted = policies(("web", "role = web", UDP), ("dns", "role = dns", UDP))
    rows = {
        row.host: row
        for row in plan(hosts(host("web1"), host("db1", LOST_AFTER_SEC + 1)), now, wanted)
    }
    assert rows["web1"].action == "change"
    assert rows["web1"].changes == {"filter": ("tcp", "udp")}
    assert (rows["db1"].action, rows["db1"].lost) == ("remove", True)
    first = plan(hosts(host("web1")), Released(None, {}, 0), wanted)
    assert [row.action for row in first] == ["create"]


@pytest.mark.parametrize(
    ("fields", "age_sec", "words"),
    [
        ({"applied_rev": 1}, 1, ""),
        ({"applied_rev": 1}, LOST_AFTER_SEC + 1, "lost"),
        ({"applied_rev": 1, "stopped": True}, 1, "stopped"),
        ({"applied_rev": 1, "drift": "overridden"}, 1, "overridden"),
        ({"error": "no such interface"}, 1, "no such interface"),
        ({}, 1, "should have policy all of revision 1, has none"),
        ({"applied_rev": 7}, 1, "has revision 7"),
    ],
)
def test_drift_says_how_a_host_differs(
    fields: Mapping[str, object], age_sec: float, words: str
) -> None:
    now = Released(Release(revision=1, complete=True), {1: policies(("all", "host ~ '*'", TCP))}, 1)
    found = drift(hosts(host("web1", age_sec, **fields)), now)
    assert words in found.get("web1", "")
    assert bool(found) is bool(words)


def test_rollout_begins_with_the_canary_and_continues_in_batches() -> None:
    fleet = hosts(*(host(f"web{number}") for number in range(10)))
    wanted = policies(("all", "host ~ '*'", TCP))
    group = members(fleet, 1, wanted)["all"]
    assert [one.point for one in group] == sorted(one.point for one in group)
    rollout, limit, sizes = Rollout(canary=1, batch="40%"), 0, []
    seen: list[str] = []
    while (step := next_step(group, limit, rollout)) is not None:
        assert step.limit > limit
        limit = step.limit
        sizes.append(len(step.hosts))
        seen += [one.host.entry.host for one in step.hosts]
    assert sizes == [1, 4, 4, 1]
    assert limit == POINTS
    assert sorted(seen) == sorted(fleet)


def test_canary_is_a_host_that_is_present() -> None:
    absent = [host(f"web{number}", LOST_AFTER_SEC + 1) for number in range(5)]
    fleet = hosts(*absent, host("web9"), host("web10"))
    group = members(fleet, 1, policies(("all", "host ~ '*'", TCP)))["all"]
    step = next_step(group, 0, Rollout(canary=1))
    assert step is not None
    assert sum(not one.host.absent for one in step.hosts) == 1


def test_policy_without_hosts_is_released_at_once() -> None:
    step = next_step([], 0, Rollout())
    assert step is not None
    assert (step.limit, list(step.hosts)) == (POINTS, [])
    assert next_step([], POINTS, Rollout()) is None


@pytest.mark.parametrize(
    ("states", "rollout", "words"),
    [
        (["applied", "failed"], Rollout(), "1 host failed, max_failed is 0"),
        (["applied", "failed"], Rollout(max_failed=1), ""),
        (["silent", "applied"], Rollout(max_silent=0), "1 host silent, max_silent is 0"),
        (["silent", "applied"], Rollout(), ""),  # 5 % of 2, rounded up
        (["silent", "silent"], Rollout(), "2 hosts silent, max_silent is 5%"),
        (["pending", "waiting"], Rollout(max_silent=0), ""),
    ],
)
def test_limits_of_failed_and_silent_hosts(
    states: list[State], rollout: Rollout, words: str
) -> None:
    fleet = hosts(host("web0"), host("web1"))
    group = members(fleet, 1, policies(("all", "host ~ '*'", TCP)))["all"]
    progress = Progress(1)
    for number, state in enumerate(states):
        progress.hosts[f"web{number}"] = HostState(f"web{number}", "all", state)
    found = exceeded(progress, "all", group, rollout)
    assert words in found
    assert bool(found) is bool(words)


@pytest.mark.parametrize(
    ("share", "of", "count"), [(3, 10, 3), ("10%", 30, 3), ("5%", 30, 2), ("0%", 9, 0), (0, 9, 0)]
)
def test_shares_are_rounded_up(share: int | str, of: int, count: int) -> None:
    assert share_of(share, of) == count


@pytest.mark.parametrize("share", [-1, "101%", "5", "%", "five"])
def test_malformed_shares_are_rejected(share: int | str) -> None:
    with pytest.raises(ValueError, match=r"negative|neither"):
        share_of(share, 10)


def test_durations() -> None:
    assert [duration_sec(text) for text in ("0s", "90s", "5m", "1h")] == [0, 90, 300, 3600]
    with pytest.raises(ValueError, match="not a time"):
        duration_sec("1d")


def test_check_accepts_a_whole_file() -> None:
    check_policies("fleet.toml", policies(*WEB_AND_REST).revision.policies)
