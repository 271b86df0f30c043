"""The documents of NATS service discovery (ADR-32): PING, INFO and STATS.

No I/O. The service is named `netsonde`, its id is the host token, and each verb is the endpoint
`Verb.endpoint`. Endpoints have no queue group: every host answers.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from ..errors import RequestError
from ..wire.instant import NS_PER_SEC
from ..wire.verbs import VERBS, Verb
from .identity import Identity

SERVICE = "netsonde"
DURATION_BUCKETS_SEC = (0.001, 0.005, 0.025, 0.1, 0.5, 2.5, 10.0)  # upper limits
_TYPE = "io.nats.micro.v1.{}_response"


@dataclass(slots=True)
class EndpointStats:
    """codes: requests by the code of the reply. durations: requests by DURATION_BUCKETS_SEC, the
    last for longer ones."""

    requests: int = 0
    errors: int = 0
    last_error: str = ""
    processing_ns: int = 0
    codes: Counter[int] = field(default_factory=Counter)
    durations: list[int] = field(default_factory=lambda: [0] * (len(DURATION_BUCKETS_SEC) + 1))

    def count(self, elapsed_ns: int, error: RequestError | None, code: int = 200) -> None:
        """code: of a reply without an error here; an earlier reply that is repeated may be one."""
        self.requests += 1
        self.processing_ns += elapsed_ns
        self.codes[code if error is None else error.code] += 1
        self.durations[bisect_left(DURATION_BUCKETS_SEC, elapsed_ns / NS_PER_SEC)] += 1
        if error is not None:
            self.errors += 1
            self.last_error = f"{error.code}:{error.error}"


class Discovery:
    def __init__(self, identity: Identity) -> None:
        self.identity = identity
        self._started = datetime.now(UTC).isoformat().replace("+00:00", "Z")
        self.endpoints: dict[str, EndpointStats] = {name: EndpointStats() for name in VERBS}
        self.unknown = EndpointStats()  # requests for verbs that do not exist

    def subjects(self) -> dict[str, str]:
        """Returns the subjects to subscribe to, each with its document's name."""
        return {
            subject: kind
            for kind in ("PING", "INFO", "STATS")
            for subject in (
                f"$SRV.{kind}",
                f"$SRV.{kind}.{SERVICE}",
                f"$SRV.{kind}.{SERVICE}.{self.identity.host}",
            )
        }

    def document(self, kind: str, counters: Mapping[str, Any]) -> dict[str, Any]:
        """counters: the session's, for the endpoints' `data` in STATS."""
        document: dict[str, Any] = {
            "type": _TYPE.format(kind.lower()),
            "name": SERVICE,
            "id": self.identity.host,
            "version": self.identity.version,
            "metadata": self._metadata(),
        }
        if kind == "INFO":
            document["description"] = f"packet capture and flow metering on {self.identity.fqdn}"
            document["endpoints"] = [
                self._endpoint(verb) | {"metadata": {"description": verb.summary}}
                for verb in VERBS.values()
            ]
        if kind == "STATS":
            document["started"] = self._started
            document["endpoints"] = [
                self._endpoint(verb) | self._numbers(verb) | {"data": dict(counters)}
                for verb in VERBS.values()
            ]
        return document

    def _metadata(self) -> dict[str, str]:
        """Names other than labels contain a dot, which labels cannot."""
        own = self.identity
        return {"subject.root": own.root, **own.versions, **own.labels}

    def _endpoint(self, verb: Verb) -> dict[str, Any]:
        return {
            "name": verb.endpoint,
            "subject": f"{self.identity.root}.{verb.name}",
            "queue_group": "",
        }

    def _numbers(self, verb: Verb) -> dict[str, Any]:
        stats = self.endpoints[verb.name]
        return {
            "num_requests": stats.requests,
            "num_errors": stats.errors,
            "last_error": stats.last_error,
            "processing_time": stats.processing_ns,
            "average_processing_time": stats.processing_ns // max(stats.requests, 1),
        }
