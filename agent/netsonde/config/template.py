"""A commented configuration file with every key, made from the types of the sections.

All keys are comments with their defaults, so the file changes nothing until it is edited.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from typing import Any

import msgspec
from msgspec import inspect

from .sections import Config

WIDTH = 98
HEAD = """\
# The configuration of the netsonde agent. Lines with `#key = value` show the defaults.
# `netsonde config check` validates this file, `netsonde doctor` checks the host against it.
# `systemctl reload netsonde` applies changes of most keys.
"""


def template() -> str:
    """Returns the text of the file."""
    kind, _ = _plain(inspect.type_info(Config))
    blocks = [HEAD]
    for field in kind.fields:
        section, description = _plain(field.type)
        optional = isinstance(_bare(field.type), inspect.UnionType)
        blocks.append("\n".join(_section(field.encode_name, section, description, optional)) + "\n")
    return "\n".join(blocks)


def render_value(value: object) -> str:
    """Returns a TOML value. Strings, numbers and booleans are the same in JSON."""
    if isinstance(value, dict):
        pairs = (f"{render_key(key)} = {render_value(item)}" for key, item in value.items())
        return "{ " + ", ".join(pairs) + " }" if value else "{}"
    if isinstance(value, list):
        return "[" + ", ".join(map(render_value, value)) + "]"
    return msgspec.json.encode(value).decode()


def render_key(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else render_value(key)


def _section(
    name: str, section: inspect.StructType, description: str, optional: bool
) -> Iterator[str]:
    """optional: a section without a default, so its header is a comment too."""
    yield from _comment(description or section.cls.__doc__ or "")
    yield f"#[{name}]" if optional else f"[{name}]"
    for field in section.fields:
        kind, text = _plain(field.type) if _is_struct(field.type) else (None, _text(field.type))
        yield from _comment(text)
        if kind is not None:
            keys = ", ".join(inner.encode_name for inner in kind.fields)
            yield f"#{field.encode_name} = {{}}    # a table of {keys}"
        elif field.required:
            yield f"#{field.encode_name} = {_example(field.type)}"
        else:
            yield f"#{field.encode_name} = {render_value(_default(field))}"


def _comment(text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent="# ", subsequent_indent="# ")


def _bare(kind: inspect.Type) -> inspect.Type:
    return kind.type if isinstance(kind, inspect.Metadata) else kind


def _text(kind: inspect.Type) -> str:
    """Returns the description, and the allowed values of a choice."""
    schema = (kind.extra_json_schema or {}) if isinstance(kind, inspect.Metadata) else {}
    found = str(schema.get("description", ""))
    inner = _bare(kind)
    if isinstance(inner, inspect.LiteralType):
        choices = ", ".join(map(render_value, inner.values))
        found = f"{found} ({choices})" if found else choices
    return found


def _is_struct(kind: inspect.Type) -> bool:
    inner = _bare(kind)
    if isinstance(inner, inspect.UnionType):
        return any(isinstance(_bare(one), inspect.StructType) for one in inner.types)
    return isinstance(inner, inspect.StructType)


def _plain(kind: inspect.Type) -> tuple[inspect.StructType, str]:
    """Returns the structure, without the alternative of no value, and its description."""
    inner = _bare(kind)
    candidates = inner.types if isinstance(inner, inspect.UnionType) else (inner,)
    for one in map(_bare, candidates):
        if isinstance(one, inspect.StructType):
            return one, _text(kind)
    raise TypeError(f"{kind} is not a section")


def _default(field: inspect.Field) -> Any:
    if field.default_factory is not msgspec.NODEFAULT:
        return msgspec.to_builtins(field.default_factory())
    return msgspec.to_builtins(field.default)


def _example(kind: inspect.Type) -> str:
    return '""' if isinstance(_bare(kind), inspect.StrType) else "0"
