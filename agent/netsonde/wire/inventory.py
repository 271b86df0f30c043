"""The inventory: one entry per host in the key-value bucket `<root>-hosts`.

Each agent writes its own key, on change and every 30 seconds. An entry has no lifetime: a host
whose last write is older than LOST_AFTER_SEC by the server's clock is lost, and stays in the
inventory until somebody forgets it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from msgspec import Meta, Struct, field
from msgspec.structs import asdict

from .records import Time

WRITE_INTERVAL_SEC = 30.0
LOST_AFTER_SEC = 90.0
SKEW_SEC_MAX = 1.0  # a larger difference of the clocks deserves a warning


def hosts_bucket(root: str) -> str:
    """Returns `capture-hosts` for the root `capture`."""
    return f"{root.replace('.', '-')}-hosts"


def changes_subject(root: str, host: str) -> str:
    """Returns the subject to which the server copies each write of the host's key. An agent
    subscribes to the copy, because a copy carries no reply subject: nats-server lets an agent
    publish to the reply subject of each message that it receives (`allow_responses`)."""
    return f"{root}.inventory.{host}"


class Facts(Struct, kw_only=True):
    """Properties of a host. Selectors name them `fact.kernel` and so on."""

    kernel: Annotated[str, Meta(description="release, such as 6.1.0-18-amd64")] = ""
    os: Annotated[str, Meta(description="name and version of the distribution")] = ""
    arch: str = ""
    cpus: int = 0
    memory_mb: int = 0
    interfaces: list[str] = []
    backends: Annotated[list[str], Meta(description="usable capture backends")] = []


class SessionSummary(Struct, kw_only=True):
    """The session of a host when its entry was written."""

    session_id: str
    interface: str
    backend: str
    packets_captured: int
    packets_dropped: int
    packets_per_sec: int
    uptime_sec: float
    retention_sec: float
    link_up: bool = True
    finished: bool = False


class HostEntry(Struct, kw_only=True):
    """The value of a host's key."""

    host: str
    boot: Annotated[str, Meta(description="changes at each start of the agent; sorts by time")]
    version: str
    time: Annotated[Time, Meta(description="of the write, by the host's clock")]
    stopped: Annotated[bool, Meta(description="the agent has ended in order")] = False
    labels: dict[str, str] = {}
    facts: Facts = field(default_factory=Facts)
    server: Annotated[str, Meta(description="host:port of the agent's NATS server")] = ""
    session: SessionSummary | None = None
    wanted_rev: Annotated[int | None, Meta(description="policy revision released to it")] = None
    applied_rev: Annotated[int | None, Meta(description="policy revision that it runs")] = None
    drift: Annotated[str, Meta(description="how the host differs from what is wanted")] = ""
    error: Annotated[str, Meta(description="why what is wanted does not run")] = ""


def lasting_fields(entry: HostEntry) -> dict[str, Any]:
    """Returns the fields whose change is written at once: those that are not a measurement."""
    session = entry.session
    return {
        "labels": entry.labels,
        "facts": entry.facts,
        "server": entry.server,
        "session": session and (session.session_id, session.link_up, session.finished),
        "wanted": (entry.wanted_rev, entry.applied_rev, entry.drift, entry.error),
    }


@dataclass(frozen=True, slots=True)
class Chosen:
    """A host as selectors see it."""

    host: str
    labels: Mapping[str, str]
    facts: Mapping[str, object]

    @classmethod
    def of(cls, entry: HostEntry) -> Chosen:
        facts: dict[str, object] = asdict(entry.facts)
        return cls(entry.host, entry.labels, facts | {"version": entry.version})
