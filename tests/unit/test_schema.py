"""The AsyncAPI document is current, complete, and valid for real replies."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest
from jsonschema import Draft7Validator

from netsonde.wire import events, instant, replies, requests, schema, verbs
from netsonde.wire.verbs import VERBS

PUBLISHED = Path(__file__).parents[2] / "schemas" / "asyncapi.json"
DOCUMENT = schema.document()


def nodes(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        yield value
        for child in value.values():
            yield from nodes(child)
    elif isinstance(value, list):
        for child in value:
            yield from nodes(child)


def resolve(reference: str) -> Any:
    found: Any = DOCUMENT
    for part in reference.removeprefix("#/").split("/"):
        found = found[part]
    return found


def validator(name: str) -> Draft7Validator:
    wanted = {**DOCUMENT, "$ref": f"#/components/schemas/{name}"}
    return Draft7Validator(wanted, format_checker=Draft7Validator.FORMAT_CHECKER)


def test_published_document_is_current() -> None:
    assert PUBLISHED.read_text() == schema.text(DOCUMENT), (
        "run: python -m netsonde.config.schema schemas"
    )


def test_every_reference_resolves() -> None:
    references = [node["$ref"] for node in nodes(DOCUMENT) if "$ref" in node]
    assert len(references) > 100
    for reference in references:
        assert isinstance(resolve(reference), dict), reference


def test_document_uses_only_asyncapi_3_keywords() -> None:
    for node in nodes(DOCUMENT):
        assert not isinstance(node.get("discriminator"), dict)
        assert "prefixItems" not in node
        assert "$defs" not in node


def test_top_level_is_asyncapi_3() -> None:
    assert DOCUMENT["asyncapi"] == "3.0.0"
    assert set(DOCUMENT) == {
        "asyncapi",
        "info",
        "defaultContentType",
        "channels",
        "operations",
        "components",
    }
    for operation in DOCUMENT["operations"].values():
        assert operation["action"] in ("send", "receive")
        channel = operation["channel"]["$ref"]
        assert all(m["$ref"].startswith(f"{channel}/messages/") for m in operation["messages"])


@pytest.mark.parametrize("verb", VERBS.values(), ids=list(VERBS))
def test_each_verb_has_three_subjects_and_a_reply(verb: verbs.Verb) -> None:
    channels = DOCUMENT["channels"]
    assert channels[f"{verb.endpoint}-all"]["address"] == f"capture.{verb.name}"
    assert channels[f"{verb.endpoint}-host"]["address"] == f"capture.host.{{host}}.{verb.name}"
    group = channels[f"{verb.endpoint}-group"]
    assert group["address"] == f"capture.group.{{key}}.{{value}}.{verb.name}"
    assert set(group["parameters"]) == {"key", "value"}
    reply = DOCUMENT["operations"][f"{verb.endpoint}-all"]["reply"]
    assert len(reply["messages"]) == 2


def test_document_uses_the_given_root() -> None:
    channels = schema.document("acme.capture")["channels"]
    assert channels["stream-flows"]["address"] == "acme.capture.stream.flows.{host}"
    assert channels["start-host"]["address"] == "acme.capture.host.{host}.start"


def test_each_payload_schema_is_valid() -> None:
    for name in DOCUMENT["components"]["schemas"]:
        Draft7Validator.check_schema(DOCUMENT["components"]["schemas"][name])


@pytest.mark.parametrize(
    ("name", "body", "good"),
    [
        ("StartRequest", {"interface": "eth0", "backend": "pcap"}, True),
        ("StartRequest", {"interface": "eth0"}, False),
        ("StartRequest", {"interface": "eth0", "backend": "pcap", "x": 1}, False),
        ("StartRequest", {"interface": "eth0", "backend": "pcap", "workers": 65}, False),
        ("FlowsRequest", {"filter": {"protocol": "TCP"}}, True),
        ("FlowsRequest", {"sort": "name"}, False),
        ("MeterRequest", {"enable": True}, True),
        ("MeterRequest", {}, False),
    ],
)
def test_schema_and_agent_agree_on_a_body(name: str, body: dict[str, Any], good: bool) -> None:
    assert validator(name).is_valid(body) is good
    kind = getattr(requests, name)
    if good:
        msgspec.convert(body, kind)
    else:
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert(body, kind)


def test_real_replies_are_valid() -> None:
    stopped = replies.StatusReply(host="alpha")
    jsonschema.Draft7Validator.check_schema({})
    for name, message in (
        ("StatusReply", stopped),
        ("ErrorReply", replies.ErrorReply(host="a", code=400, error="e", detail="d")),
        (
            "Event",
            events.Event(
                host="a", boot="b", seq=1, kind="alarm", event="e", time=instant.rfc3339(0)
            ),
        ),
    ):
        validator(name).validate(msgspec.to_builtins(message))


def test_schema_verb_replies_with_the_document() -> None:
    reply = msgspec.convert(DOCUMENT, replies.SchemaReply)
    sent = msgspec.json.decode(msgspec.json.encode(reply))
    assert sent.pop("host", "") == ""
    assert sent == json.loads(json.dumps(DOCUMENT))
