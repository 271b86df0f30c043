"""The checks of `netsonde doctor` and `netsonde config check --environment`, in order."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from ...capture.interfaces import SEVERAL
from ...config import file as config
from ...config.sections import Config
from ...errors import EXIT_CONFIG, ConfigError
from .bus import examine_nats
from .directories import examine_directories, examine_storage
from .finding import Finding, Subject, command
from .interfaces import examine_interfaces
from .limits import examine_clock, examine_disk_speed, examine_locked_memory, examine_memory
from .ports import examine_http
from .process import examine_backends, examine_owners, examine_process
from .secrets import examine_login, examine_sealing_keys, examine_trusted_keys
from .session import examine_session

Check = Callable[[Subject], Iterable[Finding]]

PROCESS: tuple[Check, ...] = (examine_process, examine_backends, examine_owners)
ENVIRONMENT: tuple[Check, ...] = (
    examine_directories,
    examine_storage,
    examine_disk_speed,
    examine_login,
    examine_sealing_keys,
    examine_trusted_keys,
    examine_session,
    examine_interfaces,
    examine_memory,
    examine_locked_memory,
    examine_clock,
    examine_http,
    examine_nats,
)

WAITED_FOR: tuple[Check, ...] = (examine_interfaces, examine_nats)


def examine(
    path: Path | None,
    checks: Iterable[Check],
    *,
    interface: str | None = None,
    for_start: bool = False,
) -> Iterator[Finding]:
    """Yields the finding about the configuration, then those of the checks.

    for_start: faults that a running agent waits out are warnings."""
    source = path or config.DEFAULT_PATH
    try:
        settings = config.load(path)
    except ConfigError as error:
        repair = command("netsonde", "config", "init", source)
        if source.exists():
            repair = f"${{EDITOR:-vi}} {command(source)}"
        yield Finding("configuration", "bad", error.detail, EXIT_CONFIG, repair)
        settings = Config()
    else:
        shown = str(source) if source.exists() else f"{source} is missing, defaults apply"
        yield Finding("configuration", "ok", shown)
    subject = subject_of(settings, source, interface)
    for check in checks:
        for finding in run(check, subject):
            waits = for_start and check in WAITED_FOR and finding.state == "bad"
            yield replace(finding, state="warning") if waits else finding


def run(check: Check, subject: Subject) -> Iterator[Finding]:
    """A system may hide what a check reads, for example from an agent under systemd."""
    try:
        yield from check(subject)
    except OSError as error:
        name = check.__name__.removeprefix("examine_")
        yield Finding(name, "note", f"cannot be examined here: {error}")


def subject_of(settings: Config, path: Path, interface: str | None) -> Subject:
    session = settings.session
    names = interface if interface is not None else (session.interface if session else "")
    several = session is None or session.backend in SEVERAL  # DPDK's names may hold commas
    parts = names.split(",") if several else [names]
    return Subject(
        settings,
        path,
        interfaces=tuple(name.strip() for name in parts if name.strip()),
        backend=session.backend if session else "",
        buffer_mb=(session.buffer_size_mb if session.record else 0) if session else None,
        dedicated=session.dedicated if session else False,
    )
