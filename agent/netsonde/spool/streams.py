"""Creates the JetStream streams for flows and events, or checks existing ones.

An existing stream is never changed. Settings that could lose or duplicate records are reported.
The names come from the subject root: `capture` has CAPTURE_FLOWS and CAPTURE_EVENTS. With shards
it has CAPTURE_FLOWS_0 and so on instead of CAPTURE_FLOWS.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec

from ..bus import jetstream
from ..bus.connection import Requester
from ..bus.objects import STREAM_NOT_FOUND
from ..wire.instant import NS_PER_SEC
from ..wire.quantity import counted
from ..wire.subjects import flows_subject

API_TIMEOUT_SEC = 5.0
DUPLICATE_WINDOW_SEC = 600


@dataclass(frozen=True, slots=True)
class StreamSettings:
    """shard: the only one to create; None for all."""

    replicas: int = 1
    max_age_hours: int = 0  # 0: no limit
    shards: int = 1
    shard: int | None = None
    domain: str = ""  # JetStream domain; empty: the server's own


def flows_stream(root: str, shard: int | None = None) -> str:
    return f"{_stem(root)}_FLOWS" if shard is None else f"{_stem(root)}_FLOWS_{shard}"


def flows_streams(root: str, shards: int, shard: int | None = None) -> dict[str, str]:
    """Returns the subject of each stream of flow records by its name. shard: only of this one."""
    if shards == 1:
        return {flows_stream(root): f"{root}.stream.flows.>"}
    numbers = range(shards) if shard is None else (shard,)
    return {flows_stream(root, one): flows_subject(root, "*", one) for one in numbers}


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
    """Returns the settings of an existing stream that could lose or duplicate records."""
    name, wrong = found.get("name"), []
    if not any(covers(pattern, subject) for pattern in found.get("subjects") or []):
        wrong.append(f"{name} does not bind {subject}")
    if found.get("retention") == "interest":
        wrong.append(f"{name} keeps nothing while it has no consumer (retention: interest)")
    if found.get("max_msgs_per_subject", 0) > 0:
        kept = counted(found["max_msgs_per_subject"], "message")
        wrong.append(f"{name} keeps only {kept} of a host")
    if found.get("duplicate_window", 0) < DUPLICATE_WINDOW_SEC * NS_PER_SEC:
        wrong.append(f"{name} has a duplicate_window below {DUPLICATE_WINDOW_SEC} s")
    if found.get("storage") != "file":
        wrong.append(f"{name} stores its messages in memory")
    if found.get("no_ack"):
        wrong.append(f"{name} sends no acks (no_ack)")
    return wrong


def covers(pattern: str, subject: str) -> bool:
    """Returns True if `pattern` matches every subject of `subject`. A `*` or the final `>` stands
    for a host, for events also for the kind."""
    tokens = ["host" if token in ("*", ">") else token for token in subject.split(".")]
    if tokens[-2] == "events":
        tokens.append("kind")
    wanted = pattern.split(".")
    if wanted[-1] == ">" and len(wanted) <= len(tokens):
        wanted[-1:] = tokens[len(wanted) - 1 :]
    return len(wanted) == len(tokens) and all(
        one in ("*", token) for one, token in zip(wanted, tokens, strict=True)
    )


async def ensure_streams(
    connection: Requester, root: str, settings: StreamSettings
) -> list[str] | None:
    """Returns the complaints about the streams. None if JetStream does not reply."""
    found: list[str] = []
    flows = flows_streams(root, settings.shards, settings.shard)
    for name, subject in (*flows.items(), (events_stream(root), f"{root}.stream.events.>")):
        wrong = await _ensure(connection, stream_config(name, subject, settings), settings.domain)
        if wrong is None:
            return None
        found += wrong
    return found


async def _ensure(connection: Requester, config: dict[str, Any], domain: str) -> list[str] | None:
    name, subject = config["name"], config["subjects"][0]
    reply = await _api(connection, jetstream.api(domain, f"STREAM.INFO.{name}"), {})
    if reply is not None and reply.get("error", {}).get("err_code") == STREAM_NOT_FOUND:
        reply = await _api(connection, jetstream.api(domain, f"STREAM.CREATE.{name}"), config)
        if reply is not None and "error" in reply:  # another agent may have created the stream
            again = await _api(connection, jetstream.api(domain, f"STREAM.INFO.{name}"), {})
            reply = again if again is not None and "config" in again else reply
    if reply is None:
        return None
    if "error" in reply:
        return [f"{name}: {reply['error'].get('description', 'rejected')}"]
    return complaints(reply["config"], subject)


async def _api(connection: Requester, subject: str, body: dict[str, Any]) -> dict[str, Any] | None:
    payload = msgspec.json.encode(body) if body else b""
    reply = await connection.request(subject, payload, API_TIMEOUT_SEC)
    if not reply:
        return None
    try:
        return msgspec.json.decode(reply, type=dict[str, Any])
    except msgspec.DecodeError:
        return None
