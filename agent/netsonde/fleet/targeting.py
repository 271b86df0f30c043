"""The target of a request: named hosts, hosts with some labels, or all hosts.

Turns command-line options into subjects and host lists, without I/O to NATS. Host names become
host tokens here, so `--host Web1.example` finds the agent `web1_example`. An inventory file
names the hosts that should reply, one per line, each with its labels.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import ClassVar

from ..config.sections import host_token
from ..errors import EXIT_USAGE, NetsondeError
from ..wire.inventory import Chosen
from ..wire.selector import Selector, parse

NODES_BYTES_MAX = 8 << 20
TOKEN = re.compile(r"[a-z0-9_-]+\Z")


class TargetError(NetsondeError):
    """The command line has an invalid choice of hosts."""

    exit_code: ClassVar[int] = EXIT_USAGE


Group = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Target:
    """Named hosts, or the hosts that match all of `patterns`, `groups` and `select`; all hosts
    without any. A host needs to match one pattern and every group. exclude: names and patterns.
    inventory: the labels of each host that should reply; None without a file."""

    hosts: tuple[str, ...] = ()
    groups: tuple[Group, ...] = ()
    exclude: frozenset[str] = frozenset()
    inventory: Mapping[str, Mapping[str, str]] | None = None
    patterns: tuple[str, ...] = ()
    select: Selector | None = None

    @property
    def expected(self) -> tuple[str, ...] | None:
        """The hosts that should reply; None if only discovery knows them."""
        if self.hosts:
            return tuple(host for host in self.hosts if self.includes(host))
        if self.inventory is None:
            return None
        return tuple(host for host in self.inventory if self.matches(host, self.inventory[host]))

    @property
    def one_subject(self) -> bool:
        """Whether one subject reaches exactly the target."""
        chosen = self.hosts or self.exclude or self.patterns or self.select
        return not chosen and len(self.groups) <= 1

    @property
    def by_label(self) -> bool:
        """Whether labels or facts choose the hosts."""
        return not self.hosts and bool(self.groups or self.select)

    def includes(self, host: str) -> bool:
        """Returns whether the name belongs to the target, whatever the labels."""
        if any(fnmatchcase(host, pattern) for pattern in self.exclude):
            return False
        return not self.patterns or any(fnmatchcase(host, one) for one in self.patterns)

    def matches(
        self, host: str, labels: Mapping[str, str], facts: Mapping[str, object] | None = None
    ) -> bool:
        if not self.includes(host):
            return False
        if self.select is not None and not self.select.matches(Chosen(host, labels, facts or {})):
            return False
        return all(labels.get(key) == value for key, value in self.groups)

    def subject(self, root: str, verb: str) -> str:
        """Returns the subject of the group or of all hosts."""
        if not self.one_subject:
            raise ValueError("each host has its own subject")
        if self.groups:
            return f"{root}.group.{self.groups[0][0]}.{self.groups[0][1]}.{verb}"
        return f"{root}.{verb}"

    def describe(self) -> str:
        parts = [", ".join(self.hosts or self.patterns)]
        if self.groups:
            parts.append("group " + " and ".join("=".join(group) for group in self.groups))
        if self.select is not None:
            parts.append(f"hosts with {self.select}")
        return ", ".join(filter(None, parts)) or "all hosts"


ALL = Target()


def select(
    expression: str | None = None,
    *,
    hosts: Sequence[str] = (),
    groups: Sequence[str] = (),
    exclude: Collection[str] = (),
) -> Target:
    """Returns a target: the hosts that match the selector and have all labels of `groups`.

    expression: such as `site in (ams, fra) and fact.kernel >= 6.1`. hosts: names, or patterns such
    as `web*`. groups: labels such as `site=ams`. exclude: names and patterns. Without any: all
    hosts. Names and labels cannot be combined. Raises TargetError, SelectorError.
    """
    return parse_target(hosts, groups, None, exclude=exclude, select=expression)


def host_subject(root: str, host: str, verb: str) -> str:
    return f"{root}.host.{host}.{verb}"


def parse_group(text: str, what: str = "--group") -> Group:
    """Parses `site=ams` to ("site", "ams")."""
    key, separator, value = text.partition("=")
    if not separator or not TOKEN.match(key) or not TOKEN.match(value):
        raise TargetError(f"{what} must be key=value of a-z, 0-9, '_' and '-', not {text!r}.")
    return key, value


def parse_hosts(names: Iterable[str]) -> tuple[str, ...]:
    """Returns the host tokens in the given order, without duplicates. A name with `*`, `?` or `[`
    stays a pattern."""
    tokens: dict[str, None] = {}
    for name in map(str.strip, names):
        if not name:
            raise TargetError("A host name is empty.")
        tokens[name.lower().replace(".", "_") if is_pattern(name) else host_token(name)] = None
    return tuple(tokens)


def is_pattern(name: str) -> bool:
    return any(sign in name for sign in "*?[")


def read_nodes(lines: Iterable[str]) -> list[str]:
    """Returns the host names of a nodes file: one per line, `#` starts a comment."""
    return [name for line in lines if (name := line.partition("#")[0].strip())]


def read_nodes_file(path: str, kind: str = "nodes") -> list[str]:
    try:
        with Path(path).open("rb") as file:
            content = file.read(NODES_BYTES_MAX + 1)
        text = content.decode()
    except (OSError, UnicodeDecodeError) as error:
        raise TargetError(f"The {kind} file {path} cannot be read: {error}.") from error
    if len(content) > NODES_BYTES_MAX:
        raise TargetError(f"The {kind} file {path} is larger than {NODES_BYTES_MAX >> 20} MiB.")
    names = read_nodes(text.splitlines())
    if not names:
        raise TargetError(f"The {kind} file {path} contains no host name.")
    return names


def read_inventory(path: str) -> dict[str, dict[str, str]]:
    """Returns the labels of each host in an inventory file: lines such as `web1 site=ams`."""
    found: dict[str, dict[str, str]] = {}
    for line in read_nodes_file(path, "inventory"):
        name, *labels = line.split()
        found.setdefault(host_token(name), {}).update(
            parse_group(label, f"a label in {path}") for label in labels
        )
    return found


def parse_target(
    hosts: Sequence[str],
    groups: Sequence[str],
    nodes: str | None,
    *,
    exclude: Collection[str] = (),
    inventory: str | None = None,
    select: str | None = None,
) -> Target:
    """Returns the target of --host, --group, --nodes, --exclude, --inventory and --select. Raises
    TargetError, SelectorError."""
    names = parse_hosts([*hosts, *(read_nodes_file(nodes) if nodes is not None else [])])
    patterns = tuple(filter(is_pattern, names))
    if patterns and len(patterns) < len(names):
        raise TargetError("Name either hosts or patterns such as 'web*', not both.")
    if names and not patterns and (groups or select is not None):
        raise TargetError(
            "Name either hosts (--host, --nodes), or a --group or --select, not both."
        )
    target = Target(
        () if patterns else names,
        tuple(dict.fromkeys(map(parse_group, groups))),
        frozenset(parse_hosts(exclude)),
        read_inventory(inventory) if inventory is not None else None,
        patterns,
        parse(select) if select is not None else None,
    )
    if target.expected == ():
        raise TargetError(f"No host is left in the target ({target.describe()}).")
    return target


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
