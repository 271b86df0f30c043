"""The capture backends of this host: usable or not, and why."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from typing import Any

from .library import PLUGIN_DIR, ffi, lib, members
from .values import BackendReport

BACKENDS_MAX = 32
PROBE_SEC = 30.0

FEATURES: dict[int, str] = {  # enum sonde_feature of backend.h, which cffi does not read
    1 << 0: "basic_capture",
    1 << 1: "flow_tracking",
    1 << 2: "flow_metering",
    1 << 3: "netflow_export",
    1 << 4: "buffer_encryption",
}


async def backends() -> list[BackendReport]:
    return await asyncio.to_thread(_probe)


async def backend(name: str) -> BackendReport | None:
    """Probes one backend and loads no library of another. None: unknown name."""
    return await asyncio.to_thread(_probe_one, name)


async def usable_names() -> list[str]:
    """Returns the names of the usable backends, sorted. Probes them in a child process: their
    libraries would stay in the memory of this one. Empty if the child fails."""
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        __name__,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        async with asyncio.timeout(PROBE_SEC):
            names, _ = await child.communicate()
    except TimeoutError:
        return []
    finally:
        if child.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                child.kill()
            await asyncio.shield(child.wait())
    return sorted(names.decode().split())


def _probe() -> list[BackendReport]:
    reports = ffi.new("struct sonde_backend_report[]", BACKENDS_MAX)
    count = lib.sonde_backend_probe(str(PLUGIN_DIR).encode(), reports, BACKENDS_MAX)
    return [_report(reports[index]) for index in range(max(count, 0))]


def _probe_one(name: str) -> BackendReport | None:
    report = ffi.new("struct sonde_backend_report *")
    status = lib.sonde_backend_probe_one(str(PLUGIN_DIR).encode(), name.encode(), report)
    return _report(report) if status == 0 else None


def _report(report: Any) -> BackendReport:
    return BackendReport(
        **members(BackendReport, report),
        features=tuple(name for bit, name in FEATURES.items() if report.features & bit),
    )


if __name__ == "__main__":
    os.write(1, "\n".join(one.name for one in _probe() if one.usable).encode())
