"""The expected labels of the shared captures: what tshark and the captures' own projects say."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

TRACES = Path(
    os.environ.get("NETSONDE_TRACES", Path(__file__).parents[2] / "shared" / "traces")
).resolve()
LABELS = TRACES / "LABELS.json"
PROTOCOLS = ["tls", "quic", "dns", "http"]
STATES = {"complete", "partial", "skipped", "not_seen"}


def expectations() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(LABELS.read_text()) if LABELS.exists() else []
    return found


def is_of(record: dict[str, Any], match: dict[str, Any]) -> bool:
    ends = [(record[f"{side}_ip"], record[f"{side}_port"]) for side in ("source", "dest")]
    wanted = [(match[f"{side}_ip"], match[f"{side}_port"]) for side in ("source", "dest")]
    return record["protocol"] == match["protocol"] and ends in (wanted, wanted[::-1])


def shown(record: dict[str, Any], wanted: dict[str, Any]) -> dict[str, Any]:
    found = {name: record[name] for name in wanted if name != "match"}
    if isinstance(found.get("name"), str) and found.get("app") == "dns":
        found["name"] = found["name"].lower()
    return found


def expected(wanted: dict[str, Any]) -> dict[str, Any]:
    values = {name: value for name, value in wanted.items() if name != "match"}
    if values.get("alpn"):
        values["alpn"] = values["alpn"][:2]
    return values


def differences(case: dict[str, Any], found: Sequence[dict[str, Any]]) -> list[str]:
    texts = []
    for wanted in case["expect"]:
        records = [one for one in found if is_of(one, wanted["match"])]
        first, values = [shown(one, wanted) for one in records], expected(wanted)
        if values not in first:
            texts.append(f"{case['id']}: {values} is not among {first}")
    names = Counter(one["name"] for one in found if one["segment"] == 0)
    for name, count in case.get("counts", {}).items():
        if names[name] != count:
            texts.append(f"{case['id']}: {names[name]} flows of {name}, not {count}")
    texts += [
        f"{case['id']}: {one['label_state']}" for one in found if one["label_state"] not in STATES
    ]
    return texts
