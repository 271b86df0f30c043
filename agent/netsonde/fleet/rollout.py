"""Plans, rolls out and checks the desired state of a fleet (wire/policy.py).

A rollout only widens the release of a revision, batch by batch, and reads the inventory for the
outcome. All state is in the buckets. A client that dies in the middle leaves a release that any
other client can resume. Agents converge without a client.

    applied   the host reports the revision
    failed    it reports an error, fell silent after its release, or does not report in time
    silent    it was lost before its release reached it; it converges when it returns
"""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import msgspec
from nats.errors import Error as NatsError

from ..bus.kv import KeyValueError, WrongRevisionError
from ..wire.instant import NS_PER_SEC
from ..wire.inventory import Chosen, HostEntry
from ..wire.policy import (
    LEASE_KEY,
    LEASE_SEC,
    POINTS,
    UNSELECTED,
    Lease,
    Policy,
    PolicySet,
    Release,
    Rollout,
    differences,
    effective,
    point,
    policy_bucket,
)
from ..wire.quantity import counted
from .client import FleetClient
from .inventory import Host, Inventory, InventoryError, read_inventory, server_time_ns
from .policies import (
    OUTAGE_SEC,
    PolicyStore,
    PolicyStoreError,
    Released,
    Rolling,
    duration_sec,
    instant_of,
    share_of,
    user_name,
)

WITHOUT_LIMITS = Rollout(max_failed="100%", max_silent="100%")
POLL_SEC = 1.0  # the inventory is read at most this often
POLL_SEC_MAX = 10.0  # the last look may have waited for NATS
REPORT_SEC = 120.0  # a released host that runs has this long to report
RENEW_SEC = LEASE_SEC / 3

State: TypeAlias = Literal["applied", "failed", "silent", "pending", "waiting"]
Action: TypeAlias = Literal["create", "change", "remove", "none"]


@dataclass(frozen=True, slots=True)
class PlanRow:
    """The effect of an `apply` on one host. changes: old and new value by field."""

    host: str
    policy: str
    action: Action
    changes: Mapping[str, Any]
    lost: bool


@dataclass(frozen=True, slots=True)
class HostState:
    """Where one host is in a rollout. detail: why it failed."""

    host: str
    policy: str
    state: State
    detail: str = ""


@dataclass(slots=True)
class Progress:
    """The hosts of a rollout by name. stopped: why it stopped; empty if it is complete."""

    revision: int
    hosts: dict[str, HostState] = field(default_factory=dict)
    stopped: str = ""

    @property
    def complete(self) -> bool:
        states = {one.state for one in self.hosts.values()}
        return not self.stopped and not states - {"applied"}

    def summary(self) -> str:
        """Returns a line such as `revision 7, 30 hosts: 28 applied, 2 silent`."""
        counts = Counter(one.state for one in self.hosts.values())
        order: tuple[State, ...] = ("applied", "failed", "silent", "pending", "waiting")
        parts = [f"{counts[state]} {state}" for state in order if counts[state]]
        hosts = counted(len(self.hosts), "host")
        return f"revision {self.revision}, {hosts}: {', '.join(parts) or 'none'}"


Observer: TypeAlias = Callable[[Progress], None]


# ---- plan and drift ------------------------------------------------------------------------


def plan(hosts: Mapping[str, Host], now: Released, wanted: PolicySet) -> list[PlanRow]:
    """Compares what each host should run now with what it should run under `wanted`."""
    return [_plan_host(host, now, wanted) for host in hosts.values()]


def _plan_host(host: Host, now: Released, wanted: PolicySet) -> PlanRow:
    chosen = Chosen.of(host.entry)
    before = None if now.release is None else effective(now.release, now.sets, chosen)[1]
    after = wanted.choose(chosen)
    old, new = (one.capture if one is not None else None for one in (before, after))
    changes = differences(old, new)
    if not changes:
        action: Action = "none"
    elif old is None:
        action = "create"
    else:
        action = "remove" if new is None else "change"
    return PlanRow(host.entry.host, "" if after is None else after.name, action, changes, host.lost)


def drift(hosts: Mapping[str, Host], now: Released) -> dict[str, str]:
    """Returns why each host that is not as its policy says is not, by host."""
    found = {}
    for name, host in hosts.items():
        why = _drift_of(host, now)
        if why:
            found[name] = why
    return found


def _drift_of(host: Host, now: Released) -> str:
    entry = host.entry
    if now.release is None:
        return entry.drift or entry.error
    revision, policy = effective(now.release, now.sets, Chosen.of(entry))
    if host.lost:
        return f"lost: last heard of {host.age_sec:.0f} s ago"
    if entry.stopped:
        return "the agent is stopped"
    if entry.drift or entry.error:
        return entry.drift or entry.error
    if revision is not None and entry.applied_rev != revision:
        name = "no policy" if policy is None else f"policy {policy.name}"
        has = "none" if entry.applied_rev is None else f"revision {entry.applied_rev}"
        return f"should have {name} of revision {revision}, has {has}"
    return ""


# ---- the order of a rollout ----------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Member:
    """A host in its policy's order."""

    host: Host
    point: int


@dataclass(frozen=True, slots=True)
class Step:
    """The next widening of one policy: to the hosts whose point is below `limit`."""

    limit: int
    hosts: Sequence[Member]


def members(hosts: Mapping[str, Host], revision: int, wanted: PolicySet) -> dict[str, list[Member]]:
    """Returns the hosts of each policy in the order of the rollout."""
    found: dict[str, list[Member]] = {one.name: [] for one in wanted.revision.policies}
    found[UNSELECTED] = []
    for name, host in hosts.items():
        policy = wanted.choose(Chosen.of(host.entry))
        key = UNSELECTED if policy is None else policy.name
        found[key].append(Member(host, point(revision, name)))
    for group in found.values():
        group.sort(key=lambda one: one.point)
    return found


def next_step(group: Sequence[Member], limit: int, rollout: Rollout) -> Step | None:
    """Returns the next batch after `limit`; None if every host of the policy is released. Sizes
    count hosts that are present; absent hosts in between are released with them."""
    if limit >= POINTS:
        return None
    alive = [one for one in group if not one.host.absent]
    done = sum(one.point < limit for one in alive)
    canary = min(share_of(rollout.canary, len(alive)), len(alive))
    batch = max(share_of(rollout.batch, len(alive)), 1)
    target = canary if done < canary else done + batch
    end = POINTS if target >= len(alive) else alive[target].point
    return Step(end, [one for one in group if limit <= one.point < end])


def exceeded(progress: Progress, policy: str, group: Sequence[Member], rollout: Rollout) -> str:
    """Returns which limit of the policy is exceeded; empty if none is."""
    names = {one.host.entry.host for one in group}
    states = Counter(str(one.state) for name, one in progress.hosts.items() if name in names)
    for state, share, key in (
        ("failed", rollout.max_failed, "max_failed"),
        ("silent", rollout.max_silent, "max_silent"),
    ):
        most = share_of(share, len(group))
        if states[state] > most:
            hosts = counted(states[state], "host")
            return f"policy {policy or 'none'}: {hosts} {state}, {key} is {share}"
    return ""


# ---- the rollout ---------------------------------------------------------------------------


class Roller:
    """One client's part of a rollout: from the release as it is to its end or a limit."""

    def __init__(self, client: FleetClient, store: PolicyStore, now: Rolling) -> None:
        self._client = client
        self._store = store
        self._now = now
        self.observe: Observer = lambda _: None
        self.malformed: Sequence[str] = ()  # keys whose value is not an entry of that host
        self._revision = now.release.revision
        self._set = now.sets[self._revision]
        self._released_sec: dict[str, float] = {}  # by host, monotonic; hosts that were alive
        self._hosts: dict[str, Host] = {}
        self._read_sec = 0.0  # duration of the last look at the inventory
        self.progress = Progress(self._revision)

    @property
    def released(self) -> bool:
        """Whether the revision is released to every host."""
        return self._release.complete

    @property
    def _release(self) -> Release:
        return self._now.release

    async def run(self) -> Progress:
        """Raises PolicyStoreError, InventoryError."""
        async with self._lease():
            if self._release.stopped:
                await self._write(msgspec.structs.replace(self._release, stopped=""))
            await self._look()
            for policy in (*self._set.revision.policies, None):
                await self._roll_out(policy)
                if self.progress.stopped:
                    stopped = self.progress.stopped
                    await self._write(msgspec.structs.replace(self._release, stopped=stopped))
                    return self.progress
            done = Release(revision=self._revision, complete=True, hosts=self._release.hosts)
            await self._write(done)
            await self._settle(None)
        return self.progress

    async def _roll_out(self, policy: Policy | None) -> None:
        name = UNSELECTED if policy is None else policy.name
        rollout = WITHOUT_LIMITS if policy is None else policy.rollout
        while not self.progress.stopped:
            group = members(self._hosts, self._revision, self._set)[name]
            step = next_step(group, self._release.limits.get(name, 0), rollout)
            if step is None:
                return
            await self._widen(name, step)
            await self._settle((name, rollout))
            if not self.progress.stopped and step.limit < POINTS:
                await self._soak((name, rollout), duration_sec(rollout.soak))

    async def _widen(self, name: str, step: Step) -> None:
        now_sec = time.monotonic()
        for member in step.hosts:
            if not member.host.absent:
                self._released_sec[member.host.entry.host] = now_sec
        limits = {**self._release.limits, name: step.limit}
        await self._write(
            msgspec.structs.replace(self._release, limits=limits, hosts=len(step.hosts))
        )

    async def _settle(self, limits: tuple[str, Rollout] | None) -> None:
        """Waits until every released host has an outcome, or a limit is exceeded."""
        while True:
            self._judge(limits)
            states = {one.state for one in self.progress.hosts.values()}
            if self.progress.stopped or "pending" not in states:
                return
            await self._look()

    async def _soak(self, limits: tuple[str, Rollout], soak_sec: float) -> None:
        until_sec = time.monotonic() + soak_sec
        while time.monotonic() < until_sec and not self.progress.stopped:
            await self._look(until_sec)
            self._judge(limits)

    def _judge(self, limits: tuple[str, Rollout] | None) -> None:
        groups = members(self._hosts, self._revision, self._set)
        for name, group in groups.items():
            for member in group:
                state = self._state_of(member, name)
                self.progress.hosts[state.host] = state
        if limits is not None:
            name, rollout = limits
            self.progress.stopped = exceeded(self.progress, name, groups[name], rollout)
        self.observe(self.progress)

    def _state_of(self, member: Member, policy: str) -> HostState:
        entry, host = member.host.entry, member.host.entry.host
        release = self._release
        if not release.complete and member.point >= release.limits.get(policy, 0):
            return HostState(host, policy, "waiting")
        reached = entry.wanted_rev == self._revision
        if member.host.absent:
            if reached or host in self._released_sec:
                return HostState(host, policy, "failed", "fell silent after its release")
            return HostState(host, policy, "silent")
        if reached and entry.error:
            return HostState(host, policy, "failed", entry.error)
        if reached and entry.applied_rev == self._revision:
            return HostState(host, policy, "applied")
        if _refuses(entry):
            return HostState(host, policy, "failed", entry.error)
        since_sec = self._released_sec.setdefault(host, time.monotonic())
        if time.monotonic() - since_sec > REPORT_SEC:
            return HostState(host, policy, "failed", f"no report within {REPORT_SEC:.0f} s")
        return HostState(host, policy, "pending")

    # ---- the buckets -----------------------------------------------------------------------

    async def _write(self, release: Release) -> None:
        self._now = await self._store.write(Rolling(release, self._now.sets, self._now.entry))

    async def _look(self, until_sec: float | None = None) -> None:
        """Reads the inventory, at most once in POLL_SEC, and for a third of the time at most."""
        if self._hosts:
            pause_sec = min(max(POLL_SEC, 2 * self._read_sec), POLL_SEC_MAX)
            left_sec = pause_sec if until_sec is None else until_sec - time.monotonic()
            await asyncio.sleep(max(min(left_sec, pause_sec), 0.0))
        began_sec = time.monotonic()
        self._hosts = (await self._read_hosts()).hosts
        self._read_sec = time.monotonic() - began_sec

    async def _read_hosts(self) -> Inventory:
        """Reads the inventory; retries while the bucket has no leader or NATS is away. Raises
        InventoryError."""
        address, until_sec = self._client.address, time.monotonic() + OUTAGE_SEC
        while True:
            with contextlib.suppress(InventoryError, NatsError):
                found = await read_inventory(
                    self._client.connection, address.root, domain=address.jetstream_domain
                )
                if found is not None:
                    return found
            if time.monotonic() > until_sec:
                raise InventoryError("The inventory cannot be read any more.")
            await asyncio.sleep(POLL_SEC)

    @asynccontextmanager
    async def _lease(self) -> AsyncIterator[None]:
        """Holds the lease. Raises PolicyStoreError if another client has it."""
        bucket = self._store.bucket
        lease = msgspec.json.encode(Lease(holder=uuid.uuid4().hex, by=user_name()))
        revision = await self._acquire(lease)
        owner = asyncio.current_task()
        lost: list[str] = []

        async def renew() -> None:
            nonlocal revision
            again = False
            while True:
                await asyncio.sleep(RENEW_SEC)
                try:
                    revision = await bucket.put_once(LEASE_KEY, lease, last=revision, again=again)
                    again = False
                except WrongRevisionError:
                    lost.append("Another client has taken the rollout over.")
                    if owner is not None:
                        owner.cancel()
                    return
                except KeyValueError:
                    again = True  # the next renewal may succeed; the lease lasts for three

        renewing = asyncio.create_task(renew())
        try:
            yield
        except asyncio.CancelledError:
            if lost and owner is not None:
                owner.uncancel()
                raise PolicyStoreError(lost[0]) from None
            raise
        finally:
            renewing.cancel()
            if not lost:
                with contextlib.suppress(KeyValueError):
                    await bucket.put(LEASE_KEY, b"", last=revision)

    async def _acquire(self, lease: bytes) -> int:
        bucket = self._store.bucket
        try:
            found = await bucket.get(LEASE_KEY)
            if found is not None and not found.deleted:
                address = self._client.address
                now_ns = await server_time_ns(
                    self._client.connection,
                    policy_bucket(address.root),
                    domain=address.jetstream_domain,
                )
                age_sec = ((now_ns or 0) - instant_of(found.time)) / NS_PER_SEC
                if age_sec < LEASE_SEC:
                    by = msgspec.json.decode(found.value, type=Lease).by
                    raise PolicyStoreError(
                        f"{by} rolls a revision out; if that client is gone, try again in "
                        f"{LEASE_SEC - age_sec:.0f} s."
                    )
            return await bucket.put(LEASE_KEY, lease, last=0 if found is None else found.revision)
        except WrongRevisionError:
            raise PolicyStoreError("Another client has just begun a rollout.") from None
        except (KeyValueError, InventoryError, msgspec.DecodeError) as error:
            raise PolicyStoreError(f"The lease cannot be had: {error}.") from None


def _refuses(entry: HostEntry) -> bool:
    """Returns whether a host cannot take any policy over, whichever revision it wants."""
    return entry.error.startswith(("policy_denied", "unsupported_rev"))
