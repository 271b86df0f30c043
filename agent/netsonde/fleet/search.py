"""Finds the hosts of a target: service discovery ($SRV) together with a broadcast `status`.

The reply to a broadcast can name any host, so here it yields only names. Whatever is shown of a
host, or decides about it, comes from a reply to that host's own subject: with separate roles
(roles.py), nats-server lets no other host subscribe to it. request.py asks each host there. A
label that selects a host is confirmed on `$SRV.PING.netsonde.<host>` before the host is asked.

A search ends after `max(1 s, 4 × the slowest answer)` of silence. Discovery may miss agents of
another account; `status` finds them. An account can also import their subjects below a prefix:
they have the root `capture`, and clients use `ams.capture`. Discovery has no root in its subjects,
so such an agent belongs to the client's root if it also replies to `status` there.
"""

from __future__ import annotations

import asyncio
import time
from functools import partial
from typing import Any

from ..bus.nats_client import GuardedClient, PermissionDeniedError
from .denied import DeniedError
from .scatter import (
    NO_ANSWER,
    NOT_CONNECTED,
    UNKNOWN,
    Ask,
    Gathering,
    Inbox,
    Message,
    Reply,
    Signal,
    decode_discovery,
)
from .targeting import Target

SERVICE = "netsonde"
INFO = f"$SRV.INFO.{SERVICE}"
PING = f"$SRV.PING.{SERVICE}"
QUIET_SEC_MIN = 1.0
QUIET_FACTOR = 4
KNOWN_QUIET_SEC = 0.1
TWIN_SEC_MIN = 0.5  # after a named host's reply, another agent of that name has this long


class Search:
    """Open `roll` before use. discovered: the target's agents that discovery found."""

    def __init__(
        self, connection: GuardedClient, root: str, timeout_sec: float, signal: Signal
    ) -> None:
        self.roll = Inbox(connection, Message(decode=decode_discovery), signal.set)
        self.discovered: dict[str, Reply] = {}
        self.known: frozenset[str] = frozenset()  # hosts of the inventory that should reply
        self.hidden: set[str] = set()  # hosts that only `status` found
        self.unconfirmed: dict[str, str] = {}  # hosts that did not confirm their labels, and why
        self.malformed: set[str] = set()
        self.stored_by: set[str] = set()
        self.denied: list[PermissionDeniedError] = []  # denials of the probe
        self._connection = connection
        self._answering: set[str] = set()  # hosts that replied to `status` of this root
        self._root = root
        self._timeout_sec = timeout_sec
        self._signal = signal

    async def find(self, target: Target, *, thorough: bool) -> tuple[str, ...] | None:
        """Returns the hosts to ask, sorted; None if neither discovery nor agents replied.
        thorough: also looks for agents that discovery does not reach if it found some. Raises
        DeniedError."""
        probe = asyncio.create_task(self._probe(target)) if thorough else None
        try:
            found = await self.discover("PING", target)
            probed: set[str] = set()
            if probe is not None:
                probed = await probe
            elif not found or any(map(self._may_be_imported, self.roll.gathering.replies)):
                probed = await self._probe(target)
        finally:
            if probe is not None:
                probe.cancel()
        await self._add_imported(target)
        self.hidden = {host for host in probed if not self._is_known(host)}
        denied = [*self.roll.gathering.denied, *self.denied]
        if denied and not self.discovered and not self.hidden:
            raise DeniedError(denied[0], self._root)
        if found is None and not self.hidden and not self.malformed:
            return None
        return tuple(sorted(self.discovered.keys() | self.hidden))

    def _is_known(self, host: str) -> bool:
        """Returns whether discovery knows the host: as a member of the target, or as none."""
        return any(self._belongs(reply) for reply in self._heard(host))

    def _belongs(self, reply: Reply) -> bool:
        """Returns whether the agent has this root, also through an import."""
        return belongs(reply.body, self._root) or (
            reply.host in self._answering and is_imported(reply.body, self._root)
        )

    def _may_be_imported(self, host: str) -> bool:
        return any(is_imported(reply.body, self._root) for reply in self._heard(host))

    async def _add_imported(self, target: Target) -> None:
        """Adds the agents that replied to `status` and have the root without a prefix."""
        before = set(self.discovered)
        self.note(target)
        if target.by_label and self.discovered.keys() - before:
            await self._confirm(target)

    def _heard(self, host: str) -> list[Reply]:
        gathering = self.roll.gathering
        first = gathering.replies.get(host)
        return [] if first is None else [first, *gathering.others.get(host, ())]

    # ---- discovery -------------------------------------------------------------------------

    async def discover(self, kind: str, target: Target) -> dict[str, Reply] | None:
        """Calls the roll and returns the target's agents. None: no agent and no server replied,
        for example because the account may not use $SRV."""
        deadline_sec = time.monotonic() + self._timeout_sec
        await self._call_roll(kind, target)
        await self._signal.await_silence(
            lambda: min(deadline_sec, self._quiet_sec()),
            lambda: bool(self.roll.gathering.denied) or self._roll_complete(target),
        )
        self.note(target)
        if target.by_label:
            await self._confirm(target)
        gathering = self.roll.gathering
        if not gathering.replies and not gathering.nobody and not target.expected:
            return None
        return self.discovered

    async def _call_roll(self, kind: str, target: Target) -> None:
        subject = f"$SRV.{kind}.{SERVICE}"
        if target.expected is None:
            await self.roll.ask(Ask(subject))
        for host in target.expected or ():
            await self.roll.ask(Ask(f"{subject}.{host}", host))

    def _quiet_sec(self) -> float:
        """Returns when the silence has lasted long enough: shorter if every host that the
        inventory knows has replied."""
        gathering = self.roll.gathering
        if self.known and self.known <= gathering.replies.keys():
            return self.roll.heard_sec + max(KNOWN_QUIET_SEC, gathering.slowest_sec)
        return quiet_sec(self.roll)

    def _roll_complete(self, target: Target) -> bool:
        """Returns whether nobody else can answer, but for a second agent of the same name."""
        gathering = self.roll.gathering
        if gathering.nobody:
            return True
        if target.expected is None:
            return False
        if any(host not in gathering.unreachable for host in gathering.replies):
            left_sec = max(TWIN_SEC_MIN, QUIET_FACTOR * gathering.slowest_sec)
            if time.monotonic() < self.roll.heard_sec + left_sec:
                return False
        return set(target.expected) <= gathering.replies.keys() | gathering.unreachable

    def note(self, target: Target) -> None:
        """Reads the roll: agents of this root and target, and malformed answers."""
        for host, first in self.roll.gathering.replies.items():
            if not first.accepted:
                self.malformed.add(str(first.body["detail"]))
            for reply in self._heard(host):
                if reply.accepted and self._is_member(target, reply):
                    self.discovered.setdefault(host, reply)

    def _is_member(self, target: Target, reply: Reply) -> bool:
        metadata = reply.body.get("metadata")
        return self._belongs(reply) and bool(
            target.hosts or target.matches(reply.host, read_labels(metadata), read_facts(metadata))
        )

    async def _confirm(self, target: Target) -> None:
        """Keeps the hosts whose reply on their own subject has the labels too."""
        message = Message(decode=decode_discovery)
        async with Inbox(self._connection, message, self._signal.set) as inbox:
            for host in self.discovered:
                await inbox.ask(Ask(f"{PING}.{host}", host))
            deadline_sec = time.monotonic() + self._timeout_sec
            found = inbox.gathering

            def is_complete() -> bool:
                return not self.discovered.keys() - found.replies.keys() - found.unreachable

            await self._signal.await_silence(
                lambda: deadline_sec, lambda: bool(found.denied) or is_complete()
            )
            if found.denied and not is_complete():
                raise DeniedError(found.denied[0], self._root)
            for host in list(self.discovered):
                first = found.replies.get(host)
                if first is None:
                    silent = host not in found.unreachable
                    self.unconfirmed[host] = NO_ANSWER if silent else NOT_CONNECTED
                heard = [] if first is None else [first, *found.others.get(host, ())]
                if not any(reply.accepted and self._is_member(target, reply) for reply in heard):
                    del self.discovered[host]

    # ---- agents that discovery does not reach ----------------------------------------------

    async def _probe(self, target: Target) -> set[str]:
        """Returns the hosts that reply to `status` of all hosts, or of each of the groups."""
        found: set[str] | None = None
        for group in target.groups or (None,):
            only = Target(groups=(group,) if group else ())
            async with Inbox(self._connection, Message(), self._signal.set) as inbox:
                deadline_sec = time.monotonic() + self._timeout_sec
                await inbox.ask(Ask(only.subject(self._root, "status")))
                await self._signal.await_silence(
                    partial(_end_sec, inbox, deadline_sec), partial(_is_over, inbox.gathering)
                )
            self._note_probe(inbox.gathering)
            self._answering |= inbox.gathering.replies.keys() - {UNKNOWN}
            # The labels of these hosts are unknown, so a selector chooses none of them.
            heard_from = set() if target.select else inbox.gathering.replies.keys() - {UNKNOWN}
            hosts = set(filter(target.includes, heard_from))
            found = hosts if found is None else found & hosts
        return found or set()

    def _note_probe(self, gathering: Gathering) -> None:
        self.stored_by |= gathering.stored_by
        self.denied += gathering.denied
        if UNKNOWN in gathering.replies:
            self.malformed.add(str(gathering.replies[UNKNOWN].body["detail"]))


def quiet_sec(inbox: Inbox) -> float:
    """Returns when the silence after the last answer has lasted long enough."""
    return inbox.heard_sec + max(QUIET_SEC_MIN, QUIET_FACTOR * inbox.gathering.slowest_sec)


def _end_sec(inbox: Inbox, deadline_sec: float) -> float:
    return min(deadline_sec, quiet_sec(inbox))


def _is_over(gathering: Gathering) -> bool:
    return bool(gathering.nobody or gathering.denied)


def belongs(body: dict[str, Any], root: str) -> bool:
    """Returns whether the agent's metadata has this root."""
    metadata = body.get("metadata")
    return not isinstance(metadata, dict) or metadata.get("subject.root", root) == root


def is_imported(body: dict[str, Any], root: str) -> bool:
    """Returns whether `root` is the agent's root below a prefix."""
    metadata = body.get("metadata")
    own = metadata.get("subject.root") if isinstance(metadata, dict) else None
    return isinstance(own, str) and bool(own) and root.endswith(f".{own}")


def read_facts(metadata: object) -> dict[str, object]:
    """Returns the facts that an agent's discovery metadata has; the inventory has them all."""
    if not isinstance(metadata, dict):
        return {}
    names = {"kernel": "version.kernel", "version": "version.agent"}
    return {fact: str(metadata[key]) for fact, key in names.items() if key in metadata}


def read_labels(metadata: object) -> dict[str, str]:
    """Returns an agent's labels from its discovery metadata. Label names have no dot, except
    for an optional prefix `label.`; every other name has a dot."""
    if not isinstance(metadata, dict):
        return {}
    plain = {key.removeprefix("label."): str(value) for key, value in metadata.items()}
    return {key: value for key, value in sorted(plain.items()) if "." not in key}
