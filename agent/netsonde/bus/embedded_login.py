"""The login of the embedded nats-server: an nkey in the state directory.

The server accepts only this key. `netsonde run --embedded-nats` writes the seed with mode 0600,
in a file that names the server's port. Commands of the same user, and of root, find it there.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from ..config.sections import NatsSection
from ..errors import ConfigError

_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_SYSTEM = Path("/var/lib/netsonde")


def state_directories() -> list[Path]:
    """Returns the places of the state directory: systemd's, the user's, and the system's. An
    agent writes to the first one. Commands read from all."""
    found = []
    for name, suffix in (("STATE_DIRECTORY", ""), ("XDG_STATE_HOME", "netsonde")):
        if value := os.environ.get(name, "").partition(":")[0]:
            found.append(Path(value) / suffix)
    home = os.environ.get("HOME", "")
    others = [Path(home) / ".local" / "state" / "netsonde"] if home else []
    return found + ([_SYSTEM, *others] if os.geteuid() == 0 else [*others, _SYSTEM])


def seed_path(directory: Path, port: int) -> Path:
    return directory / f"embedded-{port}.nkey"


def write_seed(directory: Path, port: int, seed: str) -> Path:
    """Replaces the file of this port. Raises ConfigError."""
    path = seed_path(directory, port)
    draft = path.with_suffix(f".{os.getpid()}")
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        with contextlib.suppress(FileNotFoundError):
            draft.unlink()
        fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "w") as file:
            file.write(f"{seed}\n")
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except OSError as error:
        raise ConfigError(
            f"{path}: {error.strerror}; the credential of the embedded NATS server goes there. "
            "Set STATE_DIRECTORY to a directory that this user can write to."
        ) from None
    return path


def with_embedded_login(settings: NatsSection) -> NatsSection:
    """Adds the seed of an embedded server on this host, if there is one and no login is set."""
    if settings.creds or settings.nkey or settings.user or settings.token_file:
        return settings
    for server in settings.servers:
        parts = urlsplit(server if "://" in server else f"nats://{server}")
        if parts.hostname not in _LOOPBACK or parts.username:
            continue
        for directory in state_directories():
            path = seed_path(directory, parts.port or 4222)
            if os.access(path, os.R_OK):
                return msgspec.structs.replace(settings, nkey=str(path))
    return settings
