"""The responder: requests in from NATS, replies out, one task each.

Owns the subjects, the limits on requests in flight, Request-Id replay and the translation of
errors to the wire. Without queue groups, every host that hears a request answers. A request holds
its slot until its reply has left. Beyond the limits the reply is 429, or silence if the bus takes
no more. A request without a reply subject is executed and audited if it changes something, and
ignored otherwise. service/handlers.py executes the verbs, service/outbox.py sends the replies.
"""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import secrets
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

import msgspec
import structlog
from nats.aio.msg import Msg

from ..bus.connection import Connection, PayloadTooLargeError
from ..bus.nats_client import DROPPED_BODY
from ..errors import (
    Draining,
    InternalError,
    InvalidRequest,
    MalformedRequest,
    NameTaken,
    PathNotAllowed,
    PolicyDenied,
    ReplyTooLarge,
    RequestError,
    RequestExpired,
    TooManyRequests,
    UnknownVerb,
)
from ..wire import envelope
from ..wire.envelope import Headers
from ..wire.events import EventLog
from ..wire.replies import TapCreditReply
from ..wire.verbs import VERBS, Verb
from .audit import Audit
from .discovery import Discovery, EndpointStats
from .handlers import HANDLERS, Call, Done, Features
from .outbox import Outbox
from .policy import Caller, Policy, owner_of
from .rate_limit import RateLimit
from .replays import Replays, StoredReply

HANDLED_MAX = 512  # requests in handlers, or with a reply that has not left
HANDLED_OF_VERB_MAX = 256  # so that a flood of one verb leaves room for others
COSTLY_MAX = 8
RECEIVED_OF_VERB_MAX = 4096  # in the agent at once, with those that get 429
RECEIVED_BYTES_MAX = 32 << 20  # the bodies of those requests
# Reading, hashing and decoding large bodies takes milliseconds each; no honest request needs so
# many. The server cuts a client that reads too slowly, so the bodies above this rate are dropped
# as they arrive.
LARGE_BODY_BYTES_PER_SEC = 1 << 20
LARGE_BODY_BYTES_BURST = 8 << 20
TOO_MANY_LARGE = "Too many large request bodies; try again in a moment."
LARGE_BODY_AUDITS_PER_SEC = 20  # further refusals are not audited
TAP_PREFIX = "tap."  # subjects that control an open tap
REPLY_HEADROOM_BYTES = 4096  # for headers and the fields around a large array


@dataclass(frozen=True, slots=True)
class _Outcome:
    """The reply to a request, and its error for audit and statistics."""

    reply: StoredReply
    error: RequestError | None
    replayed: bool = False


@dataclass(slots=True)
class _Slot:
    """The share of the limits that a request holds until its reply has left."""

    handled: int = 0
    costly: int = 0


class Responder:
    def __init__(
        self,
        connection: Connection,
        features: Features,
        events: EventLog,
        discovery: Discovery,
        policy: Policy,
        tasks: asyncio.TaskGroup,
    ) -> None:
        self._connection = connection
        self._features = features
        self._audit = Audit(events)
        self.outbox = Outbox(connection)
        self._discovery = discovery
        self._policy = policy
        self._tasks = tasks
        self._root = discovery.identity.root
        self._host = discovery.identity.host
        self._replays = Replays()
        self._constant: dict[tuple[str, bool], bytes] = {}  # encoded bodies that never change
        self._running: set[asyncio.Task[None]] = set()
        self._running_bytes = 0
        self._large = RateLimit(LARGE_BODY_BYTES_PER_SEC, LARGE_BODY_BYTES_BURST)
        self._large_audits = RateLimit(LARGE_BODY_AUDITS_PER_SEC, LARGE_BODY_AUDITS_PER_SEC)
        self._received: Counter[str] = Counter()  # by verb
        self._handled_of: Counter[str] = Counter()
        self._handled = 0
        self._costly = 0
        self._log = structlog.get_logger()
        self.draining = False
        self.name_taken = False  # another agent of this name started first
        self._listen(discovery.identity.labels)
        connection.accepts = self._accepts
        connection.may_move = lambda: not self._running  # a reply belongs to a connection

    def _listen(self, labels: Mapping[str, str]) -> None:
        for verb in VERBS:
            self._connection.listen(f"{self._root}.{verb}", self._on_request)
        own = self._own_prefixes(labels)
        self._prefixes = own
        for prefix in own:
            self._connection.listen(f"{prefix}>", self._on_request)
        self._documents = self._discovery.subjects()
        for subject in self._documents:
            self._connection.listen(subject, self._on_discovery)

    def _accepts(self, subject: str, size: int) -> bool:
        """Returns whether the body of a large message is read. Replies to this agent are."""
        return not subject.startswith(f"{self._root}.") or self._large.take(size, time.monotonic())

    def statistics(self) -> dict[str, EndpointStats]:
        """Returns the statistics by verb, and those of unknown verbs as `unknown`."""
        return {**self._discovery.endpoints, "unknown": self._discovery.unknown}

    @property
    def in_flight(self) -> int:
        """Requests whose reply has not left."""
        return len(self._running)

    def set_name_taken(self, taken: bool) -> None:
        self.name_taken = taken

    def _own_prefixes(self, labels: Mapping[str, str]) -> tuple[str, ...]:
        groups = (f"{self._root}.group.{key}.{value}." for key, value in labels.items())
        return (f"{self._root}.host.{self._host}.", *groups)

    def rename(self, fqdn: str) -> None:
        """Changes the host name that service discovery shows to people."""
        self._discovery.identity = dataclasses.replace(self._discovery.identity, fqdn=fqdn)

    async def relabel(self, labels: Mapping[str, str]) -> None:
        """Changes the groups that this host receives, and its labels in service discovery."""
        own, before = self._own_prefixes(labels), self._prefixes
        self._discovery.identity = dataclasses.replace(self._discovery.identity, labels=labels)
        # Requests of a group that is left may still arrive, so both are known for a moment.
        self._prefixes = tuple(dict.fromkeys((*own, *before)))
        for prefix in own:
            if prefix not in before:
                await self._connection.listen_now(f"{prefix}>", self._on_request)
        for prefix in before:
            if prefix not in own:
                await self._connection.unlisten(f"{prefix}>")
        self._prefixes = own

    async def drain(self, timeout_sec: float) -> None:
        """Rejects new requests from now on; waits for those in flight."""
        self.draining = True
        self._features.sessions.filters.close()
        self._features.retrievals.close()
        self._features.firmware.close()
        self._features.taps.close()
        if self._running:
            await asyncio.wait(set(self._running), timeout=timeout_sec)

    # ---- from NATS -------------------------------------------------------------------------

    async def _on_discovery(self, message: Msg) -> None:
        reply_to = self._reply_to(message)
        if not reply_to:
            return
        if self.outbox.full:
            self.outbox.drop("the bus takes no more")
            return
        session = self._features.sessions.current
        counters = session.counters(session.capture.stats()) if session is not None else {}
        document = self._discovery.document(self._documents[message.subject], counters)
        await self.outbox.send(reply_to, msgspec.json.encode(document), {})

    async def _on_request(self, message: Msg) -> None:
        """Starts a task, so that a slow request does not block others."""
        if message.data is DROPPED_BODY and not self._large_audits.take(1, time.monotonic()):
            await self._refuse_large(message)
            return
        size, verb = len(message.data), self._verb_name(message.subject)
        if verb.startswith(TAP_PREFIX):
            await self._control_tap(message, verb.removeprefix(TAP_PREFIX))
            return
        verb = verb if verb in VERBS else ""
        if (
            self._received[verb] >= RECEIVED_OF_VERB_MAX
            or self._running_bytes + size > RECEIVED_BYTES_MAX
            or self.outbox.blocked
        ):
            self.outbox.drop("too many requests at once")
            return
        task = self._tasks.create_task(self._serve(message))
        self._running.add(task)
        self._running_bytes += size
        self._received[verb] += 1
        task.add_done_callback(lambda task: self._forget(task, verb, size))

    async def _control_tap(self, message: Msg, rest: str) -> None:
        """Executes the credit or the stop of an open tap at once: it costs microseconds, and a
        credit must not wait behind requests."""
        headers = Headers.of(message.headers)
        try:
            caller = self._policy.identify(message.headers)
            self._features.taps.control(rest, message.data, caller)
            done = envelope.encode(
                TapCreditReply(host=self._host, utc_ns=time.time_ns()), binary=False
            )
            sent = envelope.reply_headers(self._host, 200, headers.request_id, binary=False)
            outcome = _Outcome(StoredReply(done, sent), None)
        except RequestError as error:
            outcome = self._refused(error, headers)
        reply_to = self._reply_to(message)
        if reply_to and not self.outbox.full:
            await self._respond(reply_to, headers, outcome)

    async def _refuse_large(self, message: Msg) -> None:
        """Counts the request and replies with 429, no more: while such a flood lasts, the
        connection must be read."""
        error = TooManyRequests(TOO_MANY_LARGE)
        name = self._verb_name(message.subject)
        self._discovery.endpoints.get(name, self._discovery.unknown).count(0, error)
        reply_to = self._reply_to(message)
        if reply_to and not self.outbox.full:
            headers = Headers.of(message.headers)
            await self._respond(reply_to, headers, self._refused(error, headers))

    def _forget(self, task: asyncio.Task[None], verb: str, size: int) -> None:
        self._running.discard(task)
        self._received[verb] -= 1
        self._running_bytes -= size

    async def _serve(self, message: Msg) -> None:
        started_ns = time.monotonic_ns()
        name = self._verb_name(message.subject)
        verb = VERBS.get(name)
        reply_to = self._reply_to(message)
        if not reply_to and (verb is None or not verb.changes):
            return
        headers = Headers.of(message.headers)
        caller = self._policy.identify(message.headers)
        session_id = self._session_id()
        slot = _Slot()
        try:
            outcome = await self._settle(name, verb, message.data, headers, caller, slot)
            code = int(outcome.reply.headers["Status-Code"])
            stats = self._discovery.endpoints.get(name, self._discovery.unknown)
            stats.count(time.monotonic_ns() - started_ns, outcome.error, code)
            denied = isinstance(outcome.error, PolicyDenied | PathNotAllowed)
            if verb is not None and (verb.changes or denied):
                self._audit.note(
                    name,
                    message,
                    headers,
                    caller,
                    session_id or self._session_id(),
                    code=code,
                    error=outcome.error,
                    replayed=outcome.replayed,
                )
            if reply_to:
                await self._respond(reply_to, headers, outcome)
        finally:
            self._handled -= slot.handled
            if slot.handled:
                self._handled_of[name] -= slot.handled
            self._costly -= slot.costly

    def _reply_to(self, message: Msg) -> str:
        """Returns the reply subject, or "" for a reserved one (`$…`, the root): a caller must not
        make this host publish where the caller itself may not."""
        reply: str = message.reply
        return "" if reply.startswith((f"{self._root}.", "$")) else reply

    def _verb_name(self, subject: str) -> str:
        for prefix in self._prefixes:
            if subject.startswith(prefix):
                return subject[len(prefix) :]
        return subject[len(self._root) + 1 :]

    # ---- from request to outcome ---------------------------------------------------------------

    async def _settle(
        self,
        name: str,
        verb: Verb | None,
        body: bytes,
        headers: Headers,
        caller: Caller | None,
        slot: _Slot,
    ) -> _Outcome:
        """Turns every fault into a reply; raises only CancelledError."""
        replay_id = ""
        try:
            if verb is None:
                raise UnknownVerb(f"There is no verb {name!r}; `schema` lists them.")
            self._policy.check(caller, verb)
            if self.name_taken:
                raise NameTaken
            if body is DROPPED_BODY:
                raise TooManyRequests(TOO_MANY_LARGE)
            late = headers.late(datetime.now(UTC))
            if headers.request_id and not late:
                hidden = self._policy.hidden(caller)
                fingerprint = _fingerprint(name, body, headers, hidden)
                earlier = self._replays.find(headers.request_id, fingerprint, time.monotonic())
                if earlier is not None:
                    return _Outcome(await asyncio.shield(earlier), None, replayed=True)
                replay_id = headers.request_id
                self._replays.begin(replay_id, fingerprint, time.monotonic(), changes=verb.changes)
            outcome = await self._execute(verb, body, headers, caller, slot, late=late)
        except RequestError as error:
            outcome = self._refused(error, headers)
        except Exception:
            outcome = self._refused(self._incident(name), headers)
        if replay_id:
            self._replays.end(replay_id, outcome.reply)
        return outcome

    async def _execute(
        self,
        verb: Verb,
        body: bytes,
        headers: Headers,
        caller: Caller | None,
        slot: _Slot,
        *,
        late: bool,
    ) -> _Outcome:
        request = envelope.decode(body, verb.request, binary=headers.binary_body)
        if late:
            raise RequestExpired(describe_lateness(headers, datetime.now(UTC)))
        if self.draining:
            raise Draining
        self._take(slot, verb)
        call = Call(
            features=self._features,
            expires_at=headers.deadline,
            root=self._root,
            hidden=self._policy.hidden(caller),
            owner=owner_of(caller),
            deletes_all=self._policy.deletes_all(caller),
            binary=headers.binary_reply,
            reply_bytes_max=self._connection.max_payload - REPLY_HEADROOM_BYTES,
            caller=caller,
        )
        done = await HANDLERS[verb.name](call, request)
        payload = self._encoded(verb, done, binary=headers.binary_reply)
        sent = envelope.reply_headers(
            self._host, done.code, headers.request_id, binary=headers.binary_reply
        )
        return _Outcome(StoredReply(payload, sent), None)

    def _take(self, slot: _Slot, verb: Verb) -> None:
        """Raises TooManyRequests."""
        if (
            self.outbox.full
            or self._handled >= HANDLED_MAX
            or self._handled_of[verb.name] >= HANDLED_OF_VERB_MAX
            or (verb.costly and self._costly >= COSTLY_MAX)
        ):
            raise TooManyRequests
        slot.handled, slot.costly = 1, int(verb.costly)
        self._handled += slot.handled
        self._handled_of[verb.name] += slot.handled
        self._costly += slot.costly

    def _encoded(self, verb: Verb, done: Done, *, binary: bool) -> bytes:
        earlier = self._constant.get((verb.name, binary)) if done.constant else None
        if earlier is not None:
            return earlier
        done.body.host = self._host
        payload = envelope.encode(done.body, binary=binary)
        if done.constant:
            self._constant[verb.name, binary] = payload
        return payload

    def _refused(self, error: RequestError, headers: Headers) -> _Outcome:
        body = envelope.error_reply(error)
        body.host = self._host
        sent = envelope.reply_headers(
            self._host, error.code, headers.request_id, binary=headers.binary_reply
        )
        sent |= envelope.error_headers(error)
        payload = envelope.encode(body, binary=headers.binary_reply)
        rejected = isinstance(error, TooManyRequests | Draining | NameTaken)
        malformed = isinstance(error, InvalidRequest | MalformedRequest)
        return _Outcome(StoredReply(payload, sent, keep=not rejected, light=malformed), error)

    def _incident(self, name: str) -> InternalError:
        incident = secrets.token_hex(6)
        self._log.exception("request failed", verb=name, incident=incident)
        return InternalError(f"Internal error; see incident {incident} in the agent's log.")

    # ---- to NATS ---------------------------------------------------------------------------------

    async def _respond(self, subject: str, headers: Headers, outcome: _Outcome) -> None:
        sent = dict(outcome.reply.headers)
        if outcome.replayed:
            sent["Replayed"] = "true"
        try:
            await self.outbox.send(subject, outcome.reply.payload, sent)
        except PayloadTooLargeError as error:
            refused = self._refused(ReplyTooLarge(error.detail), headers).reply
            await self.outbox.send(subject, refused.payload, refused.headers)

    def _session_id(self) -> str | None:
        session = self._features.sessions.current
        return session.id if session is not None else None


def _fingerprint(name: str, body: bytes, headers: Headers, hidden: frozenset[str]) -> bytes:
    """Hashes verb, body and hidden fields. An empty body equals the empty object."""
    kind, empty = (b"msgpack", b"\x80") if headers.binary_body else (b"json", b"{}")
    shown = ",".join(sorted(hidden)).encode()
    return hashlib.sha256(b"\0".join((name.encode(), kind, shown, body or empty))).digest()


def describe_lateness(headers: Headers, now: datetime) -> str:
    """Returns a sentence with the difference to this host's clock, which may be wrong."""
    late_sec = (now - headers.deadline).total_seconds() if headers.deadline is not None else 0.0
    return (
        f"The request expired {max(late_sec, 0.0):.1f} s ago by this host's clock, which is at "
        f"{now:%Y-%m-%dT%H:%M:%SZ}. Send a new request. If that fails too, the clock of this host "
        "is ahead of the client's: correct the clocks."
    )
