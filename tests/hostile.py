"""Requests that no honest controller sends, made from the published schema by hypothesis.

Each property of a verb's request gets what the schema allows, its limits, what lies beside
them, another type, or something nasty; properties go missing and strangers come along; then
the body itself may be cut, nested or no JSON at all, and the headers lie.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import msgspec
from hypothesis import strategies as st

from netsonde.wire import schema
from netsonde.wire.verbs import VERBS

# Numbers that the agent would honestly act upon, at a cost that is not what is tested here.
HONEST_MAX = {"buffer_size_mb": 32, "workers": 2, "max_bytes": 1 << 20, "snaplen": 4096}

STRINGS = (
    "", " ", "lo", "af_packet", "pcap", "file", "ok.pcap", "./ok.pcap", "../secret", "..", ".", "/",
    "/etc/shadow", "/proc/self/environ", "/proc/self/fd/0", "/dev/zero", "/dev/stdin", "fifo",
    "directory", "absent", "link", "a\0b", "\ud800", "\udc80", "\u202e", "x" * 5000, "%s%n",
    "$(reboot)", "'; --", "{}", "null", "tcp port 80", "tcp prot", "(" * 400 + ")" * 400,
    "not " * 500 + "tcp", "AES-256-GCM", "key", "10.0.0.9", "::1", "999.1.1.1",
    "2026-01-01T00:00:00Z", "-5m", "-1e99m", "object_store", "json", "\r\nNats-Service-Error: x",
)  # fmt: skip
NUMBERS = (0, 1, -1, 2**31, 2**63, 2**64, -(2**63), 10**30, 0.5, 1e308, -0.0, 1e-320)


@dataclass(frozen=True)
class Request:
    subject: str
    body: bytes
    headers: dict[str, str] | None


def requests(root: str, host: str) -> st.SearchStrategy[Request]:
    document = schema.document(root)["components"]["schemas"]
    bodies = {
        name: objects(document[verb.request.__name__], document) for name, verb in VERBS.items()
    }
    subjects = st.sampled_from([f"{root}.", f"{root}.host.{host}.", f"{root}.group.site.ams."])
    named = st.sampled_from(sorted(bodies)).flatmap(
        lambda name: st.builds(
            lambda prefix, body, headers: Request(prefix + name, *finished(body, headers)),
            subjects,
            bodies[name],
            HEADERS,
        )
    )
    raw = st.builds(
        lambda prefix, name, body, headers: Request(prefix + name, body, headers or None),
        subjects,
        st.sampled_from(sorted(bodies)),
        RAW_BODIES,
        HEADERS,
    )
    return st.one_of(named, named, named, raw)


def objects(node: dict[str, Any], schemas: dict[str, Any]) -> st.SearchStrategy[Any]:
    """What may, or nearly may, stand where the schema says `node`."""
    if "$ref" in node:
        return objects(schemas[node["$ref"].rsplit("/", 1)[1]], schemas)
    for choice in ("anyOf", "oneOf"):
        if choice in node:
            return st.one_of([objects(one, schemas) for one in node[choice]])
    if node.get("type") != "object" or "properties" not in node:
        return st.one_of(honest(node), NASTY)
    properties = {
        name: st.one_of(*[limited(name, objects(one, schemas))] * 3, NASTY)
        for name, one in node["properties"].items()
    }
    whole = st.fixed_dictionaries(
        {name: value for name, value in properties.items() if name in node.get("required", [])},
        optional={k: v for k, v in properties.items() if k not in node.get("required", [])},
    )
    partial = st.fixed_dictionaries({}, optional=properties)
    strange = st.builds(lambda body, more: {**body, **more}, whole, STRANGERS)
    return st.one_of(whole, whole, whole, partial, strange)


def honest(node: dict[str, Any]) -> st.SearchStrategy[Any]:
    if "enum" in node:
        return st.sampled_from(node["enum"])
    if "const" in node:
        return st.just(node["const"])
    kind = node.get("type")
    low, high = node.get("minimum", -(2**70)), node.get("maximum", 2**70)
    if kind == "integer":
        return st.one_of(st.sampled_from([low, high, low - 1, high + 1]), st.integers(low, high))
    if kind == "number":
        return st.one_of(st.floats(), st.sampled_from([low, high]))
    if kind == "boolean":
        return st.booleans()
    if kind == "null":
        return st.none()
    return st.one_of(st.sampled_from(STRINGS), st.text(max_size=40))


def limited(name: str, values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    most = HONEST_MAX.get(name)
    if most is None:
        return values
    return values.map(
        lambda value: value % most + 1 if isinstance(value, int) and 0 < value <= 65536 else value
    )


NASTY: st.SearchStrategy[Any] = st.recursive(
    st.one_of(
        st.sampled_from(STRINGS),
        st.sampled_from(NUMBERS),
        st.sampled_from([None, True, False, [], {}]),
    ),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=4,
)
STRANGERS = st.dictionaries(
    st.sampled_from(["host", "code", "__class__", "", "$ref", "type", "x" * 300]),
    NASTY,
    min_size=1,
    max_size=2,
)
RAW_BODIES = st.one_of(
    st.binary(max_size=60),
    st.sampled_from(
        [b"", b"{", b"[]", b"null", b"0", b'"x"', b"{}{}", b"[" * 100_000, b'{"a":' * 20_000,
         b"\xff\xfe{}", b"\x81\xa1", b"\xdf\xff\xff\xff\xff", b"1e999999", b'{"a":NaN}',
         b" " * 70_000]
    ),
)  # fmt: skip
HEADERS: st.SearchStrategy[dict[str, str]] = st.one_of(
    st.just({}),
    st.fixed_dictionaries(
        {},
        optional={
            "Content-Type": st.sampled_from(
                ["application/json", "application/msgpack", "text/html", "a" * 999, ";"]
            ),
            "Accept": st.sampled_from(
                ["application/msgpack", "*/*", ",,,", "application/json;q=0"]
            ),
            "Request-Id": st.sampled_from(["1", "2", "x" * 256, "x" * 257, "é"]),
            "Expires-At": st.sampled_from(
                ["2020-01-01T00:00:00Z", "2999-01-01T00:00:00Z", "soon", "2026-13-99", "-1"]
            ),
            "Nats-Request-Info": st.sampled_from(
                ["{}", "{", '{"acc":1}', '{"acc":"x","user":"y"}']
            ),
        },
    ),
)


def finished(body: Any, headers: dict[str, str]) -> tuple[bytes, dict[str, str] | None]:
    """In the encoding that the headers name, as far as it can say it."""
    if headers.get("Content-Type") == "application/msgpack":
        try:
            return msgspec.msgpack.encode(body), headers
        except (OverflowError, UnicodeEncodeError, ValueError):
            pass
    return json.dumps(body).encode(), headers or None
