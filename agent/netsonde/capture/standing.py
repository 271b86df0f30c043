"""The capture that should run on this host, and the task that keeps it running.

Every request that changes the session passes here. A capture that `[session]` or a policy wants
changes only with an override, which lapses after a time. The task starts what is wanted, retries
with back-off, and applies changes with the least interruption. wanted.py decides what to do.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Protocol

import msgspec
import structlog

from ..errors import (
    Draining,
    InternalError,
    InvalidInterface,
    InvalidRequest,
    Managed,
    NoSession,
    RequestError,
    SessionActive,
    StateUnavailable,
)
from ..wire.events import EventLog
from ..wire.instant import NS_PER_SEC, rfc3339_seconds
from ..wire.replies import (
    EncryptionReply,
    ExportReply,
    MeterReply,
    StartReply,
    StatusReply,
    StopReply,
    WantedBy,
)
from ..wire.requests import (
    CaptureOptions,
    EncryptionRequest,
    ExportRequest,
    MeterRequest,
    StartRequest,
    StopRequest,
)
from .links import link_changes
from .persisted import PersistedStart
from .sessions import Sessions
from .wanted import (
    PRECEDENCE,
    RETRY_MIN_SEC,
    Action,
    Backoff,
    Running,
    Wanted,
    capture_options,
    decide,
)

CHECK_SEC = 5.0  # for a capture that ended by an error


class _Overriding(Protocol):
    override: bool
    override_sec: int


@dataclass(frozen=True, slots=True)
class _Override:
    verb: str
    until_sec: float  # monotonic
    until_ns: int  # since the epoch


@dataclass(frozen=True, slots=True)
class _Applied:
    """The wanted options that session `session_id` was given, and whether it changed since."""

    session_id: str
    options: CaptureOptions
    changed: bool = False


class Standing:
    def __init__(
        self,
        sessions: Sessions,
        events: EventLog,
        store: PersistedStart,
        configured: CaptureOptions | None,
    ) -> None:
        self._sessions = sessions
        self._events = events
        self._store = store
        self._sources: dict[WantedBy, CaptureOptions | None] = {
            "config": configured,
            "persist": store.read(),
        }
        self._override: _Override | None = None
        self._applied: _Applied | None = None
        self._failure = ""  # why the last attempt failed
        self._missing = False  # the last attempt failed because of the interface
        self._acting = asyncio.Lock()
        self._woken = asyncio.Event()
        self._settled = asyncio.Event()
        self._backoff = Backoff()
        self._log = structlog.get_logger()
        self.listener: Callable[[], None] | None = None  # called after each action

    # ---- what is wanted ------------------------------------------------------------------------

    @property
    def wanted(self) -> Wanted | None:
        for by in PRECEDENCE:
            options = self._sources.get(by)
            if options is not None:
                return Wanted(by, options)
        return None

    def want(self, by: WantedBy, options: CaptureOptions | None) -> None:
        """Replaces what `by` wants; None: nothing. The task applies it."""
        if self._sources.get(by) != options:
            self._sources[by] = options
            self._failure = ""  # the earlier options failed, not these
            self._backoff.reset()
            self._wake()

    @property
    def running(self) -> bool:
        """Whether a capture runs, wanted or not."""
        running = self._running()
        return running is not None and not running.ended

    @property
    def satisfied(self) -> bool:
        """Whether a capture runs, if one is wanted."""
        return self.wanted is None or self.running

    async def wait_satisfied(self) -> None:
        while not self.satisfied:
            self._settled.clear()
            await self._settled.wait()

    @property
    def reason(self) -> str:
        """Why the session is not as wanted; empty if it is, or if nothing is wanted."""
        wanted = self.wanted
        if wanted is None or (self._next_action() is Action.NOTHING and self._override is None):
            return ""
        if self._override is not None:
            return self.drift
        if self._failure:
            return self._failure
        return "not applied yet" if self.running else "not started yet"

    @property
    def drift(self) -> str:
        """The override in force; empty without one."""
        override = self._override
        if override is None:
            return ""
        return f"overridden by the verb {override.verb} until {rfc3339_seconds(override.until_ns)}"

    @property
    def failure(self) -> str:
        """Why the last attempt to start what is wanted failed; empty if it did not."""
        return self._failure if self.wanted is not None else ""

    def status(self) -> StatusReply:
        reply = self._sessions.status()
        wanted = self.wanted
        if wanted is None:
            return reply
        reply.wanted, reply.wanted_by = wanted.options, wanted.by
        if self.reason:
            reply.reason = self.reason
        if self._override is not None:
            reply.drift = self.drift
        return reply

    # ---- requests --------------------------------------------------------------------------------

    async def start(self, request: StartRequest) -> StartReply:
        if request.persist and request.override:
            raise InvalidRequest("an override ends, so it cannot persist", field="$.persist")
        options = capture_options(request)
        if self._managed:
            async with self._acting:
                with self._overriding("start", request):
                    return await self._sessions.start(options, replacing="override")
        if self._sources.get("persist") is not None and self._sessions.current is None:
            raise SessionActive("A persisted start waits on this host; stop it first.")
        if not request.persist:
            return await self._sessions.start(options)
        async with self._acting:
            return await self._start_persisted(options)

    async def _start_persisted(self, options: CaptureOptions) -> StartReply:
        """Writes the file before the start and gives it its name after, so that a full disk
        fails before anything starts. Raises StateUnavailable."""
        await asyncio.to_thread(self._store.prepare, options)
        try:
            reply = await self._sessions.start(options)
        except BaseException:
            self._store.discard()
            raise
        try:
            await asyncio.to_thread(self._store.commit)
        except StateUnavailable:
            await self._sessions.stop(StopRequest(reason="the start cannot be kept"))
            raise
        self._sources["persist"] = options
        self._applied = _Applied(reply.session_id, options)
        return reply

    async def stop(self, request: StopRequest) -> StopReply:
        if not self._managed and self._sources.get("persist") is None:
            return await self._sessions.stop(request)
        async with self._acting:  # a start in progress ends first
            with self._overriding("stop", request):
                if not self._managed:
                    await asyncio.to_thread(self._store.remove)
                    self._sources["persist"] = None
                    self._failure = ""
                if self._sessions.current is None:
                    return _nothing_ran(request.reason)
                return await self._sessions.stop(request)

    async def meter(self, request: MeterRequest) -> MeterReply:
        with self._overriding("flow.meter.enable", request):
            return await self._sessions.meter(request)

    async def export(self, request: ExportRequest) -> ExportReply:
        with self._overriding("netflow.export.enable", request):
            return await self._sessions.export(request)

    async def encrypt(self, request: EncryptionRequest) -> EncryptionReply:
        with self._overriding("encryption.enable", request):
            return await self._sessions.encrypt(request)

    @property
    def _managed(self) -> bool:
        wanted = self.wanted
        return wanted is not None and wanted.managed

    @contextlib.contextmanager
    def _overriding(self, verb: str, request: _Overriding) -> Iterator[None]:
        """Holds the task off while a request changes a managed capture, and until the override
        lapses. A request that fails overrides nothing. Raises Managed."""
        wanted = self.wanted
        if wanted is None or not wanted.managed:
            yield
            return
        if not request.override:
            source = "[session]" if wanted.by == "config" else "A fleet policy"
            raise Managed(f"{source} wants this capture; override it to change it for a time.")
        before = self._override
        self._override = _Override(
            verb,
            time.monotonic() + request.override_sec,
            time.time_ns() + request.override_sec * NS_PER_SEC,
        )
        try:
            yield
        except BaseException:
            self._override = before
            raise
        else:
            if self._applied is not None:
                self._applied = replace(self._applied, changed=True)
        finally:
            self._wake()

    # ---- the task --------------------------------------------------------------------------------

    async def run(self) -> None:
        """Runs until cancelled, or until the agent drains."""
        with link_changes(self._on_link):
            while True:
                self._woken.clear()
                try:
                    await self._step()
                except Draining:
                    return
                await self._wait()

    async def _step(self) -> None:
        """Does one action, if one is due. Keeps the reason if it fails."""
        async with self._acting:
            self._lapse()
            action, wanted = self._next_action(), self.wanted
            if action is Action.NOTHING:
                self._failure = ""
                return
            try:
                await self._apply(action, wanted)
            except Draining:
                raise
            except RequestError as error:
                self._fail(error)
            except Exception:
                self._log.exception("the wanted capture cannot be started")
                self._fail(InternalError("Internal error; the agent's log has the traceback."))
            else:
                self._failure, self._missing = "", False
                self._backoff.reset()
                self._settled.set()
            if self.listener is not None:
                self.listener()

    async def _apply(self, action: Action, wanted: Wanted | None) -> None:
        if wanted is None:
            with contextlib.suppress(NoSession):
                await self._sessions.stop(StopRequest(reason="no longer wanted"))
            self._applied = None
            return
        options = wanted.options
        if action is Action.ADJUST:
            await self._sessions.adjust(options)
            session_id = self._sessions.require().id
        else:
            replacing = f"wanted by {wanted.by}" if action is Action.REPLACE else ""
            session_id = (await self._sessions.start(options, replacing=replacing)).session_id
        self._applied = _Applied(session_id, options)

    def _fail(self, error: RequestError) -> None:
        self._missing = isinstance(error, InvalidInterface)
        if error.detail != self._failure:
            self._failure = error.detail
            self._events.emit("alarm", "capture_waiting", error.detail, data={"error": error.error})

    def _lapse(self) -> None:
        override = self._override
        if override is None:
            return
        if override.until_sec <= time.monotonic() or not self._managed:
            self._override = None
            self._events.emit("capture", "override_lapsed", override.verb)

    async def _wait(self) -> None:
        """Waits until something changed, a retry is due or the override lapses."""
        loop = asyncio.get_running_loop()
        now_sec = loop.time()
        wait_sec: float | None
        if self._failure:
            wait_sec = self._backoff.next_sec()
        elif self._override is not None:
            wait_sec = max(self._override.until_sec - time.monotonic(), 0.0)
        else:
            wait_sec = CHECK_SEC if self.wanted is not None else None
        try:
            async with asyncio.timeout_at(None if wait_sec is None else now_sec + wait_sec):
                await self._woken.wait()
        except TimeoutError:
            return
        if self._missing and self._failure:  # one retry a second, however often interfaces change
            await asyncio.sleep(max(now_sec + RETRY_MIN_SEC - loop.time(), 0.0))

    def _next_action(self) -> Action:
        return decide(self.wanted, self._running(), overridden=self._override is not None)

    def _running(self) -> Running | None:
        session = self._sessions.current
        if session is None:
            return None
        stats = session.capture.stats()
        ended = stats.finished and session.request.backend != "file"
        applied = self._applied
        if applied is None or applied.session_id != session.id:
            return Running(None, ended=ended)
        return Running(applied.options, changed=applied.changed, ended=ended)

    def _on_link(self) -> None:
        if self._missing:
            self._wake()

    def _wake(self) -> None:
        self._woken.set()
        self._settled.set()


def _nothing_ran(reason: str) -> StopReply:
    """Returns the reply to the `stop` of a capture that waited to start."""
    fields = {one.name: 0 for one in msgspec.structs.fields(StopReply) if one.required}
    return msgspec.convert(fields | {"session_id": "", "reason": reason}, StopReply)
