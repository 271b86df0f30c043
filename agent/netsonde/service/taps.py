"""The verb `tap`: permission, limits, and the subjects that control an open tap.

    <root>.host.<host>.tap.<id>.credit     TapCredit: allows more bytes, renews the lease
    <root>.host.<host>.tap.<id>.stop       ends the tap

Taps have their own NATS connection, open only while a tap is: a stalled reader must not hold the
replies of this host. The id of a tap is a secret of its caller; with a known caller, only that
caller controls the tap.
"""

from __future__ import annotations

import asyncio
import contextlib
import fnmatch
import re
import secrets
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import structlog

from ..bus.connection import Connection
from ..capture import link_types
from ..capture.checks import blaming
from ..capture.session import Session
from ..capture.sessions import Sessions
from ..capture.tap import LEASE_SEC, EndReason, LiveTap, TapPlan, Totals
from ..config.sections import TapSection
from ..core.tap import SNAPLEN_MAX, TapInterface, TapSettings, open_tap
from ..core.threads import on_thread
from ..core.values import OwnerMatch
from ..errors import (
    BackendUnavailable,
    Draining,
    InvalidFilter,
    InvalidInterface,
    NotFound,
    PolicyDenied,
    TooManyRequests,
)
from ..wire import envelope
from ..wire.events import EventLog
from ..wire.quantity import counted
from ..wire.replies import TapClock, TapInterfaceState, TapLimits, TapReply, TapState
from ..wire.requests import TAP_WINDOW_MAX, TAP_WINDOW_MIN, TapCredit, TapRequest
from ..wire.subjects import tapped_subject
from .policy import Caller

CONNECT_SEC = 4.0
TOKEN = re.compile(r"[A-Za-z0-9_-]+")
LINGER_SEC = 5.0  # the connection stays open after the last tap
DIRECTIONS = {"both": 0, "in": 1, "out": 2}
ETHERNET = 1
BYTES_PER_KBIT = 125


@dataclass(slots=True)
class _Open:
    """An open tap and its caller."""

    live: LiveTap
    caller: Caller | None
    rate: int  # bytes per second that the caller asked for; 0: no limit


@dataclass(slots=True)
class TapCounters:
    """Sums over the taps that have ended, and how many were opened and refused."""

    opened: int = 0
    refused: int = 0
    sent: Totals = field(default_factory=Totals)
    lost: Totals = field(default_factory=Totals)


class Taps:
    """A configuration reload replaces `settings`. connection: makes the connection of the taps."""

    def __init__(
        self,
        settings: TapSection,
        sessions: Sessions,
        events: EventLog,
        tasks: asyncio.TaskGroup,
        connection: Callable[[], Connection],
    ) -> None:
        self.settings = settings
        self.counters = TapCounters()
        self._sessions = sessions
        self._events = events
        self._tasks = tasks
        self._make_connection = connection
        self._host = sessions.config.host
        self._root = sessions.config.nats.root
        self._open: dict[str, _Open] = {}
        self._opening = 0
        self._connection: Connection | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._closing: asyncio.TimerHandle | None = None
        self._draining = False
        self._log = structlog.get_logger()

    # ---- the verb ------------------------------------------------------------------------------

    async def open(self, request: TapRequest, caller: Caller | None) -> TapReply:
        session = self._sessions.require()
        try:
            self._admit(session, request, caller)
        except (TooManyRequests, PolicyDenied):
            self.counters.refused += 1
            raise
        if request.process is not None and not session.capture.stats().owners:
            raise BackendUnavailable(
                "`process` needs owners of flows, which this capture does not have; run:"
                " netsonde doctor",
                field="$.process",
            )
        with blaming("$.filter", InvalidFilter):
            await self._sessions.filters.check(request.filter, session.link_types, kernel=False)
        interfaces = _interfaces(session, request.interface)
        self._opening += 1
        try:
            connection = await self._connected()
            return await self._start(session, request, caller, interfaces, connection)
        finally:
            self._opening -= 1
            self._linger()

    def _admit(self, session: Session, request: TapRequest, caller: Caller | None) -> None:
        """Raises the error of a tap that may not be opened."""
        if self._draining:
            raise Draining
        if not request.filter.strip():
            raise InvalidFilter("A tap needs a filter; `ip or ip6` matches nearly all.")
        if session.encryption is not None and not self.settings.while_sealed:
            raise PolicyDenied(
                "The capture buffer is sealed; this host allows taps then only with"
                " [tap] while_sealed = true."
            )
        if session.request.backend == "xdp" and not session.capture.stats().buffer_bytes_capacity:
            raise BackendUnavailable(
                "xdp without a capture buffer adds packets up in the kernel; start with record."
            )
        if len(self._open) + self._opening >= self.settings.taps:
            raise TooManyRequests(
                f"{counted(self.settings.taps, 'tap')} may be open on this host; "
                "try again when one has ended."
            )
        if caller is not None and any(one.caller == caller for one in self._open.values()):
            raise TooManyRequests("This caller has an open tap on this host; stop that one first.")

    async def _start(
        self,
        session: Session,
        request: TapRequest,
        caller: Caller | None,
        interfaces: list[tuple[TapInterface, str]],
        connection: Connection,
    ) -> TapReply:
        snaplen = min(request.snaplen or SNAPLEN_MAX, SNAPLEN_MAX)
        rate = (request.rate_kbps or 0) * BYTES_PER_KBIT
        credit = min(max(request.credit, TAP_WINDOW_MIN), TAP_WINDOW_MAX)
        settings = TapSettings(
            filter=request.filter,
            exclude=_exclusion(connection.server),
            snaplen=snaplen,
            direction=DIRECTIONS[request.direction],
            slots=sum(1 << slot for slot in {one.slot for one, _ in interfaces})
            if request.interface
            else (1 << 64) - 1,
            max_packets=request.max_packets or 0,
            max_bytes=request.max_bytes or 0,
            rate=self._rate(rate, len(self._open) + 1),
            interfaces=[one for one, _ in interfaces],
            owner=_owner(request.process),
        )
        held = session.capture.held()
        handle = held.__enter__()
        try:
            tap = await on_thread(lambda: open_tap(handle, settings))
        except BaseException:
            held.__exit__(None, None, None)
            raise
        names = {slot: name for one, name in interfaces for slot in (one.slot,)}

        def described(slot: int, linktype: int) -> TapInterfaceState:
            known = names.get(slot) or _name(session, slot)
            return TapInterfaceState(name=known, linktype=linktype, snaplen=snaplen)

        plan = TapPlan(
            id=secrets.token_hex(16),
            filter=request.filter,
            subject=self._subject(request.data, caller),
            credit=credit,
            duration_sec=request.duration_sec,
            closing=session.capture.closing,
            sealed=lambda: session.encryption is not None and not self.settings.while_sealed,
            name_of=described,
        )
        live = LiveTap(tap, plan, connection)
        self._open[plan.id] = _Open(live, caller, rate)
        self.counters.opened += 1
        self._share_rate()
        self._tasks.create_task(self._run(live, session, held, len(interfaces), caller))
        return TapReply(
            tap=plan.id,
            data=plan.subject,
            interfaces=[described(one.slot, one.linktype) for one, _ in interfaces],
            clock=TapClock(utc_ns=time.time_ns()),
            limits=TapLimits(
                credit=credit,
                window_max=TAP_WINDOW_MAX,
                rate_kbps=settings.rate // BYTES_PER_KBIT,
                snaplen=snaplen,
                duration_sec=request.duration_sec,
            ),
            lease_sec=LEASE_SEC,
        )

    def _subject(self, inbox: str, caller: Caller | None) -> str:
        """Returns the subject of the messages. The server names a caller of another account, which
        this host's messages reach only below `tapped`."""
        if caller is None or not TOKEN.fullmatch(caller.account):
            return f"{inbox}.{self._host}"
        nonce = inbox.rpartition(".")[2]
        return tapped_subject(self._root, caller.account, f"{nonce}.{self._host}")

    async def _run(
        self,
        live: LiveTap,
        session: Session,
        held: contextlib.AbstractContextManager[object],
        known: int,
        caller: Caller | None,
    ) -> None:
        """Runs the tap, and reports its end as an event."""
        reason: EndReason | None = None
        try:
            reason = await live.run(known)
        except Exception:
            self._log.exception("tap failed", tap=live.plan.id)
        finally:
            held.__exit__(None, None, None)
            self._open.pop(live.plan.id, None)
            self._share_rate()
            self._linger()
        sums = live.sums
        for total, more in ((self.counters.sent, sums.sent), (self.counters.lost, sums.lost)):
            total.packets += more.packets
            total.bytes += more.bytes
        data: dict[str, object] = {
            "tap": live.plan.id,
            "filter": live.plan.filter,
            "reason": reason or "failed",
            "packets_matched": sums.matched.packets,
            "packets_sent": sums.sent.packets,
            "packets_lost": sums.lost.packets,
            "bytes_sent": sums.sent.bytes,
        }
        if caller is not None:
            data["caller"] = caller.described()
        self._events.emit(
            "audit", "tap_ended", reason or "failed", session_id=session.id, data=data
        )

    # ---- open taps ------------------------------------------------------------------------------

    def control(self, rest: str, body: bytes, caller: Caller | None) -> None:
        """Executes `<id>.credit` or `<id>.stop`. Raises NotFound, PolicyDenied, MalformedRequest
        or InvalidRequest."""
        name, _, action = rest.partition(".")
        one = self._open.get(name)
        if one is None or action not in ("credit", "stop"):
            raise NotFound("No such tap is open on this host; it may have ended.")
        if one.caller is not None and caller != one.caller:
            raise PolicyDenied("Another caller opened this tap.")
        if action == "stop":
            one.live.end("stop")
        else:
            one.live.grant(envelope.decode(body, TapCredit, binary=False).bytes)

    def states(self) -> list[TapState]:
        return [one.live.state() for one in self._open.values()]

    def close(self) -> None:
        """Ends all taps and refuses new ones."""
        self._draining = True
        for one in self._open.values():
            one.live.end("drain")

    def reload(self, settings: TapSection) -> None:
        self.settings = settings
        self._share_rate()

    def _rate(self, asked: int, taps: int) -> int:
        """Returns a tap's share of the host's limit, in bytes per second; 0: no limit."""
        limit = self.settings.rate_kbps * BYTES_PER_KBIT // max(taps, 1)
        return min(asked, limit) if asked and limit else asked or limit

    def _share_rate(self) -> None:
        for one in self._open.values():
            one.live.set_rate(self._rate(one.rate, len(self._open)))

    # ---- the connection -------------------------------------------------------------------------

    async def _connected(self) -> Connection:
        """Returns the connection, which lasts until LINGER_SEC after the last tap."""
        if self._closing is not None:
            self._closing.cancel()
            self._closing = None
        if self._connection is None:
            self._connection = self._make_connection()
            self._connecting = self._tasks.create_task(_run_until_cancelled(self._connection))
        try:
            async with asyncio.timeout(CONNECT_SEC):
                await self._connection.wait_connected()
        except TimeoutError:
            raise BackendUnavailable(
                f"The connection for taps is {self._connection.trouble}."
            ) from None
        return self._connection

    def _linger(self) -> None:
        if self._open or self._opening or self._connecting is None or self._closing is not None:
            return
        self._closing = asyncio.get_running_loop().call_later(LINGER_SEC, self._disconnect)

    def _disconnect(self) -> None:
        self._closing = None
        if self._connecting is not None and not self._open and not self._opening:
            self._connecting.cancel()
            self._connection = self._connecting = None


async def _run_until_cancelled(connection: Connection) -> None:
    with contextlib.suppress(asyncio.CancelledError):
        await connection.run()


def _name(session: Session, slot: int) -> str:
    return next((one.name for one in session.capture.interface_stats() if one.slot == slot), "")


def _interfaces(session: Session, wanted: str) -> list[tuple[TapInterface, str]]:
    """Returns the interfaces that the tap copies from, with their names. Raises
    InvalidInterface."""
    patterns = [one.strip() for one in wanted.split(",") if one.strip()]
    found: list[tuple[TapInterface, str]] = []
    for one in session.capture.interface_stats():
        if patterns and not any(fnmatch.fnmatchcase(one.name, pattern) for pattern in patterns):
            continue
        if session.request.backend == "file":
            types = session.link_types
        else:
            types = link_types.of_interfaces([one.name])
        # An interface whose type is not known gets its number with its first packet.
        found.append((TapInterface(one.slot, types[0] if types else ETHERNET), one.name))
    if patterns and not found:
        raise InvalidInterface(
            f"The session captures no interface {wanted!r}.", field="$.interface"
        )
    return found


def _owner(process: str | int | None) -> OwnerMatch | None:
    if process is None:
        return None
    return OwnerMatch(pid=process) if isinstance(process, int) else OwnerMatch(process=process)


def _exclusion(server: str) -> str:
    """Returns a filter of the packets between the server and anyone else's connection that carry
    this tap: if the reader is on this host too, the tap would copy its own messages again."""
    host, _, port = server.rpartition(":")
    try:
        address = socket.getaddrinfo(host.strip("[]"), None, type=socket.SOCK_STREAM)[0][4][0]
    except OSError:
        return f"tcp port {port}"
    if _is_local(str(address)):
        return f"tcp port {port}"
    return f"host {address} and tcp port {port}"


def _is_local(address: str) -> bool:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((address, 0))
        except OSError:
            return False
    return True
