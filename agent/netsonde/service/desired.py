"""This host's part of the desired state (wire/policy.py).

Reads the release and its revisions, finds the policy of this host, and hands its capture to
capture/standing.py. Release and revisions are cached in the state directory, so that a host that
boots without NATS captures what it should.

A notice only wakes the task, and values are read from the bucket. The agent hears each write
twice: the write, and the copy that the server publishes once it has stored the write. A bucket
that another tool created makes no copies. A leaf node blocks the writes, and passes the copies. A
write that lost a compare-and-set reaches subscribers too, and a write reaches them before its
stream has stored it. Replicas answer reads, and may be behind. So the agent reads again until it
finds the value that woke it.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

import msgspec
import structlog
from nats.aio.msg import Msg

from ..bus.connection import Connection
from ..bus.kv import KeyValue, KeyValueError
from ..bus.waits import Waits
from ..config.sections import POLICY_FLEET
from ..config.state import write_state
from ..errors import NetsondeError
from ..wire.events import EventLog
from ..wire.policy import (
    RELEASE_KEY,
    SCHEMA,
    Policy,
    PolicySet,
    Release,
    Revision,
    SchemaOnly,
    announcement_subject,
    effective,
    policy_bucket,
    revision_key,
)
from ..wire.replies import WantedBy
from ..wire.requests import CaptureOptions
from ..wire.selector import SelectorError
from .host_entry import HostDescription, WantedState

REFRESH_SEC = 60.0  # in case a notice was lost
SOON_SEC = 0.5  # the first wait for a value that is expected; doubled up to REFRESH_SEC
BEHIND_SEC = 8.0  # the same, after a connect: a replica may be behind
RETRY_SEC = 5.0  # the longest wait after a failed read, if this host has a policy
ROLLOUT_SEC = 10.0  # while a rollout runs and has not reached this host
ROLLOUT_SEC_MAX = 600.0  # since its last step: its client may have died
HOSTS_PER_SEC = 50  # spreads the restarts and reports of one batch
JITTER_SEC_MAX = 30.0
CACHE_NAME = "desired.json"


class Target(Protocol):
    """Receives the capture that a policy wants (capture/standing.py)."""

    def want(self, by: WantedBy, options: CaptureOptions | None) -> None: ...
    @property
    def reason(self) -> str: ...
    @property
    def failure(self) -> str: ...
    @property
    def drift(self) -> str: ...


class UnsupportedRevisionError(NetsondeError):
    """The revision was written by a newer version."""


@dataclass(frozen=True, slots=True)
class _Wanted:
    revision: int | None = None
    policy: Policy | None = None


class _Cache(msgspec.Struct):
    """The content of the cache file."""

    release: Release
    revisions: list[Revision]


@dataclass(frozen=True, slots=True)
class _Known:
    """A release and the policies of its revisions."""

    release: Release
    sets: Mapping[int, PolicySet]


class Desired:
    def __init__(
        self,
        connection: Connection,
        description: HostDescription,
        target: Target,
        events: EventLog,
        *,
        path: Path,
        allowed: Callable[[], bool],
    ) -> None:
        """path: of the cache file. allowed: whether [policy] lets a policy start a capture."""
        root = description.settings.nats.root
        domain = description.settings.nats.jetstream_domain
        self._connection = connection
        self._description = description
        self._target = target
        self._events = events
        self._path = path
        self._allowed = allowed
        self._bucket = KeyValue(connection, policy_bucket(root), domain=domain)
        self._known: _Known | None = None
        self._wanted = _Wanted()
        self._applied: int | None = None
        self._wake = asyncio.Event()
        self._waits = Waits(SOON_SEC, REFRESH_SEC)
        self._expected_sec = 0.0  # a newer value is expected: read until a wait is this long
        self._announced = b""  # the value of the last write that this agent heard of
        self._found = b""  # the value that was read last
        self._changed_sec = 0.0  # when a new release was read last, by the monotonic clock
        self._joined = False  # the release was read, or was written while this agent listened
        self._failure = ""
        self._log = structlog.get_logger()
        for subject in (
            self._bucket.subject(RELEASE_KEY),
            announcement_subject(root, RELEASE_KEY),
        ):
            connection.listen(subject, self._on_release)
        connection.notify(self._on_connection)

    def state(self) -> WantedState:
        """Returns how far this host is, for its inventory entry."""
        target, drift = self._target, self._target.drift
        error = self._failure or target.failure
        if not self._failure and (not target.reason or drift):
            self._applied = self._wanted.revision
        return WantedState(self._wanted.revision, self._applied, drift, error)

    def note_change(self) -> None:
        """Evaluates the policies again: labels or [policy] may have changed."""
        self._decide()

    async def load(self) -> None:
        """Applies the cached policy. Call before the capture starts."""
        self._known = await asyncio.to_thread(self._read_cache)
        if self._known is not None and any(
            one.uses("fact.backends") for one in self._known.sets.values()
        ):
            await self._description.load_backends()
        self._decide()

    async def run(self) -> None:
        """Follows the release until cancelled."""
        await self._description.load_backends()
        self._decide()
        while True:
            await self._connection.wait_connected()
            self._wake.clear()
            try:
                await self._refresh()
                wait_sec = self._rest_sec()
            except KeyValueError as error:
                wait_sec = self._waits.next()
                if self._known is not None:
                    wait_sec = min(wait_sec, RETRY_SEC)
                self._log.debug("cannot read the policies", error=error.detail)
            except UnsupportedRevisionError as error:
                self._fail(error.detail)
                wait_sec = self._rest_sec()
            try:
                async with asyncio.timeout(wait_sec):
                    await self._wake.wait()
            except TimeoutError:
                continue

    def _rest_sec(self) -> float:
        """Returns the wait after a read that the bucket answered."""
        if self._waits.following_sec < self._expected_sec:
            return self._waits.next()
        self._expected_sec = 0.0  # the write lost its compare-and-set, or nobody wrote
        return ROLLOUT_SEC if self._awaits_rollout() else REFRESH_SEC

    def _awaits_rollout(self) -> bool:
        """Returns whether a step of a rollout may reach this host soon."""
        release = None if self._known is None else self._known.release
        return (
            release is not None
            and not release.complete
            and not release.stopped
            and self._wanted.revision != release.revision
            and time.monotonic() - self._changed_sec < ROLLOUT_SEC_MAX
        )

    async def _on_release(self, message: Msg) -> None:
        self._joined = True
        value = bytes(message.data)
        if value == self._found:
            return  # the copy of a write that was read already
        self._announced = value
        self._expect(REFRESH_SEC)

    def _on_connection(self, up: bool) -> None:
        if up:  # a write during the outage was not heard, and a replica may not have it yet
            self._announced = b""
            self._expect(BEHIND_SEC)

    def _expect(self, longest_sec: float) -> None:
        self._expected_sec = longest_sec
        self._waits.reset()
        self._wake.set()

    # ---- reading -------------------------------------------------------------------------------

    async def _refresh(self) -> None:
        """Reads the release and applies it: at once after a boot, and after a random wait if the
        agent ran before. A write of the release ends the wait, and is read next."""
        found = await self._bucket.get(RELEASE_KEY)
        joined, self._joined = self._joined, True
        self._found = b"" if found is None else found.value
        if found is not None and found.value == self._announced:
            self._expected_sec = 0.0
        if found is None or found.deleted:
            if self._known is not None:
                self._known = None
                await asyncio.to_thread(self._path.unlink, missing_ok=True)
                self._decide()
            return
        release = _read(found.value, Release)
        if self._known is None or self._known.release != release:
            sets = {number: await self._policies(number) for number in release.revisions()}
            self._failure = ""
            self._known = _Known(release, sets)
            self._changed_sec = time.monotonic()
            await asyncio.to_thread(self._write_cache, self._known)
            if joined and self._find() != self._wanted and await self._is_woken_in(release):
                return
        self._decide()

    async def _is_woken_in(self, release: Release) -> bool:
        """Waits for a random time, so that the hosts of one step do not all restart at once."""
        longest_sec = min(release.hosts / HOSTS_PER_SEC, JITTER_SEC_MAX)
        wait_sec = random.uniform(0.0, longest_sec)  # noqa: S311 - not a secret
        try:
            async with asyncio.timeout(wait_sec):
                return await self._wake.wait()
        except TimeoutError:
            return False

    async def _policies(self, number: int) -> PolicySet:
        known = self._known
        if known is not None and number in known.sets:
            return known.sets[number]
        found = await self._bucket.get(revision_key(number))
        if found is None or found.deleted:
            raise KeyValueError(
                f"Revision {number} is missing in the bucket {self._bucket.bucket}."
            )
        revision = _read(found.value, Revision)
        try:
            return PolicySet(revision)
        except SelectorError as error:
            raise UnsupportedRevisionError(f"unsupported_rev: {error.detail}") from None

    # ---- deciding ------------------------------------------------------------------------------

    def _find(self) -> _Wanted:
        known = self._known
        if known is None:
            return _Wanted()
        return _Wanted(*effective(known.release, known.sets, self._description.candidate()))

    def _decide(self) -> None:
        before, self._wanted = self._wanted, self._find()
        policy = self._wanted.policy
        if policy is not None and not self._allowed():
            self._fail(f"policy_denied: [policy] allow gives {POLICY_FLEET!r} no right to start")
            policy = None
        elif self._failure.startswith("policy_denied"):
            self._failure = ""
        self._target.want("policy", None if policy is None else policy.capture)
        if self._wanted != before:
            name = "none" if policy is None else policy.name
            self._events.emit(
                "capture",
                "policy_changed",
                f"policy {name} of revision {self._wanted.revision}",
                data={"revision": self._wanted.revision, "policy": name},
            )

    def _fail(self, detail: str) -> None:
        if detail != self._failure:
            self._failure = detail
            self._events.emit("alarm", "policy_refused", detail)

    # ---- the cache -----------------------------------------------------------------------------

    def _read_cache(self) -> _Known | None:
        try:
            cache = msgspec.json.decode(self._path.read_bytes(), type=_Cache)
            sets = {one.revision: PolicySet(one) for one in cache.revisions}
            effective(cache.release, sets, self._description.candidate())
        except FileNotFoundError:
            return None
        except (OSError, msgspec.DecodeError, SelectorError, KeyError) as error:
            self._log.error("the cached policy is lost", file=str(self._path), error=str(error))
            return None
        return _Known(cache.release, sets)

    def _write_cache(self, known: _Known) -> None:
        cache = _Cache(known.release, [one.revision for one in known.sets.values()])
        try:
            write_state(self._path, msgspec.json.encode(cache))
        except OSError as error:
            self._log.error("cannot cache the policy", file=str(self._path), error=str(error))


Value = TypeVar("Value", Release, Revision)


def _read(data: bytes, kind: type[Value]) -> Value:
    """Raises UnsupportedRevisionError."""
    try:
        schema = msgspec.json.decode(data, type=SchemaOnly).schema
        if schema <= SCHEMA:
            return msgspec.json.decode(data, type=kind)
        why = f"it has schema {schema}"
    except msgspec.DecodeError as error:
        why = str(error)
    raise UnsupportedRevisionError(f"unsupported_rev: this agent cannot read the policy: {why}")
