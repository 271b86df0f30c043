"""Sends one request to many hosts: asks each on its own subject, and ends the wait.

search.py finds the hosts. At most `window` hosts are in flight; when one replies, the next is
asked, so a silent host does not delay the others. With a failure limit, a host that is slow to
reply counts as failed until it replies.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from types import MappingProxyType
from typing import Any, Protocol

from ..bus.nats_client import GuardedClient
from ..config.sections import NatsSection
from ..wire.inventory import Chosen
from .denied import DeniedError
from .inventory import Host, InventoryError, read_inventory
from .outcome import LOST, Outcome, Pace, twin_reply
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
    Signal,
    decode_discovery,
)
from .search import INFO, PING, QUIET_FACTOR, QUIET_SEC_MIN, TWIN_SEC_MIN, Search
from .targeting import Target, TargetError, host_subject

POLL_SEC = 0.25  # how soon the next deadline is looked at
IN_FLIGHT_BYTES_MAX = 32 << 20  # half of nats-server's default max_pending
REPLY_BYTES = 4096  # `status` of one interface has 1.8 KB
ROW_BYTES = 1024  # a flow has 0.9 KB
LARGE_REPLIES = frozenset({"flows", "schema"})  # each reply may be as large as max_payload
NO_BODY: Mapping[str, Any] = MappingProxyType({})

Progress = Callable[[int, int | None], None]


class Watcher(Protocol):
    """Learns of a request's course as it happens."""

    def expect(self, hosts: Iterable[str]) -> None: ...
    def asked(self, host: str) -> None: ...
    def replied(self, reply: Reply) -> None: ...
    def absent(self, absence: Absence) -> None: ...


class Request:
    """Use it with `async with`, then call `run` once. `settle` may be called at any time."""

    def __init__(self, connection: GuardedClient, address: NatsSection, pace: Pace) -> None:
        self.pace = pace
        self.expected: dict[str, None] = {}
        self.asked: set[str] = set()
        self.inventory: dict[str, Host] = {}
        self.warnings: list[str] = []
        self.blind = False  # the inventory could not be read
        self.progress: Progress | None = None
        self.watcher: Watcher | None = None
        self._connection = connection
        self._root = address.root
        self._domain = address.jetstream_domain
        self._signal = Signal(connection)
        self._stack = AsyncExitStack()
        self._pending: dict[str, float] = {}  # deadline by host, earliest first
        self._failed: set[str] = set()
        self._verb = ""
        self.search = Search(connection, address.root, pace.timeout_sec, self._signal)
        self.check = Inbox(connection, Message(decode=decode_discovery), self._signal.set)
        self.answers: Inbox

    async def open(self, message: Message) -> Request:
        answers = Inbox(self._connection, message, self._on_answer)
        self.answers = await self._stack.enter_async_context(answers)
        for inbox in (self.search.roll, self.check):
            await self._stack.enter_async_context(inbox)
        return self

    async def close(self) -> None:
        await self._stack.aclose()

    # ---- what arrives ----------------------------------------------------------------------

    def _on_answer(self, host: str | None) -> None:
        self._signal.set()
        if host is None:
            return
        self._pending.pop(host, None)
        reply = self.answers.gathering.replies.get(host)
        if reply is not None and reply.accepted and host not in self.answers.gathering.others:
            self._failed.discard(host)
        else:
            self._failed.add(host)
        if self.watcher is not None:
            if reply is not None:
                self.watcher.replied(reply)
            else:
                self.watcher.absent(Absence(host, self._why_absent(host)))
        if self.progress is not None:
            total = len(self.expected) or None
            self.progress(len(self.answers.gathering.replies), total)

    def _expect(self, hosts: Iterable[str]) -> None:
        new = [host for host in hosts if host not in self.expected]
        self.expected.update(dict.fromkeys(new))
        if new and self.watcher is not None:
            self.watcher.expect(new)

    # ---- asking ----------------------------------------------------------------------------

    async def find(self, target: Target, *, thorough: bool = False) -> tuple[str, ...] | None:
        """Returns the hosts to ask: named ones, else those of the inventory and of discovery. None
        if there is no inventory and neither discovery nor agents replied."""
        hosts = target.expected
        if hosts is None:
            listed = await self._read_inventory(target)
            hosts = await self._search(target, listed, thorough=thorough)
        return self.pace.limit.apply(hosts) if self.pace.limit and hosts else hosts

    async def _search(
        self, target: Target, listed: Sequence[str], *, thorough: bool
    ) -> tuple[str, ...] | None:
        hosts = await self.search.find(target, thorough=thorough and not listed)
        return tuple(sorted({*listed, *(hosts or ())})) if listed else hosts

    async def _read_inventory(self, target: Target) -> list[str]:
        """Returns the target's hosts in the inventory; none if it is not there."""
        try:
            found = await read_inventory(self._connection, self._root, domain=self._domain)
        except InventoryError as error:
            self.warnings.append(f"{error.detail} Hosts that are missing are not known.")
            self.blind = True
            found = None
        if found is None:
            return []
        self.warnings += [f"inventory: malformed entry of {key}" for key in found.malformed]
        self.inventory = {
            name: host
            for name, host in found.hosts.items()
            if target.matches(name, host.entry.labels, Chosen.of(host.entry).facts)
        }
        self.search.known = frozenset(
            name for name, host in self.inventory.items() if not host.absent
        )
        return list(self.inventory)

    async def run(self, verb: str, target: Target, body: Mapping[str, Any] = NO_BODY) -> None:
        """Asks the target's hosts. verb: empty for the discovery document (INFO)."""
        pace, named = self.pace, target.expected is not None
        some = pace.staged or pace.limit is not None
        largest = self.window(verb, body)
        if named or some:
            hosts = await self.find(target, thorough=not some and verb not in LARGE_REPLIES)
        else:
            listed = await self._read_inventory(target)
            asking = asyncio.ensure_future(self._ask_listed(verb, listed, largest))
            try:
                thorough = verb not in LARGE_REPLIES
                hosts = await self._search(target, listed, thorough=thorough)
                await asking
            finally:
                asking.cancel()
                await asyncio.gather(asking, return_exceptions=True)
        if hosts is None and some:
            raise TargetError(
                "Service discovery got no reply. Name the hosts with --host or --nodes "
                "to use --limit, --batch or --max-failures."
            )
        left = [host for host in hosts or () if host not in self.asked or self._must_repeat(host)]
        window = min(pace.window(len(hosts or ())), largest)
        await self.ask_each(verb, left, window, named=named)
        self._expect(self.search.unconfirmed)

    def window(self, verb: str, body: Mapping[str, Any]) -> int:
        """Returns how many hosts may be in flight, so that their replies fit the buffers of the
        server."""
        rows = body.get("limit")
        size = REPLY_BYTES
        if verb in LARGE_REPLIES:
            size = int(self._connection.max_payload)
            if isinstance(rows, int) and verb == "flows":
                size = min(size, REPLY_BYTES + rows * ROW_BYTES)
        return max(1, IN_FLIGHT_BYTES_MAX // size)

    async def _ask_listed(self, verb: str, listed: Sequence[str], window: int) -> None:
        """Asks the hosts of the inventory while discovery still looks for others."""
        try:
            await self._ask(verb, listed, window, named=False)
        except DeniedError:
            if verb:
                raise
            self.answers.gathering.denied.clear()  # $SRV is denied: `_must_repeat` asks again

    def _must_repeat(self, host: str) -> bool:
        """Returns whether discovery could not reach the host that was asked through it."""
        return not self._verb and host in self.search.hidden

    async def ask_each(self, verb: str, hosts: Sequence[str], window: int, *, named: bool) -> None:
        """Asks each host on its own subject. Looks for a second agent of each name if the hosts
        are named, else of the names that discovery heard twice."""
        await self._ask(verb, hosts, window, named=named)
        if not named:
            for host in self.search.roll.gathering.others.keys() & self.asked:
                await self.check.ask(Ask(f"{PING}.{host}", host))
        await self._await_twins()

    async def _ask(self, verb: str, hosts: Sequence[str], window: int, *, named: bool) -> None:
        self._verb = verb
        self._expect(hosts)
        queue = deque(hosts)
        while True:
            now_sec = time.monotonic()
            if self._pending and next(iter(self._pending.values())) <= now_sec:
                await self._signal.read_arrived()
            self._expire(now_sec)
            while queue and len(self._pending) < window and not self._halted(now_sec):
                host = queue.popleft()
                self._pending[host] = time.monotonic() + self.pace.timeout_sec
                self.asked.add(host)
                if self.watcher is not None:
                    self.watcher.asked(host)
                await self.answers.ask(Ask(self._subject(verb, host), host))
                if named:
                    await self.check.ask(Ask(f"{PING}.{host}", host))
            if not self._pending and (not queue or self._halted(now_sec)):
                break
            await self._signal.wait(next(iter(self._pending.values()), now_sec + POLL_SEC))
            self._check_denied()

    def _check_denied(self) -> None:
        """Ends the request if the server denies it: no host can reply to what it was not sent."""
        denied = self.answers.gathering.denied
        if denied:
            raise DeniedError(denied[0], self._root)

    def _subject(self, verb: str, host: str) -> str:
        if verb or host in self.search.hidden:
            return host_subject(self._root, host, verb or "status")
        return f"{INFO}.{host}"

    def _expire(self, now_sec: float) -> None:
        """Ends the wait for hosts that are late or known to be absent."""
        if self.answers.gathering.stored_by:
            for host in [host for host in self._pending if self._not_connected(host)]:
                self._end_wait(host)
        while self._pending:
            host, deadline_sec = next(iter(self._pending.items()))
            if deadline_sec > now_sec:
                break
            self._end_wait(host)

    def _end_wait(self, host: str) -> None:
        """Counts a host as absent. A reply that arrives later still counts."""
        del self._pending[host]
        self._failed.add(host)
        if self.watcher is not None:
            self.watcher.absent(Absence(host, self._why_absent(host)))

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
        def until_sec() -> float:
            left_sec = max(TWIN_SEC_MIN, QUIET_FACTOR * self.check.gathering.slowest_sec)
            return self.check.heard_sec + left_sec

        if self.check.gathering.replies and self.answers.gathering.replies:
            await self._signal.await_silence(until_sec)

    def _denied(self, host: str) -> bool:
        subjects = {denial.subject for denial in self.answers.gathering.denied}
        return bool(subjects) and self._subject(self._verb, host) in subjects

    def _not_connected(self, host: str) -> bool:
        found, check = self.answers.gathering, self.check.gathering
        if host in found.unreachable:
            return True
        # Discovery may not reach agents of another account. Trust it only if it found some, or
        # if a stream that stores requests hides that nobody hears them.
        return host in check.unreachable and bool(check.replies or found.stored_by)

    # ---- the outcome -----------------------------------------------------------------------

    def settle(self, outcome: Outcome) -> None:
        """Adds what is known to the outcome."""
        found, search = self.answers.gathering, self.search
        twins = found.others.keys() | (self.check.gathering.others.keys() & self.expected.keys())
        replies = [reply for host, reply in found.replies.items() if host not in twins]
        for host in twins:
            heard = [found.replies[host]] if host in found.replies else []
            replies.append(twin_reply(host, [*heard, *found.others.get(host, [])]))
        known = found.replies.keys() | twins
        replies += [
            Reply.unreadable(asked, f"the reply names another host: {named}", 0.0)
            for asked, named in dict(sorted(found.misnamed)).items()
            if asked not in known
        ]
        known |= {reply.host for reply in replies}
        if search.malformed:
            why = "; ".join(sorted(search.malformed))
            replies.append(Reply.unreadable(UNKNOWN, f"discovery: {why}", 0.0))
        outcome.inventory = self.inventory
        outcome.warnings += self.warnings
        outcome.blind |= self.blind
        outcome.replies = sorted([*outcome.replies, *replies], key=lambda reply: reply.host)
        outcome.absences += [
            Absence(host, self._why_absent(host)) for host in sorted(self.expected.keys() - known)
        ]
        misnamed = found.misnamed | search.roll.gathering.misnamed | self.check.gathering.misnamed
        outcome.warnings += [
            f"{asked}: reply ignored, it names another host: {named}"
            for asked, named in sorted(misnamed)
        ]
        asides = [*search.roll.gathering.denied, *search.denied, *self.check.gathering.denied]
        outcome.warnings += dict.fromkeys(map(str, asides))
        outcome.warnings += [
            f"the JetStream stream {stream} stores requests: its subjects should not include "
            f"them, only {self._root}.stream.>"
            for stream in sorted(found.stored_by | search.stored_by)
        ]

    def _why_absent(self, host: str) -> str:
        if host in self.search.unconfirmed:
            return self.search.unconfirmed[host]
        if host not in self.asked or self._denied(host):
            return NOT_ASKED
        if host in self.inventory and self.inventory[host].lost:
            return LOST
        return NOT_CONNECTED if self._not_connected(host) else NO_ANSWER
