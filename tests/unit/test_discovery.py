"""The ADR-32 documents. The requirements of their public schemas are repeated here."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Any

import jsonschema
import pytest

from netsonde.errors import NoSession
from netsonde.service.discovery import Discovery
from netsonde.service.identity import Identity
from netsonde.wire.verbs import VERBS

SEMVER = r"^(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(?:[-+][0-9A-Za-z.+-]+)?$"
TOKEN = r"^[a-zA-Z0-9_-]+$"
STRINGS = {"type": "object", "additionalProperties": {"type": "string"}}
IDENTITY = {
    "name": {"type": "string", "pattern": TOKEN},
    "id": {"type": "string", "minLength": 1},
    "version": {"type": "string", "pattern": SEMVER},
    "metadata": STRINGS,
}
ENDPOINT = {
    "name": {"type": "string", "pattern": TOKEN},
    "subject": {"type": "string", "minLength": 1},
}
NUMBERS = ("num_requests", "num_errors", "processing_time", "average_processing_time")


def schema(kind: str, more: dict[str, Any]) -> dict[str, Any]:
    properties = {"type": {"const": f"io.nats.micro.v1.{kind}_response"}, **IDENTITY, **more}
    return {"type": "object", "required": list(properties), "properties": properties}


SCHEMAS = {
    "PING": schema("ping", {}),
    "INFO": schema(
        "info",
        {
            "description": {"type": "string", "minLength": 1},
            "endpoints": {
                "type": "array",
                "minItems": len(VERBS),
                "items": {
                    "type": "object",
                    "required": list(ENDPOINT),
                    "properties": {**ENDPOINT, "metadata": STRINGS},
                },
            },
        },
    ),
    "STATS": schema(
        "stats",
        {
            "started": {"type": "string"},
            "endpoints": {
                "type": "array",
                "minItems": len(VERBS),
                "items": {
                    "type": "object",
                    "required": [*ENDPOINT, *NUMBERS, "last_error", "data"],
                    "properties": {
                        **ENDPOINT,
                        **{name: {"type": "integer", "minimum": 0} for name in NUMBERS},
                        "last_error": {"type": "string"},
                        "data": {"type": "object"},
                    },
                },
            },
        },
    ),
}


@pytest.fixture
def discovery() -> Discovery:
    return Discovery(
        Identity(
            host="alpha",
            root="acme.capture",
            version="0.1.0",
            fqdn="alpha.example.com",
            labels={"site": "ams"},
            versions={"version.agent": "0.1.0"},
        )
    )


@pytest.mark.parametrize("kind", ["PING", "INFO", "STATS"])
def test_each_document_matches_its_schema(discovery: Discovery, kind: str) -> None:
    document = discovery.document(kind, {"packets_captured": 7})
    jsonschema.validate(document, SCHEMAS[kind])
    assert (document["name"], document["id"]) == ("netsonde", "alpha")
    assert document["metadata"] == {
        "subject.root": "acme.capture",
        "version.agent": "0.1.0",
        "site": "ams",
    }


def test_subjects_are_verb_kind_and_id(discovery: Discovery) -> None:
    subjects = discovery.subjects()
    assert len(subjects) == 9
    assert subjects["$SRV.INFO"] == "INFO"
    assert subjects["$SRV.PING.netsonde"] == "PING"
    assert subjects["$SRV.STATS.netsonde.alpha"] == "STATS"


def test_info_names_the_host_and_every_verb(discovery: Discovery) -> None:
    info = discovery.document("INFO", {})
    assert "alpha.example.com" in info["description"]
    endpoints = {endpoint["name"]: endpoint for endpoint in info["endpoints"]}
    assert endpoints["flow-meter-enable"]["subject"] == "acme.capture.flow.meter.enable"
    assert all(endpoint["queue_group"] == "" for endpoint in endpoints.values())


def test_stats_count_requests_and_errors(discovery: Discovery) -> None:
    discovery.endpoints["status"].count(100, None)
    discovery.endpoints["status"].count(301, NoSession())
    stats = discovery.document("STATS", {"packets_captured": 7})
    datetime.fromisoformat(stats["started"])
    assert re.search(r"Z$", stats["started"])
    endpoint = next(e for e in stats["endpoints"] if e["name"] == "status")
    assert endpoint["num_requests"] == 2
    assert endpoint["num_errors"] == 1
    assert endpoint["last_error"] == "400:no_session"
    assert endpoint["processing_time"] == 401
    assert endpoint["average_processing_time"] == 200
    assert endpoint["data"] == {"packets_captured": 7}
