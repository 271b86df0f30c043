"""Lists the hosts of the inventory, together with the agents that reply now."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from .client import FleetClient
from .inventory import Host
from .outcome import PACE, Outcome, Pace
from .search import read_labels
from .targeting import ALL, Target

CAPTURING, IDLE, DRIFT, ERROR, NOT_LISTED = "capturing", "idle", "drift", "error", "not listed"


@dataclass(frozen=True, slots=True)
class Listed:
    """One host.

    state: `capturing`, `idle`, `drift` or `error` if its agent replied; `not listed` if the agent
    replied and the inventory does not have the host; `refused`, `two agents`; else the reason of
    its absence: `not connected`, `no answer`, `lost`. entry: what the inventory knows, and when it
    was written.
    """

    host: str
    state: str
    version: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    entry: Host | None = None

    @property
    def present(self) -> bool:
        """Whether exactly one agent of this name replied."""
        return self.state in (CAPTURING, IDLE, DRIFT, ERROR, NOT_LISTED)


async def discover(
    client: FleetClient,
    target: Target = ALL,
    pace: Pace = PACE,
    *,
    outcome: Outcome | None = None,
) -> dict[str, Listed]:
    """Returns the target's hosts by name: those of the inventory, and the agents that reply.

    Without an inventory only agents that reply are known. outcome: filled in, also if the request
    is interrupted. Raises UnreachableError, DeniedError.
    """
    outcome = Outcome() if outcome is None else outcome
    await client.list_agents(target, pace, outcome)
    return list_hosts(outcome)


def list_hosts(outcome: Outcome) -> dict[str, Listed]:
    """Returns a row for each host that is known or replied, sorted by name."""
    rows = [
        _listed(
            reply.host,
            "two agents" if reply.twins else "" if reply.accepted else "refused",
            outcome.inventory.get(reply.host),
            reply.body,
        )
        for reply in outcome.replies
    ]
    rows += [
        _listed(absence.host, absence.reason, outcome.inventory.get(absence.host), {})
        for absence in outcome.absences
    ]
    return {row.host: row for row in sorted(rows, key=lambda row: row.host)}


def _listed(name: str, state: str, host: Host | None, body: Mapping[str, object]) -> Listed:
    if host is None:
        version = str(body.get("version", ""))
        return Listed(name, state or NOT_LISTED, version, read_labels(body.get("metadata")))
    entry = host.entry
    if not state:
        state = DRIFT if entry.drift else ERROR if entry.error else ""
    if not state:
        state = IDLE if entry.session is None else CAPTURING
    return Listed(name, state, entry.version, entry.labels, host)
