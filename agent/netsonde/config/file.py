"""The configuration: one TOML file, overlaid by the environment, overlaid by flags.

`load` returns a frozen Config, or raises ConfigError with a sentence that names the key.
"""

from __future__ import annotations

import math
import os
import re
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec

from ..errors import ConfigError
from ..wire.records import FlowRecord
from ..wire.requests import BACKEND_NAMES, CaptureOptions
from ..wire.verbs import VERBS
from .addresses import collector_address
from .environment import ENVIRONMENT_PREFIX, read_environment
from .sections import POLICY_ALL, POLICY_DELETE_ALL, POLICY_READ, TOKEN, Config

DEFAULT_PATH = Path("/etc/netsonde/netsonde.toml")


def load(
    path: Path | None = None,
    *,
    environ: Mapping[str, str] | None = None,
    overrides: Mapping[str, object] | None = None,
) -> Config:
    """Reads `path`, or the default path if it exists, and applies environment and overrides.

    overrides: dotted keys, as `{"nats.root": "acme.capture"}`; None values are ignored.
    """
    values = _read(path)
    found = read_environment(os.environ if environ is None else environ, Config)
    origins = {}
    for key, value in found:
        _place(values, key, value)
        origins[".".join(key)] = ENVIRONMENT_PREFIX + "__".join(key).upper()
    for dotted, value in (overrides or {}).items():
        if value is not None:
            _place(values, tuple(dotted.split(".")), value)
            origins[dotted] = "command line"
    return _converted(values, origins, path or DEFAULT_PATH)


def parse(text: str, *, origin: Path) -> Config:
    """Reads the text of a file, without the environment. Raises ConfigError that names origin."""
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{origin}: not valid TOML: {error}") from None
    return _converted(values, {}, origin)


def _converted(values: dict[str, Any], origins: Mapping[str, str], path: Path) -> Config:
    """origins: where the value of a key is from, if not from the file."""
    try:
        config = msgspec.convert(values, Config)
        _check(config)
    except msgspec.ValidationError as error:
        words = explain(error)
    except _RefusedError as error:
        words = str(error)
    else:
        return config
    named = (where for key, where in origins.items() if re.match(rf"{re.escape(key)}\b", words))
    raise ConfigError(f"{next(named, path)}: {words}")


def _read(path: Path | None) -> dict[str, Any]:
    chosen = path or DEFAULT_PATH
    try:
        with chosen.open("rb") as file:
            return tomllib.load(file)
    except FileNotFoundError:
        if path is None:
            return {}
        raise ConfigError(f"{chosen}: no such file") from None
    except OSError as error:
        raise ConfigError(f"{chosen}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{chosen}: not valid TOML: {error}") from None


def _place(values: dict[str, Any], key: tuple[str, ...], value: object) -> None:
    table = values
    for part in key[:-1]:
        table = table.setdefault(part, {})
        if not isinstance(table, dict):
            raise ConfigError(f"{'.'.join(key)}: {part} is not a table")
    table[key[-1]] = value


# ---- checks beyond types ------------------------------------------------------------------------


def explain(error: msgspec.ValidationError) -> str:
    """Returns msgspec's sentence with the key first, or names the unknown key."""
    text, _, path = str(error).partition(" - at `$")
    section = path.rstrip("`").lstrip(".")
    unknown = re.fullmatch(r"Object contains unknown field `(.*)`", text)
    if unknown:
        return f"unknown key {section + '.' if section else ''}{unknown[1]}"
    return f"{section}: {text[:1].lower()}{text[1:]}" if section else text


class _RefusedError(Exception):
    """A key and the fault of its value."""


def _check(config: Config) -> None:
    def refuse(key: str, why: str) -> None:
        raise _RefusedError(f"{key}: {why}")

    for key, value in config.agent.labels.items():
        if not (TOKEN.fullmatch(key) and TOKEN.fullmatch(value)):
            refuse(
                f"agent.labels.{key}",
                f"{key} = {value!r}: key and value must be lower-case letters, digits, _ or -",
            )
    unknown = [name for name in config.flows.fields if name not in FlowRecord.__struct_fields__]
    if unknown:
        refuse("flows.fields", f"a record has no field {unknown[0]!r}")
    for token in config.nats.root.split("."):
        if not re.fullmatch(r"[A-Za-z0-9_-]+", token):
            refuse("nats.root", f"{config.nats.root!r} is not a NATS subject of plain tokens")
    for key, servers in (("nats", config.nats.servers), ("flows", config.flows.servers)):
        if not all(map(_names_server, servers)):
            refuse(f"{key}.servers", "each must be nats://host:port or tls://host:port")
    if bool(config.nats.tls_cert) != bool(config.nats.tls_key):
        refuse("nats.tls_cert", "tls_cert and tls_key go together")
    if bool(config.nats.user) != bool(config.nats.password_file):
        refuse("nats.user", "user and password_file go together")
    logins = [
        name for name in ("creds", "nkey", "user", "token_file") if getattr(config.nats, name)
    ]
    if len(logins) > 1:
        refuse(f"nats.{logins[1]}", f"{' and '.join(logins)} are both set; keep one login method")
    for caller, verbs in config.policy.allow.items():
        for verb in verbs:
            if verb not in VERBS and verb not in (POLICY_ALL, POLICY_READ, POLICY_DELETE_ALL):
                refuse(
                    f"policy.allow.{caller}",
                    f"unknown verb {verb!r}; use a verb, {POLICY_READ!r} or {POLICY_ALL!r}",
                )
    directories = {
        "buffer.dir": [config.buffer.dir],
        "buffer.export_dir": [config.buffer.export_dir],
        "capture.replay_dirs": config.capture.replay_dirs,
        "encryption.key_dirs": config.encryption.key_dirs,
        "firmware.dirs": config.firmware.dirs,
        "flows.spool_dir": [config.flows.spool_dir],
        "firmware.trusted_keys": [config.firmware.trusted_keys],
    }
    for key, paths in directories.items():
        for path in paths:
            if path and not os.path.isabs(path):
                refuse(key, f"{path!r} is not an absolute path")
    for number, collector in enumerate(config.export.collectors):
        try:
            collector_address(collector.ip)
        except ValueError as error:
            refuse(f"export.collectors[{number}].ip", str(error))
    if config.session is not None:
        _check_session(config.session, refuse)
    listen = re.fullmatch(r".+:(\d{1,5})", config.http.listen)
    if config.http.listen and (listen is None or int(listen[1]) > 65535):
        refuse("http.listen", "must be host:port, or empty to turn HTTP off")


def _check_session(session: CaptureOptions, refuse: Callable[[str, str], None]) -> None:
    """Covers what `start` rejects on any host. Whether this host can capture shows at run time."""
    if session.backend not in BACKEND_NAMES:
        refuse("session.backend", f"{session.backend!r} is not one of {', '.join(BACKEND_NAMES)}")
    if not math.isfinite(session.replay_speed):
        refuse("session.replay_speed", "must be a finite number")
    if session.export is not None:
        try:
            collector_address(session.export.collector_ip)
        except ValueError as error:
            refuse("session.export.collector_ip", str(error))


def _names_server(text: str) -> bool:
    if not re.fullmatch(r"(nats|tls)://[^\s/]+/?|[^\s/:]+(:\d+)?", text):
        return False
    try:
        parts = urlsplit(text if "://" in text else f"nats://{text}")
        return bool(parts.hostname) and (parts.port is None or parts.port >= 0)
    except ValueError:  # unclosed bracket or malformed port
        return False
