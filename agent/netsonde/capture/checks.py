"""The checks of a start request that read the host: names, filter, file, key, backend.

`check_request` covers what the request itself gets wrong or local policy forbids (400, 403).
`require_backend` covers what this host cannot do (503) and runs once no session is active. A
replay file is opened during the check and stays open, so that the checked file is the one
that is read.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import math
import os
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Any

from ..config.paths import NotAFileError, open_below
from ..config.sections import BufferSection, Config
from ..core.backends import backend
from ..core.filters import FilterChecks
from ..core.values import BackendReport, CaptureSettings
from ..errors import (
    BackendUnavailable,
    BufferTooLarge,
    InvalidBackend,
    InvalidFilter,
    InvalidInterface,
    InvalidRequest,
    RequestError,
)
from ..recorder.sealing import Sealing, read_sealing
from ..wire.replies import EncryptionState
from ..wire.requests import BACKEND_NAMES, CaptureOptions
from . import link_types, memory
from .collectors import adding, read_address
from .interfaces import find_interfaces
from .plan import CapturePlan

KERNEL_FILTERS = frozenset({"af_packet", "pcap"})


class Resources:
    """The open replay file and the key of a start request, until the capture owns them.

    As a context manager: closes the file if the capture did not take it, and zeroises the key.
    """

    def __init__(self, file_fd: int, sealing: Sealing | None) -> None:
        self.file_fd = file_fd
        self.link_types: tuple[int, ...] = link_types.ALL
        self.interfaces: tuple[str, ...] = ()  # the kernel's names; empty for a file
        self._sealing = sealing

    def __enter__(self) -> Resources:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.file_fd >= 0:
            os.close(self.file_fd)
        if self._sealing is not None:
            self._sealing.forget()

    @property
    def encryption(self) -> EncryptionState | None:
        return self._sealing.state if self._sealing is not None else None

    def settings(self, plan: CapturePlan) -> CaptureSettings:
        """Returns the plan's settings with the interfaces, and with the file's descriptor, which
        the open call then owns."""
        file_fd, self.file_fd = self.file_fd, -1
        return dataclasses.replace(plan.settings, file_fd=file_fd, interfaces=self.interfaces)

    def preparing(self, plan: CapturePlan) -> Callable[[Any], None]:
        """Returns the function that sets up sealing and collectors before the first packet."""
        add = adding(plan.collectors)

        def prepare(handle: Any) -> None:
            if self._sealing is not None:
                self._sealing.apply(handle)
            add(handle)

        return prepare


async def check_request(
    request: CaptureOptions, config: Config, filters: FilterChecks
) -> Resources:
    """Raises the matching RequestError with code 400, 403, 422 or 429."""
    if not math.isfinite(request.replay_speed):
        raise InvalidRequest("replay_speed must be a finite number", field="$.replay_speed")
    if request.backend not in BACKEND_NAMES:
        raise InvalidBackend(
            f"There is no backend {request.backend!r}; use one of {', '.join(BACKEND_NAMES)}.",
            field="$.backend",
        )
    if request.export is not None:
        read_address(request.export, field="$.export.collector_ip")
    _check_buffer_size(request, config.buffer)
    interfaces: tuple[str, ...] = ()
    if request.backend != "file":
        interfaces = find_interfaces(request.backend, request.interface)
    with contextlib.ExitStack() as undo:
        sealing = None
        if request.encryption is not None:
            sealing = read_sealing(config.encryption.key_dirs, request.encryption, "$.encryption")
        resources = undo.enter_context(Resources(-1, sealing))
        resources.interfaces = interfaces
        if request.backend == "file":
            resources.file_fd = _open_file(config.capture.replay_dirs, request.interface)
            resources.link_types = link_types.of_file(resources.file_fd)
        else:
            resources.link_types = link_types.of_interfaces(interfaces)
        with blaming("$.filter", InvalidFilter):
            kernel = request.backend in KERNEL_FILTERS
            await filters.check(request.filter, resources.link_types, kernel=kernel)
        undo.pop_all()
    return resources


def _check_buffer_size(request: CaptureOptions, settings: BufferSection) -> None:
    recorded = request.record or (request.encryption is not None and request.encryption.enable)
    most = settings.max_mb or memory.total_mb() // 4
    if recorded and request.buffer_size_mb > most:
        raise BufferTooLarge(
            f"This host allows a capture buffer of {most} MiB; [buffer] max_mb changes that.",
            field="$.buffer_size_mb",
        )


async def require_backend(name: str) -> BackendReport:
    """Raises BackendUnavailable, with the reason in the loader's or kernel's words."""
    report = await backend(name)
    if report is None or not report.usable:
        reason = report.reason if report is not None else "not part of this build"
        raise BackendUnavailable(f"{name}: {reason}")
    return report


def make_buffer_directory(path: str) -> None:
    """Creates [buffer] dir if it is set and missing. Raises BackendUnavailable."""
    try:
        if path:
            os.makedirs(path, mode=0o700, exist_ok=True)
    except OSError as error:
        reason = os.strerror(error.errno or errno.EIO).lower()
        raise BackendUnavailable(f"cannot create [buffer] dir {path}: {reason}") from None


@contextlib.contextmanager
def blaming(field: str, *kinds: type[RequestError]) -> Iterator[None]:
    """Sets `field` on errors of these kinds, or on any RequestError if no kind is given."""
    try:
        yield
    except RequestError as error:
        if not kinds or isinstance(error, kinds):
            error.field = field
        raise


def _open_file(replay_dirs: Sequence[str], path: str) -> int:
    with blaming("$.interface"):
        try:
            return open_below(replay_dirs, path)
        except NotAFileError as error:
            raise InvalidInterface(f"{path}: {error}") from None
