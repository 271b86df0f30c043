"""What a start request must pass before anything is opened, in the order of the codes.

First what no host could honour or this one does not allow (400, 403), then, once it is
known that no session is active, what this host or build cannot do (503). A file is opened
in the first step and travels as a descriptor: what was checked is what is read.
"""

from __future__ import annotations

import contextlib
import errno
import math
import os
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Any

from ..config.paths import NotAFileError, open_below
from ..config.sections import Config
from ..core.backends import backend
from ..core.capture import check_filter
from ..core.values import BackendReport, CaptureSettings, CollectorSettings
from ..errors import (
    BackendUnavailable,
    EncryptionUnavailable,
    FlowMeteringUnavailable,
    InvalidBackend,
    InvalidInterface,
    InvalidRequest,
    NetflowExportUnavailable,
    RequestError,
)
from ..recorder.sealing import Sealing, read_sealing
from ..wire.requests import BACKEND_NAMES, EncryptionRequest, MeterRequest, StartRequest
from .collectors import adding, first_collectors, read_address
from .interfaces import check_interface


class Checked:
    """The settings to open with. As a context it closes the file if nobody took it over, and
    forgets the key."""

    def __init__(
        self, request: StartRequest, config: Config, file_fd: int, sealing: Sealing | None
    ) -> None:
        self._request = request
        self._config = config
        self._file_fd = file_fd
        self.sealing = sealing

    def __enter__(self) -> Checked:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._file_fd >= 0:
            os.close(self._file_fd)
        if self.sealing is not None:
            self.sealing.forget()

    def preparing(self, collectors: Sequence[CollectorSettings]) -> Callable[[Any], None]:
        """What is done with the handle of the session before its first packet."""
        add = adding(collectors)

        def prepare(handle: Any) -> None:
            if self.sealing is not None:
                self.sealing.apply(handle)
            add(handle)

        return prepare

    def collectors(self, report: BackendReport) -> tuple[CollectorSettings, ...]:
        """Whom the session exports to from its first record on."""
        if "netflow_export" not in report.features:
            return ()
        return first_collectors(self._request.export, self._config.export)

    def settings(self, export_interval_sec: int | None) -> CaptureSettings:
        """Hands over the descriptor: the session owns it from the open call on.
        export_interval_sec: of a session that exports, and therefore meters."""
        file_fd, self._file_fd = self._file_fd, -1
        request, config = self._request, self._config
        metering = request.metering or MeterRequest(enable=False)
        records = request.record or self.sealing is not None
        return CaptureSettings(
            backend=request.backend,
            interface=request.interface,
            filter=request.filter,
            file_fd=file_fd,
            workers=request.workers,
            snaplen=request.snaplen,
            ring_bytes=config.capture.ring_mb << 20,
            flow_table_size=config.flows.flow_table_size,
            record_ring_size=config.flows.record_ring_size,
            promiscuous=request.promiscuous,
            dedicated=request.dedicated,
            tunnel_inner=config.flows.tunnel == "inner",
            replay_speed=request.replay_speed,
            metering=metering.enable or export_interval_sec is not None,
            idle_timeout_sec=metering.flow_timeout_sec,
            active_timeout_sec=export_interval_sec or metering.active_timeout_sec,
            buffer_bytes=request.buffer_size_mb << 20 if records else 0,
            buffer_dir=config.buffer.dir if records else "",
            buffer_disk_bytes=config.buffer.disk_mb << 20,
        )


class Preflight:
    """`config` is replaced when the configuration is read again."""

    def __init__(self, config: Config) -> None:
        self.config = config

    async def check_values(self, request: StartRequest) -> Checked:
        if not math.isfinite(request.replay_speed):
            raise InvalidRequest("replay_speed must be a finite number", field="$.replay_speed")
        if request.backend not in BACKEND_NAMES:
            raise InvalidBackend(
                f"There is no backend {request.backend!r}; use one of {', '.join(BACKEND_NAMES)}.",
                field="$.backend",
            )
        if request.export is not None:
            read_address(request.export, field="$.export.collector_ip")
        if request.filter:
            with blaming("$.filter"):
                await check_filter(request.filter)
        if request.backend != "file":
            check_interface(request.backend, request.interface)
        sealing = self.sealing(request.encryption, "$.encryption")
        try:
            file_fd = self._open_file(request.interface) if request.backend == "file" else -1
        except RequestError:
            if sealing is not None:
                sealing.forget()
            raise
        return Checked(request, self.config, file_fd, sealing)

    def sealing(self, request: EncryptionRequest | None, at: str) -> Sealing | None:
        """With the key in hand; None: nothing is to be sealed. Raises UnsupportedCipher,
        PathNotAllowed or InvalidKey. at: JSON path of the request."""
        if request is None:
            return None
        return read_sealing(self.config.encryption.key_dirs, request, at)

    async def check_available(self, request: StartRequest) -> BackendReport:
        report = await backend(request.backend)
        if report is None or not report.usable:
            reason = report.reason if report is not None else "this build does not know it"
            raise BackendUnavailable(f"{request.backend}: {reason}")
        wants_metering = request.metering is not None and request.metering.enable
        if wants_metering and "flow_metering" not in report.features:
            raise FlowMeteringUnavailable(field="$.metering")
        wants_export = request.export is not None and request.export.enable
        if wants_export and "netflow_export" not in report.features:
            raise NetflowExportUnavailable(field="$.export")
        wants_sealing = request.encryption is not None and request.encryption.enable
        if wants_sealing and "buffer_encryption" not in report.features:
            raise EncryptionUnavailable(field="$.encryption")
        _make_directory(self.config.buffer.dir)
        return report

    def _open_file(self, path: str) -> int:
        with blaming("$.interface"):
            try:
                return open_below(self.config.capture.replay_dirs, path)
            except NotAFileError as error:
                raise InvalidInterface(f"{path}: {error}") from None


@contextlib.contextmanager
def blaming(field: str, *kinds: type[RequestError]) -> Iterator[None]:
    """Names the field in errors of these kinds; of any, if none is given."""
    try:
        yield
    except RequestError as error:
        if not kinds or isinstance(error, kinds):
            error.field = field
        raise


def _make_directory(path: str) -> None:
    """[buffer] dir, if it is set and not there yet."""
    try:
        if path:
            os.makedirs(path, mode=0o700, exist_ok=True)
    except OSError as error:
        reason = os.strerror(error.errno or errno.EIO).lower()
        raise BackendUnavailable(f"[buffer] dir cannot be made: {reason}.") from None
