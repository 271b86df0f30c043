"""Sends one request to many hosts: finds the hosts, asks them, and ends the wait.

A request to all hosts or to one group is published once. A roll call through service discovery
($SRV) runs at the same time and lists the hosts that should reply. It ends after
`max(1 s, 4 × the slowest answer)` of silence. A reply from a host that it missed counts too.

Otherwise each host has its own subject. At most `window` hosts are in flight; when one replies,
the next is asked, so a silent host does not delay the others. With a failure limit, a host that
is slow to reply counts as failed until it replies.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import AsyncExitStack
from typing import Any, Protocol

from nats.aio.client import Client

from ..errors import UnreachableError
from .outcome import Outcome, Pace, twin_reply
from .scatter import (
    NO_ANSWER,
    NOT_ASKED,
    NOT_CONNECTED,
    UNKNOWN,
    Absence,
    Ask,
    Inbox,
    Message,
    Reply,
    decode_object,
    token,
)
from .targeting import Target, TargetError, host_subject

SERVICE = "netsonde"
INFO = f"$SRV.INFO.{SERVICE}"
QUIET_SEC_MIN = 1.0
QUIET_FACTOR = 4
TWIN_SEC_MIN = 0.5  # after a named host's reply, another agent of that name has this long
POLL_SEC = 0.25  # how soon a lost connection is noticed
IN_FLIGHT_BYTES_MAX = 32 << 20  # half of nats-server's default max_pending
EVERY_HOST = "*"
LARGE_REPLIES = frozenset({"flows", "schema"})  # each reply may be as large as max_payload

Progress = Callable[[int, int | None], None]


class Watcher(Protocol):
    """Learns of a request's course as it happens."""

    def expect(self, hosts: Iterable[str]) -> None: ...
    def asked(self, host: str) -> None: ...
    def replied(self, reply: Reply) -> None: ...


class Request:
    """Use it with `async with`, then call `run` once. `settle` may be called at any time."""

    def __init__(self, connection: Client, root: str, pace: Pace) -> None:
        self.pace = pace
        self.expected: dict[str, None] = {}
        self.asked: set[str] = set()
        self.foreign: set[str] = set()
        self.progress: Progress | None = None
        self.watcher: Watcher | None = None
        self.discovered: dict[str, Reply] = {}
        self._connection = connection
        self._root = root
        self._changed = asyncio.Event()
        self._stack = AsyncExitStack()
        self._pending: dict[str, float] = {}  # deadline by host, earliest first
        self._failed: set[str] = set()
        self._broadcast = False
        self._watched = 0
        self.answers: Inbox
        self.roll: Inbox

    async def open(self, message: Message) -> Request:
        self.answers = await self._inbox(message, self._on_answer)
        self.roll = await self._inbox(Message(decode=decode_discovery), self._on_change)
        return self

    async def close(self) -> None:
        await self._stack.aclose()

    async def _inbox(self, message: Message, changed: Callable[[str | None], None]) -> Inbox:
        return await self._stack.enter_async_context(Inbox(self._connection, message, changed))

    # ---- what arrives ----------------------------------------------------------------------

    def _on_change(self, _host: str | None) -> None:
        self._changed.set()

    def _on_answer(self, host: str | None) -> None:
        self._changed.set()
        if host is None:
            return
        self._pending.pop(host, None)
        reply = self.answers.gathering.replies.get(host)
        if reply is not None and reply.accepted and host not in self.answers.gathering.others:
            self._failed.discard(host)
        else:
            self._failed.add(host)
        if reply is not None and self.watcher is not None:
            self.watcher.replied(reply)
        if self.progress is not None:
            total = len(self.expected) or None
            self.progress(len(self.answers.gathering.replies), total)

    async def _wait(self, until_sec: float) -> None:
        """Returns when something has arrived, or at the time. Raises UnreachableError."""
        left_sec = min(until_sec - time.monotonic(), POLL_SEC)
        if left_sec > 0:
            try:
                async with asyncio.timeout(left_sec):
                    await self._changed.wait()
            except TimeoutError:
                pass
        self._changed.clear()
        if self._connection.is_closed:
            raise UnreachableError("The connection to NATS was lost.")

    def _expect(self, hosts: Iterable[str]) -> None:
        new = [host for host in hosts if host not in self.expected]
        self.expected.update(dict.fromkeys(new))
        if new and self.watcher is not None:
            self.watcher.expect(new)

    # ---- discovery -------------------------------------------------------------------------

    async def discover(self, kind: str, target: Target) -> dict[str, Reply] | None:
        """Calls the roll and returns the target's agents. None: no agent and no server replied,
        for example because the account may not use $SRV."""
        deadline_sec = time.monotonic() + self.pace.timeout_sec
        await self._call_roll(kind, target)
        while time.monotonic() < (until_sec := min(deadline_sec, _quiet(self.roll))):
            if self._roll_complete(target):
                break
            await self._wait(until_sec)
        self._note_found(target)
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

    def _roll_complete(self, target: Target) -> bool:
        """Returns whether nobody else can answer, but for a second agent of the same name."""
        gathering = self.roll.gathering
        if gathering.nobody:
            return True
        if target.expected is None:
            return False
        if any(host not in gathering.unreachable for host in gathering.replies):
            quiet_sec = max(TWIN_SEC_MIN, QUIET_FACTOR * gathering.slowest_sec)
            if time.monotonic() < self.roll.heard_sec + quiet_sec:
                return False
        return set(target.expected) <= gathering.replies.keys() | gathering.unreachable

    def _note_found(self, target: Target) -> None:
        """Reads the roll: agents of this root and target, and malformed answers."""
        for host, reply in self.roll.gathering.replies.items():
            if not reply.accepted:
                self.foreign.add(str(reply.body["detail"]))
            elif belongs(reply.body, self._root) and (
                target.hosts or target.matches(host, read_labels(reply.body.get("metadata")))
            ):
                self.discovered[host] = reply

    async def _probe(self, target: Target) -> set[str]:
        """Returns the hosts that reply to `status`. For agents that discovery does not reach:
        in another account, or imported under a prefix."""
        found: set[str] | None = None
        for group in target.groups or (None,):
            only = Target(groups=(group,) if group else ())
            async with Inbox(self._connection, Message(), self._on_change) as inbox:
                deadline_sec = time.monotonic() + self.pace.timeout_sec
                await inbox.ask(Ask(only.subject(self._root, "status")))
                while not inbox.gathering.nobody and time.monotonic() < min(
                    deadline_sec, _quiet(inbox)
                ):
                    await self._wait(min(deadline_sec, _quiet(inbox)))
                hosts = inbox.gathering.replies.keys() - {UNKNOWN} - target.exclude
            found = hosts if found is None else found & hosts
        return found or set()

    async def find(self, target: Target) -> tuple[str, ...] | None:
        """Returns the hosts to ask one by one; None if neither discovery nor agents replied."""
        hosts = target.expected
        if hosts is None:
            found = await self.discover("PING", target)
            hosts = tuple(sorted(found or await self._probe(target)))
            if not hosts and found is None:
                return None
        return self.pace.limit.apply(hosts) if self.pace.limit else hosts

    # ---- asking ----------------------------------------------------------------------------

    async def run(self, verb: str, target: Target) -> None:
        pace = self.pace
        large = verb in LARGE_REPLIES
        if target.one_subject and not (pace.staged or pace.limit or large):
            await self._ask_all(verb, target)
            return
        hosts = await self.find(target)
        if hosts is None and (pace.staged or pace.limit):
            raise TargetError(
                "Service discovery got no reply. Name the hosts with --host or --nodes "
                "to use --limit, --batch or --max-failures."
            )
        window = pace.window(len(hosts or ()))
        if large:
            window = min(window, max(1, IN_FLIGHT_BYTES_MAX // int(self._connection.max_payload)))
        await self.ask_each(verb, hosts or (), window, pinged=target.expected is not None)

    async def _ask_all(self, verb: str, target: Target) -> None:
        self._broadcast = True
        if self.watcher is not None:
            self.watcher.asked(EVERY_HOST)
        deadline_sec = time.monotonic() + self.pace.timeout_sec
        await self.answers.ask(Ask(target.subject(self._root, verb)))
        await self._call_roll("PING", target)
        self._expect(target.expected or ())
        called = False
        while (now_sec := time.monotonic()) < deadline_sec:
            if not called:
                until_sec = min(deadline_sec, _quiet(self.roll))
                self._note_found(target)
                if target.expected is None:
                    self._expect(self.discovered)
                if now_sec < until_sec and not self._roll_complete(target):
                    await self._wait(until_sec)
                    continue
                called = True
                if not self.expected and not self.answers.gathering.nobody:
                    self._expect(
                        await self._probe(target)
                        if verb != "status"
                        else self.answers.gathering.replies.keys() - {UNKNOWN}
                    )
            if self._settled() or self.answers.gathering.nobody:
                break
            await self._wait(deadline_sec)

    def _settled(self) -> bool:
        """Returns whether every expected host replied or is known to be absent."""
        if self.expected:
            return all(map(self._finished, self.expected))
        # No agent is known. Wait on only if $SRV may be blocked.
        return self.roll.gathering.nobody or bool(self.answers.gathering.replies)

    def _finished(self, host: str) -> bool:
        found = self.answers.gathering
        return host in found.replies or host in found.unreachable or self._not_connected(host)

    def _not_connected(self, host: str) -> bool:
        found, roll = self.answers.gathering, self.roll.gathering
        if host in found.unreachable or found.nobody:
            return True
        # Discovery may not reach agents of another account. Trust it only if it found some, or
        # if a stream that stores requests hides that nobody hears them.
        return host in roll.unreachable and bool(self.discovered or found.stored_by)

    async def ask_each(self, verb: str, hosts: Sequence[str], window: int, *, pinged: bool) -> None:
        """Asks each host on its own subject. pinged: also looks for second agents of a name."""
        self._expect(hosts)
        queue = deque(hosts)
        while True:
            now_sec = time.monotonic()
            self._expire(now_sec)
            while queue and len(self._pending) < window and not self._halted(now_sec):
                host = queue.popleft()
                self._pending[host] = time.monotonic() + self.pace.timeout_sec
                self.asked.add(host)
                if self.watcher is not None:
                    self.watcher.asked(host)
                subject = host_subject(self._root, host, verb) if verb else f"{INFO}.{host}"
                await self.answers.ask(Ask(subject, host))
                if pinged:
                    await self.roll.ask(Ask(f"$SRV.PING.{SERVICE}.{host}", host))
            if not self._pending and (not queue or self._halted(now_sec)):
                break
            await self._wait(next(iter(self._pending.values()), now_sec + POLL_SEC))
        if pinged:
            await self._await_twins()

    def _expire(self, now_sec: float) -> None:
        """Ends the wait for hosts that are late or known to be absent."""
        if self.answers.gathering.stored_by:
            self._note_found(Target(hosts=tuple(self.expected)))
            for host in [host for host in self._pending if self._not_connected(host)]:
                del self._pending[host]
                self._failed.add(host)
        while self._pending:
            host, deadline_sec = next(iter(self._pending.items()))
            if deadline_sec > now_sec:
                break
            del self._pending[host]
            self._failed.add(host)

    def _slow_sec(self) -> float:
        return max(QUIET_SEC_MIN, QUIET_FACTOR * self.answers.gathering.slowest_sec)

    def _halted(self, now_sec: float) -> bool:
        """Returns whether more hosts failed, or are slow, than --max-failures allows."""
        limit = self.pace.failures_max
        if limit is None:
            return False
        slow = self.pace.timeout_sec - self._slow_sec()  # time left when a host becomes slow
        late = sum(deadline - now_sec < slow for deadline in self._pending.values())
        return len(self._failed) + late > limit

    async def _await_twins(self) -> None:
        while self.answers.gathering.replies:
            quiet_sec = max(TWIN_SEC_MIN, QUIET_FACTOR * self.roll.gathering.slowest_sec)
            until_sec = self.roll.heard_sec + quiet_sec
            if time.monotonic() >= until_sec:
                break
            await self._wait(until_sec)

    async def list_agents(self, target: Target, hosts: Sequence[str] | None) -> None:
        """Gathers discovery documents as answers: of the hosts, or of the target's agents."""
        if hosts is not None:
            await self.ask_each("", hosts, self.pace.window(len(hosts)), pinged=False)
            await self._await_twins()
            return
        await self.discover("INFO", target)
        found = self.answers.gathering = self.roll.gathering
        found.nobody = False
        unreadable = {} if UNKNOWN not in found.replies else {UNKNOWN: found.replies[UNKNOWN]}
        found.replies = {**self.discovered, **unreadable}
        found.others = {host: more for host, more in found.others.items() if host in found.replies}
        self.foreign.clear()
        if not self.discovered:
            for host in await self._probe(target):
                found.add(Reply(host, 200, {"id": host, "name": SERVICE}))

    # ---- the outcome -----------------------------------------------------------------------

    def settle(self, outcome: Outcome) -> None:
        """Adds what is known to the outcome."""
        found = self.answers.gathering
        if not self._broadcast:
            self._note_found(Target(hosts=tuple(self.expected)))
        twins = found.others.keys() | (self.roll.gathering.others.keys() & self.expected.keys())
        replies = [reply for host, reply in found.replies.items() if host not in twins]
        for host in twins:
            heard = [found.replies[host]] if host in found.replies else []
            replies.append(twin_reply(host, [*heard, *found.others.get(host, [])]))
        outcome.replies = sorted([*outcome.replies, *replies], key=lambda reply: reply.host)
        known = found.replies.keys() | twins
        outcome.absences += [
            Absence(host, self._why_absent(host)) for host in sorted(self.expected.keys() - known)
        ]
        outcome.warnings += [
            f"{asked}: reply ignored, it names another host: {named}"
            for asked, named in sorted(found.misnamed | self.roll.gathering.misnamed)
        ]
        outcome.warnings += [
            f"service discovery of {SERVICE}: reply ignored, not an agent: {why}"
            for why in sorted(self.foreign)
        ]
        outcome.warnings += [
            f"the JetStream stream {stream} stores requests: its subjects should not include "
            f"them, only {self._root}.stream.>"
            for stream in sorted(found.stored_by)
        ]

    def _why_absent(self, host: str) -> str:
        if not self._broadcast and host not in self.asked:
            return NOT_ASKED
        return NOT_CONNECTED if self._not_connected(host) else NO_ANSWER


def _quiet(inbox: Inbox) -> float:
    """Returns when the silence after the last answer has lasted long enough."""
    return inbox.heard_sec + max(QUIET_SEC_MIN, QUIET_FACTOR * inbox.gathering.slowest_sec)


def decode_discovery(data: bytes, headers: dict[str, str] | None, elapsed_sec: float) -> Reply:
    """Reads a $SRV reply. The host is the service's id."""
    try:
        body = decode_object(data)
        host = token(body.get("id"))
        return Reply(host, 200, {"host": host, **body}, elapsed_sec)
    except ValueError as error:
        return Reply.unreadable(UNKNOWN, str(error), elapsed_sec)


def belongs(body: dict[str, Any], root: str) -> bool:
    """Returns whether the agent's metadata has this root."""
    metadata = body.get("metadata")
    return not isinstance(metadata, dict) or metadata.get("subject.root", root) == root


def read_labels(metadata: object) -> dict[str, str]:
    """Returns an agent's labels from its discovery metadata. Label names have no dot, except
    for an optional prefix `label.`; every other name has a dot."""
    if not isinstance(metadata, dict):
        return {}
    plain = {key.removeprefix("label."): str(value) for key, value in metadata.items()}
    return {key: value for key, value in sorted(plain.items()) if "." not in key}
