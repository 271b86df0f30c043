"""Requests for export over the bus, and checks of the exported datagrams."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bus import Bus
from collectors import HOST
from netsonde.core.ipfix import ExportDecoder
from packets import SECOND_NS, UDP, Packet, at, ethernet, ipv4, udp

START_NS = 1_767_225_600 * SECOND_NS
FLOWS = 400


def conversations(count: int = FLOWS, *, first: int = 0) -> list[Packet]:
    """Returns packets of distinct flows, one packet each, 1 ms apart."""
    made = []
    for number in range(first, first + count):
        source = f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"
        made.append(ethernet(ipv4(udp(bytes(20), 4000, 53), UDP, source, "10.200.0.1")))
    return [at(START_NS + n * 1_000_000, frame) for n, frame in enumerate(made)]


def allow_ipv6(interface: str) -> None:
    Path(f"/proc/sys/net/ipv6/conf/{interface}/disable_ipv6").write_text("0")


def collector(port: int, version: int = 10, *, ip: str = HOST, **more: Any) -> dict[str, Any]:
    return {"collector_ip": ip, "collector_port": port, "version": version, **more}


async def exported(bus: Bus) -> list[dict[str, Any]]:
    export = (await bus.ok("status"))["export"]
    return list(export["collectors"]) if export else []


def lost(one: dict[str, Any]) -> int:
    return int(sum(one["records_lost"].values()))


def decoded(datagrams: list[bytes]) -> tuple[int, int]:
    """Returns (flow records, sets with an unknown template)."""
    decoder = ExportDecoder()
    flows = unknown = 0
    for data in datagrams:
        message = decoder.decode(0, data)
        assert message is not None
        assert message.malformed == 0
        unknown += message.sets_unknown
        flows += sum(b'"source_ip"' in line for line in message.text.splitlines())
    return flows, unknown
