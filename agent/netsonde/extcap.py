"""The Wireshark plug-in: describes its interface, and captures live packets of hosts.

Wireshark and tshark run it at every start, to list interfaces and their options. This module
answers that without NATS and without loading the rest of the package. See docs/wireshark.md.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from types import SimpleNamespace
from typing import NamedTuple

INTERFACE = "netsonde"
HOSTS = "--hosts"
EXIT_USAGE = 2

INTERFACES = (
    "extcap {version=0.1}{display=netsonde}",
    "interface {value=netsonde}{display=netsonde: live packets of hosts}",
    "control {number=0}{type=button}{role=logger}{display=Log}{tooltip=Losses; hosts that end}",
)
# Each packet has the link type of its interface. Wireshark requires one for the whole capture.
LINK_TYPES = ("dlt {number=1}{name=EN10MB}{display=Ethernet}",)


class Field(NamedTuple):
    """A field of Wireshark's dialog, and the option that carries its value. limits: lowest and
    highest number, for a field of numbers. more: further attributes."""

    call: str
    display: str
    group: str
    tooltip: str
    limits: tuple[int, int] | None = None
    default: int | None = None
    kind: str = "string"
    more: str = ""

    def sentence(self, number: int) -> str:
        text = f"arg {{number={number}}}{{call={self.call}}}{{display={self.display}}}"
        text += f"{{type={'unsigned' if self.limits else self.kind}}}"
        if self.limits:
            text += f"{{range={self.limits[0]},{self.limits[1]}}}"
        if self.default is not None:
            text += f"{{default={self.default}}}"
        return f"{text}{{tooltip={self.tooltip}}}{{group={self.group}}}{self.more}"

    def read(self, text: str) -> str | int | None:
        """Reads a value. Empty text means the default. Raises ValueError."""
        if self.limits is None:
            return text
        if not text:
            return self.default
        low, high = self.limits
        if not text.isdecimal() or not low <= int(text) <= high:
            raise ValueError(f"{self.display}: {text} is not a number from {low} to {high}")
        return int(text)


FIELDS = (
    Field("--nats", "NATS server", "Server", "URL; empty: NATS_URL or the configuration"),
    Field("--nkey", "NKey", "Server", "File with the client's NKey", kind="fileselect"),
    Field("--creds", "Credentials", "Server", "NATS credentials file", kind="fileselect"),
    Field(
        "--config", "Configuration", "Server", "File with a section [nats], for example with TLS",
        kind="fileselect",
    ),
    Field(
        HOSTS, "Hosts", "Hosts", "One host or all",
        kind="selector", more="{reload=true}{placeholder=Load hosts}",
    ),
    Field("--group", "Label", "Hosts", "Hosts with this label, for example site=ams"),
    Field("--select", "Selector", "Hosts", "For example: site = ams and host ~ web*"),
    Field("--iface", "Interfaces", "Hosts", "Names and patterns, separated by commas; empty: all"),
    Field("--snaplen", "Bytes of each packet", "Limits", "0: whole packets", (0, 262_144), 256),
    Field("--duration", "Seconds", "Limits", "The capture ends then", (1, 3600), 300),
    Field(
        "--rate-kbps", "Rate of each host (kbit/s)", "Limits", "Empty: the limit of the host",
        (1, 10_000_000),
    ),
    Field(
        "--reorder-ms", "Wait for a slow host (ms)", "Limits", "To write packets in order of time",
        (0, 60_000), 1000,
    ),
    Field(
        "--window-kib", "Window of each host (KiB)", "Limits", "Sent ahead of the reader",
        (64, 4096), 1024,
    ),
)  # fmt: skip
HOSTS_NUMBER = [field.call for field in FIELDS].index(HOSTS)


def describe_fields() -> list[str]:
    lines = [field.sentence(number) for number, field in enumerate(FIELDS)]
    return [*lines, *describe_hosts()]


def describe_hosts(hosts: Sequence[str] = ()) -> list[str]:
    """Returns the values of the field `Hosts`."""
    arg = f"value {{arg={HOSTS_NUMBER}}}"
    lines = [f"{arg}{{value={host}}}{{display={host}}}" for host in hosts]
    return [f"{arg}{{value=}}{{display=All hosts}}{{default=true}}", *lines]


FLAGS = ("--capture", "--extcap-interfaces", "--extcap-dlts", "--extcap-config")
OPTIONS = (
    *("--fifo", "--extcap-interface", "--extcap-capture-filter", "--extcap-reload-option"),
    *("--extcap-control-in", "--extcap-control-out", *(field.call for field in FIELDS)),
)


def attribute(option: str) -> str:
    return option.removeprefix("--").replace("-", "_")


def read_words(words: Sequence[str]) -> SimpleNamespace:
    """Reads the command line. Unlike argparse, accepts values that begin with a dash, and options
    of later versions of Wireshark. An option that is absent is None, a flag False."""
    args = SimpleNamespace(**dict.fromkeys(map(attribute, FLAGS), False))
    args.__dict__.update(dict.fromkeys(map(attribute, OPTIONS)))
    left = iter(words)
    for word in left:
        name, equals, value = word.partition("=")
        if word in FLAGS:
            setattr(args, attribute(word), True)
        elif name in OPTIONS:
            setattr(args, attribute(name), value if equals else next(left, ""))
    return args


def read_fields(args: SimpleNamespace) -> str:
    """Reads the values of all fields. Returns what is wrong with one of them."""
    try:
        for field in FIELDS:
            name = attribute(field.call)
            setattr(args, name, field.read(getattr(args, name) or ""))
    except ValueError as error:
        return str(error)
    return ""


def main(words: Sequence[str] | None = None) -> int:
    parent = os.getppid()
    args = read_words(sys.argv[1:] if words is None else words)
    if args.extcap_interfaces:
        lines: Sequence[str] = INTERFACES
    elif args.extcap_interface != INTERFACE:
        lines = ()
    elif args.extcap_dlts:
        lines = LINK_TYPES
    elif args.extcap_config and args.extcap_reload_option is None:
        lines = describe_fields()
    else:
        from .cli.live_capture import run  # loads the rest of the package

        args.fault = read_fields(args)
        return run(args, parent, describe_hosts)
    if not lines:
        sys.stderr.write("Wireshark and tshark run this program; see netsonde extcap --help.\n")
        return EXIT_USAGE
    sys.stdout.write("\n".join(lines) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
