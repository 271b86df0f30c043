"""The JetStream streams that keep what an agent publishes: made if absent, else checked.

An existing stream is its operator's: it is never changed, and what in it could lose or
double a record is said in words. The names come from the root, so that two roots of one
account do not meet: `capture` has CAPTURE_FLOWS and CAPTURE_EVENTS.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec

from ..bus.connection import Requester

API_TIMEOUT_SEC = 5.0
DUPLICATE_WINDOW_SEC = 600
NS_PER_SEC = 1_000_000_000
_NOT_FOUND = 10059  # err_code of the JetStream API


@dataclass(frozen=True, slots=True)
class StreamSettings:
    replicas: int = 1
    max_age_hours: int = 0  # 0: kept until the operator's limits say otherwise


def flows_stream(root: str) -> str:
    return f"{_stem(root)}_FLOWS"


def events_stream(root: str) -> str:
    return f"{_stem(root)}_EVENTS"


def _stem(root: str) -> str:
    return root.upper().replace(".", "_")


def stream_config(name: str, subject: str, settings: StreamSettings) -> dict[str, Any]:
    return {
        "name": name,
        "subjects": [subject],
        "retention": "limits",
        "storage": "file",
        "compression": "s2",
        "discard": "old",
        "num_replicas": settings.replicas,
        "max_age": settings.max_age_hours * 3600 * NS_PER_SEC,
        "duplicate_window": DUPLICATE_WINDOW_SEC * NS_PER_SEC,
    }


def complaints(found: dict[str, Any], subject: str) -> list[str]:
    """What in an existing stream's configuration breaks the promise of no loss and no double."""
    name, wrong = found.get("name"), []
    if not any(covers(pattern, subject) for pattern in found.get("subjects") or []):
        wrong.append(f"{name} does not bind {subject}")
    if found.get("retention") == "interest":
        wrong.append(f"{name} keeps nothing while it has no consumer")
    if found.get("max_msgs_per_subject", 0) > 0:
        wrong.append(f"{name} keeps only {found['max_msgs_per_subject']} messages of a host")
    if found.get("duplicate_window", 0) < DUPLICATE_WINDOW_SEC * NS_PER_SEC:
        wrong.append(f"{name} forgets duplicates before {DUPLICATE_WINDOW_SEC} s")
    if found.get("storage") != "file":
        wrong.append(f"{name} keeps its messages in memory")
    if found.get("no_ack"):
        wrong.append(f"{name} does not acknowledge")
    return wrong


def covers(pattern: str, subject: str) -> bool:
    """Of a subject that ends in `>`, which stands for a host, and for events its kind besides."""
    fixed = subject.split(".")[:-1]
    tokens = [*fixed, "host", "kind"] if fixed[-1] == "events" else [*fixed, "host"]
    wanted = pattern.split(".")
    if wanted[-1] == ">" and len(wanted) <= len(tokens):
        wanted[-1:] = tokens[len(wanted) - 1 :]
    return len(wanted) == len(tokens) and all(
        one in ("*", token) for one, token in zip(wanted, tokens, strict=True)
    )


async def ensure_streams(
    connection: Requester, root: str, settings: StreamSettings
) -> list[str] | None:
    """What is wrong with them, mostly nothing; None: JetStream did not answer."""
    found: list[str] = []
    for name, subject in (
        (flows_stream(root), f"{root}.stream.flows.>"),
        (events_stream(root), f"{root}.stream.events.>"),
    ):
        wrong = await _ensure(connection, stream_config(name, subject, settings))
        if wrong is None:
            return None
        found += wrong
    return found


async def _ensure(connection: Requester, config: dict[str, Any]) -> list[str] | None:
    name, subject = config["name"], config["subjects"][0]
    answer = await _ask(connection, "INFO", name, {})
    if answer is not None and answer.get("error", {}).get("err_code") == _NOT_FOUND:
        answer = await _ask(connection, "CREATE", name, config)
        if answer is not None and "error" in answer:  # another agent may have been first
            again = await _ask(connection, "INFO", name, {})
            answer = again if again is not None and "config" in again else answer
    if answer is None:
        return None
    if "error" in answer:
        return [f"{name}: {answer['error'].get('description', 'refused')}"]
    return complaints(answer["config"], subject)


async def _ask(
    connection: Requester, verb: str, name: str, body: dict[str, Any]
) -> dict[str, Any] | None:
    payload = msgspec.json.encode(body) if body else b""
    reply = await connection.request(f"$JS.API.STREAM.{verb}.{name}", payload, API_TIMEOUT_SEC)
    if not reply:
        return None
    try:
        decoded = msgspec.json.decode(reply, type=dict[str, Any])
    except msgspec.DecodeError:
        return None
    return decoded
