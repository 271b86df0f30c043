"""The `[policy]` table: the verbs that each caller may use, and the fields that it may see.

The NATS server names the caller in the header `Nats-Request-Info`, on requests that cross
accounts with `share`; it overwrites what a client sends. The agent believes the header only
with `[policy] identity = "server"`, which says that all requests pass such a server
(`netsonde nats setup` configures one). Without a table every caller may use every verb. With
identity "server", a request without a caller comes from JetStream and must not change anything.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec

from ..config.sections import (
    POLICY_ALL,
    POLICY_ANYONE,
    POLICY_DELETE_ALL,
    POLICY_FLEET,
    POLICY_READ,
    PolicySection,
)
from ..errors import PolicyDenied
from ..wire.verbs import Verb

IDENTITY_HEADER = "Nats-Request-Info"
NAME_MAX = 256


class _RequestInfo(msgspec.Struct):
    """The fields used here, as nats-server 2.15 sends them."""

    acc: str = ""
    name_tag: str = ""  # the account's name, where `acc` is its public key
    user: str = ""
    host: str = ""


@dataclass(frozen=True, slots=True)
class Caller:
    account: str
    user: str
    address: str

    def described(self) -> dict[str, str]:
        """Returns the caller's fields for the audit event."""
        return {"account": self.account, "user": self.user, "address": self.address}


class Policy:
    """`settings` is replaced when the configuration is read again."""

    def __init__(self, settings: PolicySection) -> None:
        self.settings = settings

    def identify(self, headers: Mapping[str, str] | None) -> Caller | None:
        """Returns the caller, or None if the server does not name one. Only the exact spelling
        of the header comes from the server; a client can send any other."""
        text = (headers or {}).get(IDENTITY_HEADER)
        if self.settings.identity != "server" or text is None:
            return None
        try:
            info = msgspec.json.decode(text.encode(), type=_RequestInfo)
        except (msgspec.DecodeError, UnicodeEncodeError):
            return None
        return Caller(
            (info.name_tag or info.acc)[:NAME_MAX], info.user[:NAME_MAX], info.host[:NAME_MAX]
        )

    def allows_policies(self) -> bool:
        """Returns whether a fleet policy may decide on the capture: as a caller with the name
        POLICY_FLEET would."""
        allow = self.settings.allow
        granted = allow.get(POLICY_FLEET, allow.get(POLICY_ANYONE, []))
        return not allow or POLICY_ALL in granted or "start" in granted

    def check(self, caller: Caller | None, verb: Verb) -> None:
        """Raises PolicyDenied. The user's entry decides, else the account's, else `*`. Without
        an entry nothing is allowed."""
        if caller is None and verb.changes and self.settings.identity == "server":
            raise PolicyDenied
        allow = self.settings.allow
        if not allow:
            return
        granted = _entry(allow, caller)
        if not (
            verb.name in granted
            or POLICY_ALL in granted
            or (POLICY_READ in granted and not verb.changes)
        ):
            raise PolicyDenied

    def deletes_all(self, caller: Caller | None) -> bool:
        """Returns whether the caller may delete packets that other callers requested."""
        granted = _entry(self.settings.allow, caller)
        return not self.settings.allow or POLICY_ALL in granted or POLICY_DELETE_ALL in granted

    def hidden(self, caller: Caller | None) -> frozenset[str]:
        """Returns what replies to the caller leave out: "name", "process"."""
        return frozenset(_entry(self.settings.hide, caller))


def _entry(table: Mapping[str, Sequence[str]], caller: Caller | None) -> Sequence[str]:
    """Returns the entry of the user, else of the account, else of `*`; else an empty one."""
    names = (caller.user, caller.account) if caller is not None else ()
    entry = next((table[name] for name in names if name in table and name), None)
    return table.get(POLICY_ANYONE, []) if entry is None else entry


def owner_of(caller: Caller | None) -> dict[str, str]:
    """Returns how an object names the caller that requested it; empty if no caller is known."""
    return {} if caller is None else {"account": caller.account, "user": caller.user}
