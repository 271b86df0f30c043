"""The sentence for a subject that nats-server denies to this login.

A denied message is never delivered, so waiting for a reply is useless. The commands end at once
and name the subject, the role of roles.py that may use it, and how to get a key with that role.
"""

from __future__ import annotations

import re

from ..bus.nats_client import PermissionDeniedError
from ..errors import NetsondeError
from .roles import STREAMS, Role, request_subjects

_DOMAIN = re.compile(r"^\$JS\.[^.]+\.API\.")

# From the role with the fewest rights.
_ROLES: tuple[Role, ...] = ("collector", "operator", "controller")


class DeniedError(NetsondeError):
    """nats-server's permissions deny a subject that the command needs."""

    def __init__(self, denial: PermissionDeniedError, root: str) -> None:
        super().__init__(explain_denial(denial, root))
        self.subject = denial.subject


def explain_denial(denial: PermissionDeniedError, root: str) -> str:
    verb = "publish" if denial.kind == "publish" else "subscribe"
    text = f"The server's permissions do not let this login {verb} to {denial.subject}."
    role = role_for(denial, root)
    if role == STREAMS:
        return (
            f"{text} Use the key {STREAMS}.nk, which `netsonde nats setup --jetstream DIR` writes."
        )
    if role is None:
        return f"{text} No role of `netsonde nats setup` includes it."
    return (
        f"{text} The role {role} may. To get a key with this role: `netsonde nats setup "
        f"--{role} NAME …`, then --nkey FILE."
    )


def role_for(denial: PermissionDeniedError, root: str) -> str | None:
    """Returns the role with the fewest rights that includes the subject; None without one."""
    if denial.kind == "subscribe":
        allowed = (f"{root}.stream.>", "_INBOX.>")
        return _ROLES[0] if any(covers(one, denial.subject) for one in allowed) else None
    subject = _DOMAIN.sub("$JS.API.", denial.subject)
    for role in _ROLES:
        patterns = [*request_subjects(root, role), *_stored(role)]
        if any(covers(pattern, subject) for pattern in patterns):
            return role
    if subject.startswith(("$JS.API.", "$O.")):
        return STREAMS
    return None


def _stored(role: Role) -> tuple[str, ...]:
    if role == "collector":
        return ("$JS.API.CONSUMER.INFO.*.*", "$JS.API.CONSUMER.MSG.NEXT.*.*", "$JS.ACK.>")
    return ("$JS.API.DIRECT.GET.>",) if role == "controller" else ()


def covers(pattern: str, subject: str) -> bool:
    """Returns whether a NATS pattern includes the subject."""
    wanted, given = pattern.split("."), subject.split(".")
    for index, part in enumerate(wanted):
        if part == ">":
            return len(given) > index
        if index >= len(given) or part not in ("*", given[index]):
            return False
    return len(wanted) == len(given)
