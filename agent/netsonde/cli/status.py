"""`netsonde status`: shows the capture session of each targeted host."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .requests import add_client_arguments, ask_fleet
from .tables import Cell, duration

if TYPE_CHECKING:
    from ..fleet.scatter import Reply


class StatusCommand:
    """Show the capture session of hosts."""

    name = "status"

    def add_arguments(self, parser: ArgumentParser) -> None:
        add_client_arguments(parser)

    def run(self, args: Namespace) -> int:
        columns = [
            "HOST",
            "STATE",
            "INTERFACE",
            "BACKEND",
            "PACKETS",
            "DROPPED",
            "FLOWS",
            "METERING",
            "BUFFER %",
            "UPTIME",
        ]
        return ask_fleet(args, "status", {}, columns, describe_status)


def describe_status(reply: Reply) -> Sequence[Sequence[Cell]]:
    body = reply.body
    metering = body.get("metering") or {}
    interfaces = body.get("interfaces") or []
    return [
        (
            reply.host,
            describe_state(body),
            body["interface"] or "-",
            body["backend"] or "-",
            body["packets_captured"],
            body["packets_dropped"],
            body.get("active_flows", 0),
            "on" if metering.get("enabled") else "off",
            float(body["buffer_usage_percent"]),
            duration(body["uptime_sec"]),
        ),
        *(describe_interface(reply.host, one) for one in interfaces if len(interfaces) > 1),
    ]


def describe_interface(host: str, one: dict[str, Any]) -> Sequence[Cell]:
    state = "up" if one["link_up"] else "link down"
    return (
        host,
        state if one["captured"] else "removed",
        f"- {one['name']}",
        "",
        one["packets_captured"],
        one["packets_dropped"],
        *("", "", "", ""),
    )


def describe_state(body: dict[str, object]) -> str:
    if not body["running"]:
        return "waiting" if "wanted" in body else "no session"
    if body.get("finished"):
        return "finished"
    return "running" if body.get("link_up", True) else "link down"
