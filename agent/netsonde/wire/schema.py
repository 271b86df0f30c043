"""The AsyncAPI 3.0 document, made from messages.py.

`document(root)` is the reply of the verb `schema`, and schemas/asyncapi.json. Each verb has one
channel per subject form. All replies share one channel without an address: the requester's
inbox.
"""

from __future__ import annotations

import functools
import inspect
import json
from typing import Any

import msgspec

from .. import __version__
from .events import EVENT_KINDS, Event
from .records import FlowBatch
from .replies import ErrorReply, FlowSum, MetricsMessage
from .verbs import VERBS, Verb

DEFAULT_ROOT = "capture"
_REF = "#/components/schemas/{name}"

# The subject forms of a verb: form → (subject, parameters).
_FORMS: dict[str, tuple[str, dict[str, str]]] = {
    "all": ("{root}.{verb}", {}),
    "host": ("{root}.host.{{host}}.{verb}", {"host": "host token of one agent"}),
    "group": (
        "{root}.group.{{key}}.{{value}}.{verb}",
        {"key": "label", "value": "its value; every agent with that label answers"},
    ),
}

_STRING = {"type": "string"}
_REQUEST_HEADERS = {
    "type": "object",
    "properties": {
        "Content-Type": {"enum": ["application/json", "application/msgpack"]},
        "Accept": {"enum": ["application/json", "application/msgpack"]},
        "Request-Id": {
            **_STRING,
            "maxLength": 256,
            "description": "the same id and body within 10 minutes give the first reply again",
        },
        "Expires-At": {**_STRING, "format": "date-time"},
    },
}
_REPLY_HEADERS = {
    "type": "object",
    "required": ["Status-Code", "Host", "Content-Type"],
    "properties": {
        "Status-Code": {**_STRING, "pattern": "^[2-5][0-9][0-9]$"},
        "Host": _STRING,
        "Content-Type": _STRING,
        "Request-Id": _STRING,
        "Replayed": {"const": "true"},
        "Nats-Service-Error-Code": _STRING,
        "Nats-Service-Error": _STRING,
    },
}
_BATCH_HEADERS = {
    "type": "object",
    "required": ["Nats-Msg-Id", "Content-Type"],
    "properties": {
        "Nats-Msg-Id": {
            **_STRING,
            "description": "<host>:<boot>:<seq>:<16 unpredictable hex digits>",
        },
        "Content-Type": _STRING,
    },
}


@functools.cache
def document(root: str = DEFAULT_ROOT) -> dict[str, Any]:
    """Returns the whole document. It is cached: do not change it."""
    channels: dict[str, Any] = {"replies": _replies_channel()}
    operations: dict[str, Any] = {}
    for verb in VERBS.values():
        for form in _FORMS:
            channels[f"{verb.endpoint}-{form}"] = _verb_channel(verb, form, root)
            operations[f"{verb.endpoint}-{form}"] = _verb_operation(verb, form)
    for name, (channel, operation) in _streams(root).items():
        channels[name], operations[name] = channel, operation
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "netsonde agent",
            "version": __version__,
            "description": (
                "Requests to, and streams from, the packet-capture agent of one host. An agent "
                "answers on every subject form; a request that changes something is carried out "
                "and audited even if it has no reply subject."
            ),
        },
        "defaultContentType": "application/json",
        "channels": channels,
        "operations": operations,
        "components": {"messages": _messages(), "schemas": _schemas()},
    }


def _verb_channel(verb: Verb, form: str, root: str) -> dict[str, Any]:
    subject, parameters = _FORMS[form]
    channel: dict[str, Any] = {
        "address": subject.format(root=root, verb=verb.name),
        "title": verb.name,
        "summary": verb.summary,
        "messages": {"request": _message_ref(f"{verb.endpoint}-request")},
    }
    if parameters:
        channel["parameters"] = {
            name: {"description": description} for name, description in parameters.items()
        }
    return channel


def _verb_operation(verb: Verb, form: str) -> dict[str, Any]:
    return {
        "action": "receive",
        "channel": {"$ref": f"#/channels/{verb.endpoint}-{form}"},
        "summary": verb.summary,
        "messages": [{"$ref": f"#/channels/{verb.endpoint}-{form}/messages/request"}],
        "reply": {
            "channel": {"$ref": "#/channels/replies"},
            "messages": [
                {"$ref": f"#/channels/replies/messages/{verb.endpoint}"},
                {"$ref": "#/channels/replies/messages/error"},
            ],
        },
    }


def _replies_channel() -> dict[str, Any]:
    messages = {verb.endpoint: _message_ref(f"{verb.endpoint}-reply") for verb in VERBS.values()}
    return {
        "address": None,
        "description": "the reply subject of the request",
        "messages": {**messages, "error": _message_ref("error")},
    }


def _streams(root: str) -> dict[str, tuple[dict[str, Any], dict[str, Any]]]:
    host = {"host": {"description": "host token"}}
    kind = {"kind": {"description": "kind of event", "enum": list(EVENT_KINDS)}}
    streams = {
        "flows": ("flows.{host}", host, "Flow record batches", "flow-batch"),
        "metrics": ("metrics.{host}", host, "Rates and counters of the session", "metrics"),
        "events": ("events.{host}.{kind}", host | kind, "What happened on a host", "event"),
    }
    return {
        f"stream-{name}": (
            {
                "address": f"{root}.stream.{address}",
                "summary": summary,
                "parameters": parameters,
                "messages": {"message": _message_ref(message)},
            },
            {
                "action": "send",
                "channel": {"$ref": f"#/channels/stream-{name}"},
                "summary": summary,
                "messages": [{"$ref": f"#/channels/stream-{name}/messages/message"}],
            },
        )
        for name, (address, parameters, summary, message) in streams.items()
    }


def _messages() -> dict[str, Any]:
    messages = {
        "error": _message(ErrorReply, _REPLY_HEADERS),
        "flow-batch": _message(FlowBatch, _BATCH_HEADERS),
        "metrics": _message(MetricsMessage, None),
        "event": _message(Event, None),
    }
    for verb in VERBS.values():
        messages[f"{verb.endpoint}-request"] = _message(verb.request, _REQUEST_HEADERS)
        messages[f"{verb.endpoint}-reply"] = _message(verb.reply, _REPLY_HEADERS)
    return messages


def _message(kind: type[msgspec.Struct], headers: dict[str, Any] | None) -> dict[str, Any]:
    message: dict[str, Any] = {
        "name": kind.__name__,
        "payload": {"$ref": _REF.format(name=kind.__name__)},
    }
    return message if headers is None else message | {"headers": headers}


def _message_ref(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/messages/{name}"}


def _schemas() -> dict[str, Any]:
    kinds: list[type[msgspec.Struct]] = [ErrorReply, FlowBatch, MetricsMessage, Event]
    for verb in VERBS.values():
        kinds += [verb.request, verb.reply]
    _, schemas = msgspec.json.schema_components([*kinds, FlowSum], ref_template=_REF)
    rows = schemas["FlowsReply"]["properties"]["flows"]  # msgspec has no union of plain structs
    rows["items"] = {"anyOf": [rows["items"], {"$ref": _REF.format(name="FlowSum")}]}
    return schemas


def text(schema: dict[str, Any]) -> str:
    """Returns the text of a file in schemas/."""
    return json.dumps(_without_indents(schema), indent=2, ensure_ascii=False) + "\n"


def _without_indents(node: Any) -> Any:
    """Removes the indentation of docstrings, as msgspec does from version 0.23 on."""
    if isinstance(node, dict):
        return {
            name: inspect.cleandoc(value)
            if name == "description" and isinstance(value, str)
            else _without_indents(value)
            for name, value in node.items()
        }
    return [_without_indents(one) for one in node] if isinstance(node, list) else node
