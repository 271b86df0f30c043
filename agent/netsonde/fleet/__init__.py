"""The controller's side: find hosts, send them requests, and change what they should capture.

This package is the public Python library. The names in `__all__` are stable: a later version may
add names and fields, and removes none without a new major version. docs/library.md explains them
with examples. Modules below this package, and names that are not listed, may change.

    async with fleet.connect("nats://127.0.0.1:4222") as client:
        hosts = await fleet.discover(client)
        async for result in client.stream("status", target=fleet.select("site = ams")):
            print(result.host, result)

Names are imported when they are first used, so that `import netsonde.fleet` is cheap.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..config.sections import NatsSection as Address
    from ..errors import NetsondeError, UnreachableError
    from ..wire.inventory import Facts, HostEntry, SessionSummary
    from ..wire.policy import Policy, Rollout
    from ..wire.requests import CaptureOptions
    from ..wire.selector import SelectorError
    from .changes import FleetState, apply, read_hosts, read_state, resume, rollback
    from .client import FleetClient, connect
    from .denied import DeniedError
    from .inventory import Host, Inventory, InventoryError, NoInventoryError
    from .listing import Listed, discover
    from .outcome import PACE, Outcome, Pace
    from .policies import PolicyFileError, PolicyStoreError, check_policies, read_policy_file
    from .results import Result
    from .rollout import HostState, PlanRow, Progress
    from .scatter import Absence, Reply
    from .tap import TapOptions, TapSession
    from .targeting import ALL, Limit, Target, TargetError, select

_MODULES = {
    "..config.sections": ("NatsSection",),
    "..errors": ("NetsondeError", "UnreachableError"),
    "..wire.inventory": ("Facts", "HostEntry", "SessionSummary"),
    "..wire.policy": ("Policy", "Rollout"),
    "..wire.requests": ("CaptureOptions",),
    "..wire.selector": ("SelectorError",),
    ".changes": ("FleetState", "apply", "read_hosts", "read_state", "resume", "rollback"),
    ".client": ("FleetClient", "connect"),
    ".denied": ("DeniedError",),
    ".inventory": ("Host", "Inventory", "InventoryError", "NoInventoryError"),
    ".listing": ("Listed", "discover"),
    ".outcome": ("PACE", "Outcome", "Pace"),
    ".policies": ("PolicyFileError", "PolicyStoreError", "check_policies", "read_policy_file"),
    ".results": ("Result",),
    ".rollout": ("HostState", "PlanRow", "Progress"),
    ".scatter": ("Absence", "Reply"),
    ".tap": ("TapOptions", "TapSession"),
    ".targeting": ("ALL", "Limit", "Target", "TargetError", "select"),
}
_HOMES = {name: module for module, names in _MODULES.items() for name in names}
_RENAMED = {"Address": "NatsSection"}

__all__ = [
    "ALL",
    "PACE",
    "Absence",
    "Address",
    "CaptureOptions",
    "DeniedError",
    "Facts",
    "FleetClient",
    "FleetState",
    "Host",
    "HostEntry",
    "HostState",
    "Inventory",
    "InventoryError",
    "Limit",
    "Listed",
    "NetsondeError",
    "NoInventoryError",
    "Outcome",
    "Pace",
    "PlanRow",
    "Policy",
    "PolicyFileError",
    "PolicyStoreError",
    "Progress",
    "Reply",
    "Result",
    "Rollout",
    "SelectorError",
    "SessionSummary",
    "TapOptions",
    "TapSession",
    "Target",
    "TargetError",
    "UnreachableError",
    "apply",
    "check_policies",
    "connect",
    "discover",
    "read_hosts",
    "read_policy_file",
    "read_state",
    "resume",
    "rollback",
    "select",
]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    defined = _RENAMED.get(name, name)
    value = getattr(import_module(_HOMES[defined], __name__), defined)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
