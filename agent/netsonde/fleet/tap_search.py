"""The hosts of a running live retrieval: asks each for a tap, now and when it appears later.

The whole target is asked once. Every SEARCH_SEC the hosts of the target that are new, did not reply
or had no session are asked again, each on its own subject. A host that has replied is not asked
again, unless its tap has ended early (`lost`). Hosts that appear are found in the inventory and by
service discovery.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable, Sequence
from dataclasses import replace
from typing import Any

from nats.errors import Error as NatsError

from ..errors import NetsondeError
from .client import FleetClient
from .outcome import Outcome, Pace
from .scatter import Absence, Reply
from .targeting import Target

SEARCH_SEC = 3.0
HOSTS_PER_SEC = 200  # a search takes the next one's time for this many hosts
REPLY_SEC = 15.0  # a host that has not replied by then is asked again
FAILURES = (NetsondeError, NatsError, OSError, TimeoutError)
ASK_AGAIN = frozenset({"no_session", "draining", "too_many_requests"})


class TapSearch:
    """body: makes the body of the request, for one host that was lost or for all others. joined:
    called with each accepted reply, once for each host. outcome: the last reply or the absence of
    each host; complete after `close`. A TapSearch is the Watcher of its requests."""

    def __init__(
        self,
        client: FleetClient,
        target: Target,
        pace: Pace,
        body: Callable[[str | None], dict[str, Any]],
        joined: Callable[[Reply], None],
    ) -> None:
        self._client = client
        self._target = target
        self._pace = replace(pace, timeout_sec=max(pace.timeout_sec, REPLY_SEC))
        self._wait_sec = pace.timeout_sec
        self._body = body
        self._joined = joined
        self._tasks: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Event()
        self._pending: set[str] = set()
        self._heard: Counter[str] = Counter()
        self._accepted: dict[str, Reply] = {}
        self._given: set[str] = set()  # hosts that were handed to `joined`
        self._lost: dict[str, float] = {}  # hosts whose tap ended early, and when to ask them
        self._refusals: dict[str, bool] = {}  # whether the host refused for good
        self._due = asyncio.Event()  # a lost host is to be asked
        self.outcome = Outcome()
        self._started = False  # replies are handed over at once

    # ---- the course ------------------------------------------------------------------------------

    async def start(self) -> None:
        """Asks the whole target. Returns when all replied, or when the pace's timeout is over and
        one has opened a tap or all that replied have refused. Raises the errors of
        FleetClient.ask."""
        first = self._spawn(self._ask(None))
        deadline_sec = time.monotonic() + self._wait_sec
        while not first.done():
            left_sec = deadline_sec - time.monotonic()
            if left_sec <= 0 and (self._single() or self._refused()):
                break
            self._changed.clear()
            waiting = asyncio.ensure_future(self._changed.wait())
            try:
                timeout_sec = left_sec if left_sec > 0 else None
                await asyncio.wait(
                    (first, waiting), timeout=timeout_sec, return_when=asyncio.FIRST_COMPLETED
                )
            finally:
                waiting.cancel()
        if first.done():
            first.result()
        self._started = True
        self._hand_over()
        if self._given:
            self._spawn(self._search())

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._end)
        return task

    def _end(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # a later search asks again

    def lost(self, host: str, delay_sec: float) -> None:
        """Asks the host for another tap, after the delay: its tap has ended early."""
        self._accepted.pop(host, None)
        self._given.discard(host)
        self._heard[host] = 0
        self._lost[host] = time.monotonic() + delay_sec
        asyncio.get_running_loop().call_later(delay_sec, self._due.set)

    def awaits(self, host: str) -> bool:
        """Returns whether the lost host may still open another tap."""
        return host in self._lost

    async def _ask(self, hosts: Sequence[str] | None, lost: str | None = None) -> None:
        outcome = Outcome(request_id=self.outcome.request_id if hosts is None else "")
        pace = self._pace
        if lost is not None:  # the agent may end without a reply
            pace = replace(pace, timeout_sec=self._wait_sec)
        try:
            await self._client.ask(
                "tap",
                self._body(lost),
                self._target,
                pace,
                watcher=self,
                outcome=outcome,
                hosts=hosts,
            )
        finally:
            self._merge(outcome)
            self._pending.difference_update(hosts or _hosts(outcome))

    async def _search(self) -> None:
        while True:
            self._due.clear()
            hosts: Sequence[str] = ()
            with contextlib.suppress(*FAILURES):  # the next search may succeed
                hosts = await self._candidates()
                wanted = [host for host in hosts if self._may_ask(host)]
                self._ask_again(wanted)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(SEARCH_SEC + len(hosts) / HOSTS_PER_SEC):
                    await self._due.wait()

    def _ask_again(self, wanted: Sequence[str]) -> None:
        self._pending.update(wanted)
        for host in wanted:
            self._heard[host] = 0
            if host in self._lost:
                self._spawn(self._ask([host], host))
        if others := [host for host in wanted if host not in self._lost]:
            self._spawn(self._ask(others))

    async def _candidates(self) -> Sequence[str]:
        """Returns the hosts of the target that are known now. A limit keeps the first ones."""
        if self._target.expected is not None:
            return self._target.expected
        if self._pace.limit is not None:
            return _hosts(self.outcome)
        pace = replace(self._pace, timeout_sec=self._wait_sec)
        return await self._client.expect_hosts(self._target, pace) or ()

    def _may_ask(self, host: str) -> bool:
        if host in self._pending or host in self._accepted:
            return False
        if host in self._lost:
            return time.monotonic() >= self._lost[host]
        last = next((one for one in self.outcome.replies if one.host == host), None)
        return last is None or last.body.get("error") in ASK_AGAIN

    # ---- replies ---------------------------------------------------------------------------------

    def expect(self, hosts: Iterable[str]) -> None:
        self._pending.update(hosts)

    def asked(self, host: str) -> None:
        self._pending.add(host)

    def replied(self, reply: Reply) -> None:
        self._heard[reply.host] += 1
        if reply.accepted:
            self._accepted.setdefault(reply.host, reply)
            self._lost.pop(reply.host, None)
        elif not may_accept_later(reply):
            self._lost.pop(reply.host, None)
        self._refusals[reply.host] = not reply.accepted and reply.body.get("error") not in ASK_AGAIN
        self._hand_over()
        self._changed.set()

    def absent(self, absence: Absence) -> None:
        self._changed.set()

    def _single(self) -> list[Reply]:
        """Returns the accepted replies of hosts that replied once. Two agents of one name are
        an error of that name."""
        return [one for host, one in self._accepted.items() if self._heard[host] == 1]

    def _refused(self) -> bool:
        """Returns whether a host has replied, and all that did have refused for good."""
        return bool(self._refusals) and all(self._refusals.values())

    def _hand_over(self) -> None:
        if not self._started:
            return
        for reply in self._single():
            if reply.host not in self._given:
                self._given.add(reply.host)
                self._joined(reply)

    def _merge(self, outcome: Outcome) -> None:
        """Replaces what is known of the hosts of this outcome. An accepted reply stays."""
        total = self.outcome
        replies = {one.host: one for one in total.replies}
        absences = {one.host: one for one in total.absences}
        for reply in outcome.replies:
            replies[reply.host] = reply
            absences.pop(reply.host, None)
        for absence in outcome.absences:
            if absence.host not in replies:
                absences[absence.host] = absence
        total.replies = [replies[host] for host in sorted(replies)]
        total.absences = [absences[host] for host in sorted(absences)]
        total.warnings = list(dict.fromkeys([*total.warnings, *outcome.warnings]))
        total.inventory = total.inventory or outcome.inventory
        total.blind |= outcome.blind
        total.request_id = total.request_id or outcome.request_id


def may_accept_later(refusal: Reply) -> bool:
    """Returns whether an agent that has just started may accept what it has refused."""
    return refusal.code >= 500 or refusal.body.get("error") in ASK_AGAIN


def _hosts(outcome: Outcome) -> list[str]:
    replied = [one.host for one in outcome.replies]
    return replied + [one.host for one in outcome.absences]
