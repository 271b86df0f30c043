"""Who asks, and what this host lets them ask: the `[policy]` table.

The caller is told by the NATS server, in a header that it writes over whatever the client
sent (`Nats-Request-Info`, on requests that cross accounts with `share`). It is believed only
where `[policy] identity = "server"` says that every way to this host leads through such a
server; `netsonde nats setup` writes one. Otherwise all callers are nobody in particular.
Without a table every caller may use every verb; but where the server names callers, a request
without a name comes from no client (from JetStream, which answers to any subject it is told to),
and so changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

from ..config.sections import POLICY_ALL, POLICY_ANYONE, POLICY_READ, PolicySection
from ..errors import PolicyDenied
from ..wire.verbs import Verb

IDENTITY_HEADER = "Nats-Request-Info"
NAME_MAX = 256


class _RequestInfo(msgspec.Struct):
    """What nats-server 2.15 puts into the header; the rest of it is of no use here."""

    acc: str = ""
    user: str = ""
    host: str = ""


@dataclass(frozen=True, slots=True)
class Caller:
    account: str
    user: str
    address: str

    def described(self) -> dict[str, str]:
        """For the audit event."""
        return {"account": self.account, "user": self.user, "address": self.address}


class Policy:
    """`settings` is replaced when the configuration is read again."""

    def __init__(self, settings: PolicySection) -> None:
        self.settings = settings

    def identify(self, headers: Mapping[str, str] | None) -> Caller | None:
        """None: nobody vouches for the caller. Only the header in its exact spelling is the
        server's; a client can send it in any other."""
        text = (headers or {}).get(IDENTITY_HEADER)
        if self.settings.identity != "server" or text is None:
            return None
        try:
            info = msgspec.json.decode(text.encode(), type=_RequestInfo)
        except (msgspec.DecodeError, UnicodeEncodeError):
            return None
        return Caller(info.acc[:NAME_MAX], info.user[:NAME_MAX], info.host[:NAME_MAX])

    def check(self, caller: Caller | None, verb: Verb) -> None:
        """Raises PolicyDenied. The most exact entry decides: the user's, else the account's,
        else that of anyone; without one of them nothing is allowed."""
        if caller is None and verb.changes and self.settings.identity == "server":
            raise PolicyDenied
        allow = self.settings.allow
        if not allow:
            return
        names = (caller.user, caller.account) if caller is not None else ()
        entry = next((allow[name] for name in names if name in allow and name), None)
        granted = allow.get(POLICY_ANYONE, []) if entry is None else entry
        if not (
            verb.name in granted
            or POLICY_ALL in granted
            or (POLICY_READ in granted and not verb.changes)
        ):
            raise PolicyDenied
