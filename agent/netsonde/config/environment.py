"""Configuration keys from environment variables: NETSONDE__SECTION__KEY.

The named field gives a value its type. Lists are split at commas and tables are `k=v,k=v`; both
may also use TOML notation.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping

import msgspec
from msgspec import Struct

from ..errors import ConfigError
from .masking import mask

ENVIRONMENT_PREFIX = "NETSONDE__"


def read_environment(
    environ: Mapping[str, str], kind: type[Struct]
) -> list[tuple[tuple[str, ...], object]]:
    """Returns keys and values, sorted by variable name."""
    found: list[tuple[tuple[str, ...], object]] = []
    for name in sorted(environ):
        if name.startswith(ENVIRONMENT_PREFIX):
            key = tuple(name[len(ENVIRONMENT_PREFIX) :].lower().split("__"))
            found.append((key, typed_value(name, key, environ[name], kind)))
    return found


def typed_value(name: str, key: tuple[str, ...], text: str, config: type[Struct]) -> object:
    if len(key) == 3 and key[:2] == ("agent", "labels"):
        return text
    kind = _field_type(key, config)
    if kind is None:
        raise ConfigError(f"{name}: unknown key {'.'.join(key)}")
    try:
        if isinstance(kind, msgspec.inspect.ListType):
            return _toml_value(text) if text.startswith("[") else _split(text)
        if isinstance(kind, msgspec.inspect.DictType):
            if text.startswith("{"):
                return _toml_value(text)
            return dict(_pair(part) for part in _split(text))
        if isinstance(kind, msgspec.inspect.IntType):
            return int(text)
        if isinstance(kind, msgspec.inspect.FloatType):
            return float(text)
        if isinstance(kind, msgspec.inspect.BoolType):
            return {"true": True, "1": True, "false": False, "0": False}[text.lower()]
    except (ValueError, KeyError):
        raise ConfigError(
            f"{name}: cannot read {mask(text)!r} as a value of {'.'.join(key)}"
        ) from None
    return text


def _field_type(key: tuple[str, ...], config: type[Struct]) -> msgspec.inspect.Type | None:
    kind: msgspec.inspect.Type = msgspec.inspect.type_info(config)
    for part in key:
        if not isinstance(kind, msgspec.inspect.StructType):
            return None
        fields = {field.encode_name: field.type for field in kind.fields}
        if part not in fields:
            return None
        kind = _plain(fields[part])
    return None if isinstance(kind, msgspec.inspect.StructType) else kind


def _plain(kind: msgspec.inspect.Type) -> msgspec.inspect.Type:
    """Returns the type without its description, and without the alternative of no value."""
    if isinstance(kind, msgspec.inspect.Metadata):
        kind = kind.type
    if isinstance(kind, msgspec.inspect.UnionType):
        kind = next(one for one in kind.types if not isinstance(one, msgspec.inspect.NoneType))
    return kind


def _toml_value(text: str) -> object:
    return tomllib.loads(f"value = {text}")["value"]


def _split(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _pair(text: str) -> tuple[str, str]:
    key, separator, value = text.partition("=")
    if not separator:
        raise ValueError(text)
    return key.strip(), value.strip()
