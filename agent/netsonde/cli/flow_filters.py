"""The filters of `netsonde flows`: options, the request's `filter`, and the same test for records.

A record is tested as the agent tests an active flow (native/flow/list.c, owner_match.c).
"""

from __future__ import annotations

import ipaddress
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from pathlib import PurePosixPath
from typing import Any

from .requests import whole

FIELDS = ("ip", "port", "protocol", "name", "unit", "container", "pod", "process")


def add_filter_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--ip", type=address, help="source or destination address or network")
    parser.add_argument("--port", type=whole(0, 65_535), help="source or destination port")
    parser.add_argument("--protocol", metavar="P", help="TCP, UDP, ICMP, … or a number")
    parser.add_argument("--name", metavar="GLOB", help="name that the client asked for")
    parser.add_argument("--unit", metavar="GLOB", help="systemd unit of an end on this host")
    parser.add_argument("--container", metavar="ID", help="its container, or the id's first part")
    parser.add_argument("--pod", metavar="UID", help="its Kubernetes pod")
    parser.add_argument("--process", type=process, metavar="GLOB|PID", help="its process")
    parser.add_argument("--not-ip", type=address, metavar="IP", help="leave these flows out")
    parser.add_argument("--not-port", type=whole(0, 65_535), metavar="PORT")
    parser.add_argument("--not-protocol", metavar="P")
    parser.add_argument("--not-name", metavar="GLOB")
    parser.add_argument("--not-unit", metavar="GLOB")
    parser.add_argument("--not-container", metavar="ID")
    parser.add_argument("--not-pod", metavar="UID")
    parser.add_argument("--not-process", type=process, metavar="GLOB|PID")


def address(text: str) -> str:
    try:
        if "/" in text:
            return str(ipaddress.ip_network(text, strict=False))
        return str(ipaddress.ip_address(text))
    except ValueError:
        raise ArgumentTypeError(f"{text!r} is not an IP address or network") from None


def process(text: str) -> str | int:
    return int(text) if text.isascii() and text.isdecimal() else text


def filter_body(args: Namespace) -> dict[str, Any] | None:
    """Returns the request's `filter`, or None if the arguments select all flows."""
    wanted, excluded = _wanted(args, ""), _wanted(args, "not_")
    return wanted | ({"not": excluded} if excluded else {}) or None


def _wanted(args: Namespace, prefix: str) -> dict[str, Any]:
    values = {field: getattr(args, prefix + field) for field in FIELDS}
    return {field: value for field, value in values.items() if value is not None}


def matches(record: Mapping[str, Any], args: Namespace) -> bool:
    """Applies the filter to a record. A record without the field does not match."""
    excluded = _wanted(args, "not_")
    if not _matches_all(record, _wanted(args, "")):
        return False
    if excluded and _matches_all(record, excluded):
        return False
    return args.min_packets is None or record.get("packets", 0) >= args.min_packets


def _matches_all(record: Mapping[str, Any], wanted: dict[str, Any]) -> bool:
    owner = {field: wanted[field] for field in OWNER_TESTS if field in wanted}
    if owner and not any(_owns(record.get(end), owner) for end in ("process", "peer_process")):
        return False
    return all(test(record, wanted[field]) for field, test in TESTS.items() if field in wanted)


def _owns(found: Any, wanted: dict[str, Any]) -> bool:
    return isinstance(found, dict) and all(
        OWNER_TESTS[field](found, value) for field, value in wanted.items()
    )


def _has_ip(record: Mapping[str, Any], wanted: str) -> bool:
    network = ipaddress.ip_network(wanted, strict=False)
    found = (record.get("source_ip"), record.get("dest_ip"))
    return any(ipaddress.ip_address(ip) in network for ip in found if ip is not None)


def _has_port(record: Mapping[str, Any], wanted: int) -> bool:
    return wanted in (record.get("source_port"), record.get("dest_port"))


def _has_protocol(record: Mapping[str, Any], wanted: str) -> bool:
    return wanted.lower() in (
        record.get("protocol", "").lower(),
        str(record.get("protocol_number")),
    )


def _fits(text: str | None, pattern: str) -> bool:
    return bool(text) and fnmatchcase(str(text).lower(), pattern.lower())


def _has_unit(owner: Mapping[str, Any], pattern: str) -> bool:
    unit = owner.get("unit") or ""
    return _fits(unit, pattern) or (
        unit.endswith(".service") and _fits(unit.removesuffix(".service"), pattern)
    )


def _has_container(owner: Mapping[str, Any], wanted: str) -> bool:
    found = (owner.get("container") or "").lower()
    return _fits(found, wanted) or (bool(found) and found.startswith(wanted.lower()))


def _is_process(owner: Mapping[str, Any], wanted: str | int) -> bool:
    if isinstance(wanted, int):
        return owner.get("pid") == wanted
    program = PurePosixPath(owner.get("exe") or "").name
    return _fits(owner.get("name"), wanted) or _fits(program, wanted)


Test = Callable[[Mapping[str, Any], Any], bool]

TESTS: dict[str, Test] = {
    "ip": _has_ip,
    "port": _has_port,
    "protocol": _has_protocol,
    "name": lambda record, pattern: _fits(record.get("name"), pattern),
}
OWNER_TESTS: dict[str, Test] = {
    "unit": _has_unit,
    "container": _has_container,
    "pod": lambda owner, pattern: _fits(owner.get("pod"), pattern),
    "process": _is_process,
}
