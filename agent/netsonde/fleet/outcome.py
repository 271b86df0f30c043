"""The outcome of a request (a reply or an absence for each expected host), and its pace.

A host is ok if one agent replied with a code below 400. Two agents under one name are an error
of that name: its entry has code 409, and `twins` holds what each of them replied.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from .inventory import Host
from .scatter import NO_ANSWER, NOT_ASKED, NOT_CONNECTED, UNKNOWN, Absence, Reply
from .targeting import Limit

LOST = "lost"
SUMMARY_ORDER = (
    "ok",
    "refused",
    "malformed",
    "two agents",
    NOT_CONNECTED,
    NO_ANSWER,
    LOST,
    NOT_ASKED,
)


@dataclass(frozen=True, slots=True)
class Pace:
    """How a request proceeds.

    timeout_sec: how long to wait for the reply of each host. limit: only so many of the hosts.
    batch: so many hosts at a time; None: all at once. failures_max: no further host is asked when
    more than this number failed or stayed silent.
    """

    timeout_sec: float = 2.0
    limit: Limit | None = None
    batch: int | None = None
    failures_max: int | None = None

    @property
    def staged(self) -> bool:
        return self.batch is not None or self.failures_max is not None

    def window(self, hosts: int) -> int:
        """Returns how many hosts may be in flight."""
        return self.batch or (1 if self.failures_max is not None else max(hosts, 1))


PACE = Pace()


@dataclass(slots=True)
class Outcome:
    """Result of one request: replies and missing hosts, sorted by host, and warnings. blind: the
    inventory could not be read, so nobody knows which hosts are missing."""

    replies: list[Reply] = field(default_factory=list)
    absences: list[Absence] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    inventory: Mapping[str, Host] = field(default_factory=dict)
    request_id: str = ""
    error: BaseException | None = None  # ended the run early
    resumable: bool = False
    blind: bool = False

    def include_earlier(self, replies: Iterable[Reply], forgotten: Iterable[str]) -> None:
        """Adds what the journal of a resumed run knows. forgotten: hosts that must not be asked
        again."""
        self.replies += replies
        for host in forgotten:
            self.absences.append(Absence(host, NO_ANSWER))
            self.warnings.append(
                f"{host}: asked too long ago to be asked again safely; see `netsonde status`"
            )

    @property
    def complete(self) -> bool:
        """Returns whether at least one host replied, none is missing, and every reply is below
        400."""
        return bool(self.replies) and not self.failures and not self.blind

    @property
    def failures(self) -> int:
        return len(self.absences) + sum(not reply.accepted for reply in self.replies)

    def failed_hosts(self) -> list[str]:
        failed = {reply.host for reply in self.replies if not reply.accepted}
        return sorted((failed | {absence.host for absence in self.absences}) - {UNKNOWN})

    def summary(self) -> str:
        """Returns a line such as `30 asked: 15 ok, 5 not connected, 10 no answer; request …`."""
        counts = Counter(_kind(reply) for reply in self.replies)
        counts.update(absence.reason for absence in self.absences)
        parts = [f"{counts[kind]} {kind}" for kind in SUMMARY_ORDER if counts[kind]]
        asked = sum(counts.values())
        text = f"{asked} asked: {', '.join(parts)}" if parts else "0 asked"
        return f"{text}; request {self.request_id}" if self.request_id else text


def _kind(reply: Reply) -> str:
    if reply.accepted:
        return "ok"
    if reply.twins:
        return "two agents"
    return "malformed" if reply.body.get("error") == "unreadable" else "refused"


def twin_reply(host: str, replies: list[Reply]) -> Reply:
    """Returns the entry of a name that two agents use."""
    body: dict[str, Any] = {
        "host": host,
        "code": 409,
        "error": "name_taken",
        "detail": "Two agents use this host name. Give one of them another [agent] host.",
        "replies": [reply.body for reply in replies],
    }
    first = Reply(host, 409, {}) if not replies else replies[0]
    return Reply(host, 409, body, first.elapsed_sec, tuple(replies) or (first,))
