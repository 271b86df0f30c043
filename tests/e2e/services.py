"""JSON Schemas of the three replies in the NATS Services specification (ADR-32).

Written from the ADR and compared with the schemas that the nats CLI validates against
(io.nats.micro.v1): the same required members, types and name alphabet.
"""

from __future__ import annotations

import json
from typing import Any

import jsonschema

NAME = {"type": "string", "pattern": "^[a-zA-Z0-9_-]+$"}
TEXT = {"type": "string", "minLength": 1}
# semver.org, items 2, 9 and 10
VERSION = {
    "type": "string",
    "pattern": (
        r"^(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)"
        r"(-(0|[1-9]\d*|\d*[a-zA-Z-][0-9a-zA-Z-]*)(\.(0|[1-9]\d*|\d*[a-zA-Z-][0-9a-zA-Z-]*))*)?"
        r"(\+[0-9a-zA-Z-]+(\.[0-9a-zA-Z-]+)*)?$"
    ),
}
COUNT = {"type": "integer", "minimum": 0, "maximum": 2**63 - 1}
METADATA = {"type": ["object", "null"], "additionalProperties": {"type": "string"}}

IDENTITY = {"name": NAME, "id": TEXT, "version": VERSION, "metadata": METADATA}


def answer(kind: str, **members: Any) -> dict[str, Any]:
    properties = {"type": {"const": f"io.nats.micro.v1.{kind}_response"}, **IDENTITY, **members}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


PING = answer("ping")

INFO = answer(
    "info",
    description={"type": "string"},
    endpoints={
        "type": "array",
        "items": {
            "type": "object",
            "properties": {
                "name": NAME,
                "subject": TEXT,
                "queue_group": {"type": "string"},
                "metadata": METADATA,
            },
            "required": ["name", "subject"],
            "additionalProperties": False,
        },
    },
)

STATS = answer(
    "stats",
    started={"type": "string", "format": "date-time"},
    endpoints={
        "type": "array",
        "items": {
            "type": "object",
            "properties": {
                "name": NAME,
                "subject": TEXT,
                "queue_group": {"type": "string"},
                "num_requests": COUNT,
                "num_errors": COUNT,
                "last_error": {"type": "string"},
                "processing_time": COUNT,
                "average_processing_time": COUNT,
                "data": {"type": "object"},
            },
            "required": [
                "name",
                "subject",
                "num_requests",
                "num_errors",
                "last_error",
                "processing_time",
                "average_processing_time",
            ],
            "additionalProperties": False,
        },
    },
)


def validated(data: bytes, schema: dict[str, Any]) -> dict[str, Any]:
    """Returns the decoded reply, or raises jsonschema's error."""
    body = json.loads(data)
    checker = jsonschema.Draft202012Validator.FORMAT_CHECKER
    jsonschema.Draft202012Validator(schema, format_checker=checker).validate(body)
    assert isinstance(body, dict)
    return body
