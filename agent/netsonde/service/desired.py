"""This host's part of the desired state (wire/policy.py).

Reads the release and its revisions, finds the policy of this host, and hands its capture to
capture/standing.py. Release and revisions are cached in the state directory, so that a host that
boots without NATS captures what it should. The subscription to the bucket only wakes the task:
a write that lost a compare-and-set reaches subscribers too, so values are read from the bucket.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

import msgspec
import structlog
from nats.aio.msg import Msg

from ..bus.connection import Connection
from ..bus.kv import KeyValue, KeyValueError
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
    effective,
    policy_bucket,
    revision_key,
)
from ..wire.replies import WantedBy
from ..wire.requests import CaptureOptions
from ..wire.selector import SelectorError
from .host_entry import HostDescription, WantedState

REFRESH_SEC = 60.0  # in case a notice was lost
RETRY_SEC = 5.0
RETRIES = 3  # without a policy: the bucket may be missing until the first `apply`
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
        self._joined = False  # the release was read, or was written while this agent listened
        self._failures = 0  # to read, since the connection is up
        self._failure = ""
        self._log = structlog.get_logger()
        connection.listen(self._bucket.subject(RELEASE_KEY), self._on_release)
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
            wait_sec = REFRESH_SEC
            try:
                await self._refresh()
            except KeyValueError as error:
                self._failures += 1
                if self._known is not None or self._failures <= RETRIES:
                    wait_sec = RETRY_SEC
                self._log.debug("cannot read the policies", error=error.detail)
            except UnsupportedRevisionError as error:
                self._fail(error.detail)
            try:
                async with asyncio.timeout(wait_sec):
                    await self._wake.wait()
            except TimeoutError:
                continue

    async def _on_release(self, _: Msg) -> None:
        self._joined = True
        self._wake.set()

    def _on_connection(self, up: bool) -> None:
        if up:
            self._failures = 0
            self._wake.set()

    # ---- reading -------------------------------------------------------------------------------

    async def _refresh(self) -> None:
        """Reads the release and applies it: at once after a boot, and after a random wait if the
        agent ran before. A write of the release ends the wait, and is read next."""
        found = await self._bucket.get(RELEASE_KEY)
        joined, self._joined = self._joined, True
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
