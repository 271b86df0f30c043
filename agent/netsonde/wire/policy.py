"""The desired state of a fleet: policies, revisions and the release of a revision. No I/O.

A revision is an ordered list of policies. The first policy that selects a host is its policy. The
key-value bucket `<root>-policy` keeps each revision under `revision.<N>`, and one `release`: which
revision is being rolled out, and to which share of the hosts of each policy.

A host's place in the order of a rollout is `point(revision, host)`, a hash. A policy is released
to the hosts below a limit. So the release has the same size for 10 and for 100,000 hosts, and an
agent that joins late finds its own place in it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Annotated, Any, TypeAlias

from msgspec import Meta, Struct, field

from .records import Time
from .requests import CaptureOptions
from .selector import Candidate, Selector, parse

SCHEMA = 1  # an agent that reads a higher one keeps its policy
POINTS = 1 << 48  # point() is below
POLICIES_MAX = 1000
UNSELECTED = ""  # stands for a policy's name: hosts that no policy selects

RELEASE_KEY = "release"
LEASE_KEY = "lease"
LEASE_SEC = 30.0
RELEASES_MAX = 8  # unfinished ones, each the `previous` of the next
HostShare: TypeAlias = int | str


def policy_bucket(root: str) -> str:
    """Returns `capture-policy` for the root `capture`."""
    return f"{root.replace('.', '-')}-policy"


def announcement_subject(root: str, key: str) -> str:
    """Returns the subject to which the server copies each write of a key of the policy bucket. A
    leaf node with a JetStream domain passes the copy. It blocks `$KV.>`."""
    return f"{root}.policy.{key}"


def revision_key(revision: int) -> str:
    return f"revision.{revision}"


class Rollout(Struct, kw_only=True, forbid_unknown_fields=True):
    """How a policy reaches its hosts. A share is a number of hosts, or a percentage such as
    `10%`, which is rounded up."""

    canary: Annotated[HostShare, Meta(description="hosts that get the policy first")] = 0
    batch: Annotated[HostShare, Meta(description="hosts that get it at a time after that")] = "100%"
    max_failed: Annotated[HostShare, Meta(description="stop above this number of failed hosts")] = 0
    max_silent: Annotated[
        HostShare, Meta(description="stop above this number of hosts without a report")
    ] = "5%"
    soak: Annotated[str, Meta(description="time between two batches: 0s, 60s, 5m, 1h")] = "0s"


class Policy(Struct, kw_only=True, forbid_unknown_fields=True):
    """The capture that the selected hosts should run."""

    name: Annotated[str, Meta(min_length=1, max_length=64, pattern="^[A-Za-z0-9_-]+$")]
    select: Annotated[str, Meta(min_length=1, max_length=4096)]
    capture: CaptureOptions
    rollout: Rollout = field(default_factory=Rollout)


class Revision(Struct, kw_only=True):
    """The value of `revision.<N>`. It never changes."""

    schema: int = SCHEMA
    revision: Annotated[int, Meta(ge=1)]
    policies: Annotated[list[Policy], Meta(max_length=POLICIES_MAX)]
    time: Time
    by: Annotated[str, Meta(description="user and host of the client that wrote it")] = ""
    restores: Annotated[int | None, Meta(description="the revision that a rollback repeats")] = None


class Lease(Struct, kw_only=True):
    """The value of `lease`: the client that rolls a revision out, and writes this every few
    seconds. Another client may continue LEASE_SEC after the last write, by the server's clock."""

    holder: str
    by: str = ""


class Release(Struct, kw_only=True):
    """The value of `release`. limits: by policy; hosts with a smaller point have the revision, the
    others what the previous release gives them."""

    schema: int = SCHEMA
    revision: int
    previous: Release | None = None
    limits: dict[str, int] = {}
    complete: Annotated[bool, Meta(description="every host is released")] = False
    stopped: Annotated[str, Meta(description="why the rollout stopped; empty if it did not")] = ""
    hosts: Annotated[int, Meta(description="hosts released by the last step")] = 0

    def revisions(self) -> list[int]:
        """Returns the revisions that some host may have, newest first."""
        return [self.revision, *(self.previous.revisions() if self.previous is not None else [])]


class SchemaOnly(Struct):
    """Reads the schema of a value that is otherwise unknown."""

    schema: int = SCHEMA


def point(revision: int, host: str) -> int:
    """Returns a host's place in the order of a revision's rollout, 0 to POINTS - 1."""
    digest = hashlib.sha256(f"{revision}:{host}".encode()).digest()
    return int.from_bytes(digest[:6], "big")


class PolicySet:
    """A revision with its selectors parsed."""

    def __init__(self, revision: Revision) -> None:
        """Raises SelectorError."""
        self.revision = revision
        self._selectors: list[tuple[Selector, Policy]] = [
            (parse(policy.select), policy) for policy in revision.policies
        ]

    def uses(self, name: str) -> bool:
        """Returns whether a selector may read a name such as `fact.backends`."""
        return any(name in one.text for one, _ in self._selectors)

    def choose(self, host: Candidate) -> Policy | None:
        """Returns the first policy that selects the host."""
        return next((policy for one, policy in self._selectors if one.matches(host)), None)


def released(release: Release, policy: Policy | None, host: str) -> bool:
    """Returns whether the release has reached a host whose policy is `policy`."""
    name = UNSELECTED if policy is None else policy.name
    return release.complete or point(release.revision, host) < release.limits.get(name, 0)


def effective(
    release: Release, sets: Mapping[int, PolicySet], host: Candidate
) -> tuple[int | None, Policy | None]:
    """Returns the revision and the policy that a host should have now; (None, None) if no revision
    has reached it. sets: the policies of `release.revisions()`."""
    policy = sets[release.revision].choose(host)
    if released(release, policy, host.host):
        return release.revision, policy
    if release.previous is None:
        return None, None
    return effective(release.previous, sets, host)


def differences(before: CaptureOptions | None, after: CaptureOptions | None) -> dict[str, Any]:
    """Returns the fields that differ: `{"filter": ("tcp", "udp")}`."""
    names = CaptureOptions.__struct_fields__
    old = {name: getattr(before, name) for name in names} if before is not None else {}
    new = {name: getattr(after, name) for name in names} if after is not None else {}
    return {
        name: (old.get(name), new.get(name)) for name in names if old.get(name) != new.get(name)
    }
