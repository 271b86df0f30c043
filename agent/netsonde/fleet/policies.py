"""Policy files, and the policy bucket as a client sees it."""

from __future__ import annotations

import asyncio
import getpass
import re
import socket
import time
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, TypeVar

import msgspec

from ..bus.kv import KeyValue, KeyValueError, WrongRevisionError
from ..errors import EXIT_USAGE, NetsondeError
from ..wire.instant import parse_rfc3339, rfc3339
from ..wire.policy import (
    RELEASE_KEY,
    RELEASES_MAX,
    SCHEMA,
    Policy,
    PolicySet,
    Release,
    Revision,
    announcement_subject,
    policy_bucket,
    revision_key,
)
from ..wire.selector import SelectorError
from .client import FleetClient
from .inventory import InventoryError, server_time_ns

FILE_BYTES_MAX = 1 << 20
OUTAGE_SEC = 30.0  # a rollout waits this long for a bucket without a leader, or for NATS
RETRY_SEC = 1.0
_DURATION = re.compile(r"(\d{1,6})(s|m|h)")
_UNIT_SEC = {"s": 1, "m": 60, "h": 3600}


class PolicyFileError(NetsondeError):
    """A policy file is malformed."""

    exit_code: ClassVar[int] = EXIT_USAGE


class PolicyStoreError(NetsondeError):
    """The policy bucket cannot be read or written."""


Value = TypeVar("Value", Release, Revision)


class _File(msgspec.Struct, forbid_unknown_fields=True):
    policy: list[Policy] = []


def read_policy_file(path: str) -> list[Policy]:
    """Returns the `[[policy]]` tables of a TOML file, in order. Raises PolicyFileError."""
    try:
        with Path(path).open("rb") as file:
            content = file.read(FILE_BYTES_MAX + 1)
        if len(content) > FILE_BYTES_MAX:
            raise PolicyFileError(f"{path} is larger than {FILE_BYTES_MAX >> 20} MiB.")
        policies = msgspec.convert(tomllib.loads(content.decode()), _File).policy
    except OSError as error:
        raise PolicyFileError(f"Cannot read {path}: {error.strerror}.") from None
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise PolicyFileError(f"{path}: {error}.") from None
    check_policies(path, policies)
    return policies


def check_policies(path: str, policies: list[Policy]) -> None:
    """Raises PolicyFileError for a repeated name, a malformed selector or rollout."""
    names = [policy.name for policy in policies]
    for policy in policies:
        where = f"{path}: policy {policy.name}"
        if names.count(policy.name) > 1:
            raise PolicyFileError(f"{where}: the name is used twice.")
        try:
            PolicySet(new_revision(1, [policy]))
            rollout = policy.rollout
            for share in (rollout.canary, rollout.batch, rollout.max_failed, rollout.max_silent):
                share_of(share, 100)
            if share_of(rollout.batch, 100) < 1:
                raise ValueError("batch must be at least 1 host")
            duration_sec(rollout.soak)
        except SelectorError as error:
            raise PolicyFileError(f"{where}: {error.detail}") from None
        except ValueError as error:
            raise PolicyFileError(f"{where}: {error}.") from None


def share_of(share: int | str, hosts: int) -> int:
    """Returns a number of hosts. A percentage is rounded up. Raises ValueError."""
    if isinstance(share, int):
        if share < 0:
            raise ValueError(f"{share} is negative")
        return share
    percent = re.fullmatch(r"(\d{1,3})%", share)
    if percent is None or int(percent[1]) > 100:
        raise ValueError(f"{share!r} is neither a number of hosts nor 0% to 100%")
    return -(-hosts * int(percent[1]) // 100)


def duration_sec(text: str) -> int:
    """Parses `90s`, `5m` or `1h`. Raises ValueError."""
    found = _DURATION.fullmatch(text)
    if found is None:
        raise ValueError(f"{text!r} is not a time such as 90s, 5m or 1h")
    return int(found[1]) * _UNIT_SEC[found[2]]


def user_name() -> str:
    """Returns the user and host of this client, such as `root@web1`."""
    return f"{getpass.getuser()}@{socket.gethostname()}"


def instant_of(text: str) -> int:
    """Returns nanoseconds since the epoch. Raises PolicyStoreError."""
    try:
        return parse_rfc3339(text)
    except ValueError as error:
        raise PolicyStoreError(f"The server's time cannot be read: {error}.") from None


def new_revision(number: int, policies: list[Policy], restores: int | None = None) -> Revision:
    return Revision(
        revision=number,
        policies=policies,
        time=rfc3339(time.time_ns()),
        by=user_name(),
        restores=restores,
    )


@dataclass(frozen=True, slots=True)
class Released:
    """The release with the policies of its revisions. entry: its revision in the bucket, 0 if
    nothing was ever released."""

    release: Release | None
    sets: Mapping[int, PolicySet]
    entry: int


@dataclass(frozen=True, slots=True)
class Rolling(Released):
    """A release that a rollout has begun."""

    release: Release


class PolicyStore:
    """The bucket `<root>-policy`. Every write is a compare-and-set."""

    def __init__(self, client: FleetClient) -> None:
        self._connection = client.connection
        self._domain = client.address.jetstream_domain
        root = client.address.root
        self.bucket = KeyValue(
            client,
            policy_bucket(root),
            domain=self._domain,
            copied_to=announcement_subject(root, ""),
        )

    async def read(self) -> Released:
        """Returns the release; None in it before the first `apply`. Raises PolicyStoreError."""
        try:
            found = await self.bucket.get(RELEASE_KEY)
        except KeyValueError as error:
            if await self._is_missing():
                return Released(None, {}, 0)  # `add` creates the bucket, or says why it cannot
            raise PolicyStoreError(error.detail) from None
        if found is None or found.deleted:
            return Released(None, {}, found.revision if found is not None else 0)
        release = _decode(found.value, Release)
        sets = {number: await self.revision(number) for number in release.revisions()}
        return Released(release, sets, found.revision)

    async def _is_missing(self) -> bool:
        """Returns whether there is no bucket. Returns False if JetStream cannot answer now."""
        try:
            now_ns = await server_time_ns(self._connection, self.bucket.bucket, domain=self._domain)
        except InventoryError:
            return False
        return now_ns is None

    async def revision(self, number: int) -> PolicySet:
        """Raises PolicyStoreError."""
        try:
            found = await self.bucket.get(revision_key(number))
        except KeyValueError as error:
            raise PolicyStoreError(error.detail) from None
        if found is None or found.deleted:
            raise PolicyStoreError(f"There is no revision {number}.")
        return PolicySet(_decode(found.value, Revision))

    async def add(
        self, now: Released, policies: list[Policy], *, restores: int | None = None
    ) -> Rolling:
        """Writes the next revision and begins its release, to no host yet."""
        before = now.release
        if before is not None and len(before.revisions()) >= RELEASES_MAX:
            raise PolicyStoreError(
                f"{RELEASES_MAX} rollouts are unfinished; finish one with `apply --resume`."
            )
        number = 1 if before is None else before.revision + 1
        revision = new_revision(number, policies, restores)
        try:
            await self.bucket.ensure()
            number = await self._write_revision(revision)
        except KeyValueError as error:
            raise PolicyStoreError(error.detail) from None
        revision = msgspec.structs.replace(revision, revision=number)
        release = Release(revision=number, previous=before)
        sets = {**now.sets, number: PolicySet(revision)}
        return await self.write(Rolling(release, sets, now.entry))

    async def _write_revision(self, revision: Revision) -> int:
        """Returns its number: the next free one. A client that died after this step, and before
        the release, has left a number behind."""
        while True:
            value = msgspec.json.encode(revision)
            try:
                await self.bucket.put(revision_key(revision.revision), value, last=0)
            except WrongRevisionError:
                revision = msgspec.structs.replace(revision, revision=revision.revision + 1)
            else:
                return revision.revision

    async def write(self, released: Rolling) -> Rolling:
        """Replaces the release; retries while the bucket has no leader or NATS is away. Raises
        PolicyStoreError if somebody else replaced it."""
        value = msgspec.json.encode(released.release)
        until_sec, again = time.monotonic() + OUTAGE_SEC, False
        while True:
            try:
                entry = await self.bucket.put_once(
                    RELEASE_KEY, value, last=released.entry, again=again
                )
                return Rolling(released.release, released.sets, entry)
            except WrongRevisionError:
                raise PolicyStoreError("Somebody else changed the release meanwhile.") from None
            except KeyValueError as error:
                if time.monotonic() > until_sec:
                    raise PolicyStoreError(error.detail) from None
                again = True
                await asyncio.sleep(RETRY_SEC)


def _decode(data: bytes, kind: type[Value]) -> Value:
    """Raises PolicyStoreError."""
    try:
        value = msgspec.json.decode(data, type=kind)
    except msgspec.DecodeError as error:
        raise PolicyStoreError(f"The policy cannot be read: {error}.") from None
    if getattr(value, "schema", 0) > SCHEMA:
        raise PolicyStoreError("The policy was written by a newer netsonde; update this one.")
    return value
