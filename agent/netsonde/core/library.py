"""The loaded C library: its handle, its strings, and its statuses as errors.

The only module that imports the extension module.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import netsonde._core as _core

from ..errors import (
    BackendUnavailable,
    InterfaceShared,
    InvalidBackend,
    InvalidFilter,
    InvalidInterface,
    NetsondeError,
    NoSession,
    RequestError,
    UnsupportedCipher,
)

ffi: Any = _core.ffi
lib: Any = _core.lib
PLUGIN_DIR = Path(_core.__file__).parent / "backends"


class CoreError(NetsondeError):
    """A status that no request can cause: a fault of the agent or the system."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(f"{text_of(lib.sonde_status_name(status))}: {detail}")
        self.status = status


def string_of(text: str, blamed: type[RequestError]) -> bytes:
    """Encodes text for C. Raises `blamed` for a NUL or invalid Unicode."""
    if "\0" in text:
        raise blamed("A NUL character is not allowed here.")
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise blamed("The text is not valid Unicode.") from None


def text_of(chars: Any) -> str:
    return str(ffi.string(chars).decode(errors="replace"))


@functools.cache
def _members(kind: type) -> tuple[tuple[str, Callable[[Any], Any]], ...]:
    convert: dict[str, Callable[[Any], Any]] = {"int": int, "bool": bool, "str": text_of}
    fields = ((field.name, str(field.type)) for field in dataclasses.fields(kind))
    return tuple(
        (name, convert[annotation]) for name, annotation in fields if annotation in convert
    )


def members(kind: type, struct: Any) -> dict[str, Any]:
    """Returns the struct's members that are int, bool or str fields of the dataclass."""
    return {name: convert(getattr(struct, name)) for name, convert in _members(kind)}


def check_abi() -> None:
    """Raises NetsondeError if the loaded library has another ABI."""
    found = lib.sonde_abi()
    if found != lib.SONDE_ABI:
        raise NetsondeError(f"the C core has ABI {found}, this agent needs {lib.SONDE_ABI}")


_REQUEST_ERRORS: dict[int, type[RequestError]] = {
    lib.SONDE_BACKEND_UNKNOWN: InvalidBackend,
    lib.SONDE_BACKEND_UNAVAILABLE: BackendUnavailable,
    lib.SONDE_INTERFACE_INVALID: InvalidInterface,
    lib.SONDE_INTERFACE_SHARED: InterfaceShared,
    lib.SONDE_FILTER_INVALID: InvalidFilter,
    lib.SONDE_PERMISSION: BackendUnavailable,
    lib.SONDE_NO_MEMORY: BackendUnavailable,
    lib.SONDE_FORMAT: InvalidInterface,
    lib.SONDE_LINK_DOWN: BackendUnavailable,
    lib.SONDE_STATE: NoSession,
    lib.SONDE_CIPHER_UNKNOWN: UnsupportedCipher,
}


def check(status: int, error: Any) -> int:
    """Returns a non-negative status; raises the matching error otherwise."""
    if status >= 0:
        return status
    return _fail(status, text_of(error.detail))


def check_status(status: int) -> int:
    return status if status >= 0 else _fail(status, "")


def _fail(status: int, detail: str) -> int:
    words = detail or text_of(lib.sonde_status_text(status))
    kind = _REQUEST_ERRORS.get(status)
    if kind is not None:
        raise kind(words)
    raise CoreError(status, words)
