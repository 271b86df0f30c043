"""Whether this process can find the owners of flows."""

from __future__ import annotations

import asyncio

from .library import PLUGIN_DIR, ffi, lib


async def owners_missing() -> str:
    """Returns the reason why owners are not found. Empty if they are."""
    return await asyncio.to_thread(_probe)


def _probe() -> str:
    error = ffi.new("struct sonde_error *")
    if lib.sonde_owner_probe(str(PLUGIN_DIR).encode(), error) == 0:
        return ""
    return bytes(ffi.string(error.detail)).decode(errors="replace")
