"""The audit trail: one event per request that changes something or that policy refuses.

Every success is audited. Failures and replays are limited to FAILURES_PER_SEC after a burst, so
that nobody can flood the event stream with refused requests. The next audited failure says how
many were suppressed.
"""

from __future__ import annotations

import time
from typing import Any

from nats.aio.msg import Msg

from ..errors import RequestError
from ..wire import envelope
from ..wire.envelope import Headers
from ..wire.events import EventLog
from .policy import Caller
from .rate_limit import RateLimit

REQUEST_BYTES_MAX = 4096
FAILURES_PER_SEC = 10.0
FAILURES_BURST = 100.0


class Audit:
    def __init__(self, events: EventLog) -> None:
        self._events = events
        self._failures = RateLimit(FAILURES_PER_SEC, FAILURES_BURST)
        self.suppressed = 0

    def note(
        self,
        verb: str,
        message: Msg,
        headers: Headers,
        caller: Caller | None,
        session_id: str | None,
        *,
        code: int,
        error: RequestError | None,
        replayed: bool,
    ) -> None:
        data: dict[str, Any] = {
            "verb": verb,
            "subject": message.subject,
            "reply_to": message.reply,
            "code": code,
            "replayed": replayed,
        }
        if error is not None or replayed:
            if not self._failures.take(1, time.monotonic()):
                self.suppressed += 1
                return
            if self.suppressed:
                data["suppressed"], self.suppressed = self.suppressed, 0
        if caller is not None:
            data["caller"] = caller.described()
        if headers.request_id:
            data["request_id"] = headers.request_id[: envelope.REQUEST_ID_MAX]
        if error is not None:
            data["error"] = error.error
        if len(message.data) <= REQUEST_BYTES_MAX and not headers.binary_body:
            data["request"] = message.data.decode(errors="replace")
        self._events.emit("audit", verb, f"answered with {code}", session_id=session_id, data=data)
