"""The fields of a record that Parquet has a column for, and those that it has none for.

A line with only known fields of the right types is written as it is. Unknown fields move into
`more`, a JSON object in a string, so that a file of a newer agent loses nothing.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
import pyarrow as pa
from msgspec import Meta

from .batches import UnreadableError
from .columns import SCHEMA

MORE = "more"
_TIME = Annotated[str, Meta(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?Z$")]
_decode_objects = msgspec.json.Decoder(list[dict[str, Any]]).decode


def _type_of(kind: Any) -> Any:
    """Returns the type of a column's values in JSON."""
    if pa.types.is_list(kind):
        return list[_type_of(kind.value_type)]  # type: ignore[misc]  # made at run time
    if pa.types.is_struct(kind):
        fields = [(field.name, _type_of(field.type) | None, None) for field in kind]
        return msgspec.defstruct("Inner", fields, forbid_unknown_fields=True)
    if pa.types.is_boolean(kind):
        return bool
    if pa.types.is_timestamp(kind):
        return _TIME
    if pa.types.is_integer(kind):
        signed = pa.types.is_signed_integer(kind)
        lowest = -(1 << 63) if signed else 0
        largest = min((1 << kind.bit_width) - 1, (1 << 63) - 1)
        return Annotated[int, Meta(ge=lowest, le=largest)]
    return str


_Row: Any = msgspec.defstruct(
    "Row",
    [(field.name, _type_of(field.type) | None, None) for field in SCHEMA],
    forbid_unknown_fields=True,
    gc=False,
)
_decode_rows = msgspec.json.Decoder(list[_Row]).decode


def fit_lines(lines: list[bytes]) -> list[bytes]:
    """Returns the lines with unknown fields moved into `more`. Raises UnreadableError if a known
    field has a wrong type."""
    try:
        _decode_rows(_array(lines))
        return lines
    except (msgspec.DecodeError, RecursionError):
        pass
    fitted = [msgspec.json.encode(_fit(line)) for line in _decode_objects(_array(lines))]
    try:
        _decode_rows(_array(fitted))
    except (msgspec.DecodeError, RecursionError) as error:
        raise UnreadableError(str(error)) from None
    return fitted


def _array(lines: list[bytes]) -> bytes:
    return b"[" + b",".join(lines) + b"]"


def _fit(line: dict[str, Any]) -> dict[str, Any]:
    known = {name: value for name, value in line.items() if name in _NAMES}
    unknown = {name: value for name, value in line.items() if name not in _NAMES}
    for field, members in _MEMBERS.items():
        value = line.get(field)
        if isinstance(value, dict) and not value.keys() <= members:
            known[field] = {name: value[name] for name in value if name in members}
            unknown[field] = {name: value[name] for name in value if name not in members}
    if unknown:
        known[MORE] = msgspec.json.encode(unknown).decode()
    return known


_NAMES = frozenset(SCHEMA.names) - {MORE}
_MEMBERS = {
    name: frozenset(field.name for field in SCHEMA.field(name).type)
    for name in ("tunnel", "process", "peer_process")
}
