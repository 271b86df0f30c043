"""The target of a request: named hosts, one group, or all hosts.

Turns command-line options into subjects and host lists, without I/O to NATS. Host names become
host tokens here, so `--host Web1.example` finds the agent `web1_example`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from ..config.sections import host_token
from ..errors import EXIT_USAGE, NetsondeError

NODES_BYTES_MAX = 8 << 20
TOKEN = re.compile(r"[a-z0-9_-]+\Z")


class TargetError(NetsondeError):
    """The command line has an invalid choice of hosts."""

    exit_code: ClassVar[int] = EXIT_USAGE


@dataclass(frozen=True, slots=True)
class Target:
    """Named hosts or a group; all hosts if both are unset."""

    hosts: tuple[str, ...] = ()
    group: tuple[str, str] | None = None

    def subject(self, root: str, verb: str) -> str:
        """Returns the subject of the group or of all hosts."""
        if self.hosts:
            raise ValueError("each named host has its own subject")
        if self.group is not None:
            return f"{root}.group.{self.group[0]}.{self.group[1]}.{verb}"
        return f"{root}.{verb}"

    def describe(self) -> str:
        if self.hosts:
            return ", ".join(self.hosts)
        return f"group {self.group[0]}={self.group[1]}" if self.group else "all hosts"


def host_subject(root: str, host: str, verb: str) -> str:
    return f"{root}.host.{host}.{verb}"


def parse_group(text: str) -> tuple[str, str]:
    """Parses `site=ams` to ("site", "ams")."""
    key, separator, value = text.partition("=")
    if not separator or not TOKEN.match(key) or not TOKEN.match(value):
        raise TargetError(f"--group must be key=value of a-z, 0-9, '_' and '-', not {text!r}.")
    return key, value


def parse_hosts(names: Iterable[str]) -> tuple[str, ...]:
    """Returns the host tokens in the given order, without duplicates."""
    tokens: dict[str, None] = {}
    for name in names:
        if not name.strip():
            raise TargetError("A host name is empty.")
        tokens[host_token(name.strip())] = None
    return tuple(tokens)


def read_nodes(lines: Iterable[str]) -> list[str]:
    """Returns the host names of a nodes file: one per line, `#` starts a comment."""
    return [name for line in lines if (name := line.partition("#")[0].strip())]


def read_nodes_file(path: str) -> list[str]:
    try:
        with Path(path).open("rb") as file:
            content = file.read(NODES_BYTES_MAX + 1)
        text = content.decode()
    except (OSError, UnicodeDecodeError) as error:
        raise TargetError(f"The nodes file {path} cannot be read: {error}.") from error
    if len(content) > NODES_BYTES_MAX:
        raise TargetError(f"The nodes file {path} is larger than {NODES_BYTES_MAX >> 20} MiB.")
    names = read_nodes(text.splitlines())
    if not names:
        raise TargetError(f"The nodes file {path} contains no host name.")
    return names


def parse_target(hosts: Sequence[str], group: str | None, nodes: str | None) -> Target:
    """Returns the target of --host, --group and --nodes."""
    names = [*hosts, *(read_nodes_file(nodes) if nodes is not None else [])]
    if names and group is not None:
        raise TargetError("Name either hosts (--host, --nodes) or a --group, not both.")
    if group is not None:
        return Target(group=parse_group(group))
    return Target(hosts=parse_hosts(names))


@dataclass(frozen=True, slots=True)
class Limit:
    """A maximum number or percentage of hosts."""

    count: int
    percent: bool = False

    def apply(self, hosts: Sequence[str]) -> tuple[str, ...]:
        """Returns the first hosts by name, so the choice is stable. A percentage rounds up: the
        result has at least one host."""
        count = -(-len(hosts) * self.count // 100) if self.percent else self.count
        return tuple(sorted(hosts)[:count])


def parse_limit(text: str) -> Limit:
    """Parses `20` or `10%`."""
    digits = text.removesuffix("%")
    limit = Limit(int(digits), text.endswith("%")) if re.fullmatch(r"[0-9]{1,9}", digits) else None
    if limit is None or limit.count < 1 or (limit.percent and limit.count > 100):
        raise TargetError(f"--limit must be a number of hosts or 1% to 100%, not {text!r}.")
    return limit
