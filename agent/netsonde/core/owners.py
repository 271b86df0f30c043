"""Whether this process can find the owners of flows."""

from __future__ import annotations

import asyncio

from .library import PLUGIN_DIR, ffi, lib


async def probe_owners() -> tuple[bool, str]:
    """Returns whether owners are found, and what is missing. Empty if nothing is."""
    return await asyncio.to_thread(_probe)


def _probe() -> tuple[bool, str]:
    error = ffi.new("struct sonde_error *")
    status = lib.sonde_owner_probe(str(PLUGIN_DIR).encode(), error)
    return status == 0, bytes(ffi.string(error.detail)).decode(errors="replace")
