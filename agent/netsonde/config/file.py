"""The configuration: one TOML file, overlaid by the environment, overlaid by flags.

`load` returns a frozen Config or raises ConfigError with a sentence that names the key.
NETSONDE__SECTION__KEY sets one key, typed by the field that it names: lists split at
commas, tables as `k=v,k=v`, or either in TOML notation. schemas/config.json is made from
the structs below. `changed_keys` and LIVE_KEYS decide what SIGHUP may apply.
A leaf: imports other leaves, and nothing else of the agent.
"""

from __future__ import annotations

import hashlib
import os
import re
import socket
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta, Struct

from ..errors import ConfigError
from ..wire.records import FlowRecord
from ..wire.replies import VERBS
from .addresses import collector_address
from .environment import ENVIRONMENT_PREFIX, read_environment

DEFAULT_PATH = Path("/etc/netsonde/netsonde.toml")
POLICY_ALL = "*"  # of verbs
POLICY_ANYONE = "*"  # of callers
POLICY_READ = "read"
TOKEN = re.compile(r"[a-z0-9_-]+")

# What SIGHUP may change in a running agent; a change of any other key is refused.
LIVE_KEYS = frozenset(
    {
        *(f"buffer.{key}" for key in ("bucket_hours", "bucket_mb", "export_dir", "export_mb")),
        "buffer.dir",
        "buffer.disk_mb",
        "capture.replay_dirs",
        "encryption.key_dirs",
        "export.biflow",
        "export.collectors",
        "export.max_message_bytes",
        "export.pace_mbps",
        "export.profile",
        "firmware.dirs",
        "firmware.max_mb",
        "firmware.rsa_pkcs1v15",
        "firmware.trusted_keys",
        "flows.encoding",
        "flows.fields",
        "flows.flow_table_size",
        "flows.record_ring_size",
        "flows.tunnel",
        "capture.ring_mb",
        "log.level",
        "policy.allow",
        "policy.identity",
        "metrics.interval_sec",
    }
)

Megabytes = Annotated[int, Meta(ge=1, le=1 << 20)]


class Section(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """Root of all sections."""


class AgentSection(Section, kw_only=True, frozen=True):
    """Who this host is."""

    host: Annotated[str, Meta(description="host token; default: from the host name")] = ""
    labels: Annotated[
        dict[str, str], Meta(description="groups this host answers in, key = value, lower-case")
    ] = {}


class NatsSection(Section, kw_only=True, frozen=True):
    """Where the bus is, and how to log in: by one of creds, nkey, user and token_file."""

    servers: Annotated[
        list[str], Meta(min_length=1, description="nats:// or tls:// URLs, tried in this order")
    ] = msgspec.field(default_factory=lambda: ["nats://127.0.0.1:4222"])
    root: Annotated[str, Meta(description="root of all subjects, one or more tokens")] = "capture"
    creds: Annotated[str, Meta(description="NATS credentials file")] = ""
    nkey: Annotated[str, Meta(description="file with a user's nkey seed")] = ""
    user: str = ""
    password_file: Annotated[str, Meta(description="file with the password of user")] = ""
    token_file: Annotated[str, Meta(description="file with an authorization token")] = ""
    tls_ca: Annotated[str, Meta(description="PEM bundle that signs the server")] = ""
    tls_cert: Annotated[str, Meta(description="PEM client certificate")] = ""
    tls_key: Annotated[str, Meta(description="PEM key of tls_cert")] = ""
    tls_handshake_first: Annotated[
        bool, Meta(description="TLS before the server's first word; the server must do so too")
    ] = False


class CaptureSection(Section, kw_only=True, frozen=True):
    """What sessions may capture."""

    live: Annotated[
        bool, Meta(description="false: start even where privileges allow only capture files")
    ] = True
    replay_dirs: Annotated[
        list[str], Meta(description="directories below which `file` may read captures")
    ] = []
    ring_mb: Annotated[int, Meta(ge=1, le=1024, description="kernel or device ring")] = 64


class BufferSection(Section, kw_only=True, frozen=True):
    """The capture buffer on disk, and where packets that are asked for go."""

    dir: Annotated[str, Meta(description="of segment files; empty: memory alone")] = ""
    disk_mb: Annotated[int, Meta(ge=4, le=1 << 30, description="of all segment files")] = 1024
    export_dir: Annotated[str, Meta(description="of `packets` to a file; empty: none")] = ""
    export_mb: Annotated[Megabytes, Meta(description="of all files in export_dir")] = 1024
    bucket_mb: Annotated[Megabytes, Meta(description="of this host's object store")] = 1024
    bucket_hours: Annotated[int, Meta(ge=1, le=1 << 16, description="age of its objects")] = 24


class FlowsSection(Section, kw_only=True, frozen=True):
    """How flows are kept and published."""

    encoding: Literal["json", "msgpack", "ipfix"] = "json"
    fields: Annotated[
        list[str],
        Meta(description="of each record only these, in the record's order; all if empty"),
    ] = []
    tunnel: Annotated[
        Literal["outer", "inner"], Meta(description="which IP header makes the flow")
    ] = "outer"
    flow_table_size: Annotated[
        int, Meta(ge=16, le=1 << 26, description="flows over all workers; memory is taken lazily")
    ] = 262144
    record_ring_size: Annotated[
        int, Meta(ge=64, le=1 << 24, description="records that wait for the bus, over all workers")
    ] = 65536
    jetstream: Annotated[
        bool, Meta(description="through a spool on disk to JetStream, so that none is lost")
    ] = False
    servers: Annotated[
        list[str], Meta(description="of the records alone, nats:// or tls:// URLs; empty: [nats]")
    ] = []
    spool_dir: Annotated[str, Meta(description="default: /var/lib/netsonde/spool")] = ""
    spool_mb: Annotated[
        Megabytes, Meta(description="beyond it the oldest records are given up and counted")
    ] = 256
    stream_replicas: Annotated[
        int, Meta(ge=1, le=5, description="of the JetStream streams, if the agent makes them")
    ] = 1
    stream_max_age_hours: Annotated[
        int, Meta(ge=0, le=1 << 20, description="of their messages, if the agent makes them")
    ] = 168


class MetricsSection(Section, kw_only=True, frozen=True):
    """The metrics stream."""

    interval_sec: Annotated[float, Meta(ge=0.1, le=3600)] = 5.0


class StandingCollector(Section, kw_only=True, frozen=True):
    """A collector that every session exports to, if its backend can meter."""

    ip: str
    port: Annotated[int, Meta(ge=1, le=65535)]
    version: Annotated[Literal[5, 9, 10], Meta(description="10: IPFIX")] = 9
    interval_sec: Annotated[
        int, Meta(ge=1, le=3600, description="a flow that lives on is told about this often")
    ] = 60


class ExportSection(Section, kw_only=True, frozen=True):
    """NetFlow and IPFIX; a change is for collectors that are added later."""

    max_message_bytes: Annotated[
        int, Meta(ge=512, le=65000, description="of a datagram without IP and UDP header")
    ] = 1400
    profile: Annotated[
        Literal["compat", "full"],
        Meta(description="compat: what every collector knows; full: and what else there is"),
    ] = "compat"
    biflow: Annotated[bool, Meta(description="IPFIX: one record for both directions, RFC 5103")] = (
        False
    )
    pace_mbps: Annotated[
        int, Meta(ge=1, le=100_000, description="no faster than this to each collector")
    ] = 1000
    collectors: Annotated[
        list[StandingCollector], Meta(max_length=16, description="of every session")
    ] = []


class EncryptionSection(Section, kw_only=True, frozen=True):
    """Sealing of the capture buffer."""

    key_dirs: list[str] = []


class FirmwareSection(Section, kw_only=True, frozen=True):
    """Firmware verification."""

    dirs: list[str] = []
    trusted_keys: Annotated[
        str, Meta(description="a directory of PEM public keys, certificates and minisign keys")
    ] = ""
    max_mb: Annotated[Megabytes, Meta(description="larger firmware files are not read")] = 16384
    rsa_pkcs1v15: Annotated[
        bool, Meta(description="take RSA signatures with PKCS#1 v1.5 padding besides PSS")
    ] = False


class PolicySection(Section, kw_only=True, frozen=True):
    """What callers may ask of this host, beyond what the NATS server lets through."""

    identity: Annotated[
        Literal["none", "server"],
        Meta(description="server: believe the caller's name that the NATS server adds"),
    ] = "none"
    allow: Annotated[
        dict[str, list[str]],
        Meta(description='caller = verbs, "read" or "*"; "*" is any other caller; none: no limits'),
    ] = {}


class LogSection(Section, kw_only=True, frozen=True):
    """What goes to standard error."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Annotated[
        Literal["auto", "json", "console"], Meta(description="auto: console on a terminal")
    ] = "auto"


class HttpSection(Section, kw_only=True, frozen=True):
    """Prometheus /metrics, /healthz and /readyz."""

    listen: Annotated[str, Meta(description="host:port; empty: none")] = "127.0.0.1:9461"


class Config(Section, kw_only=True, frozen=True):
    """netsonde.toml"""

    agent: AgentSection = AgentSection()
    nats: NatsSection = NatsSection()
    capture: CaptureSection = CaptureSection()
    buffer: BufferSection = BufferSection()
    flows: FlowsSection = FlowsSection()
    metrics: MetricsSection = MetricsSection()
    export: ExportSection = ExportSection()
    encryption: EncryptionSection = EncryptionSection()
    firmware: FirmwareSection = FirmwareSection()
    policy: PolicySection = PolicySection()
    log: LogSection = LogSection()
    http: HttpSection = HttpSection()

    @property
    def host(self) -> str:
        """This host's token in subjects."""
        return host_token(self.agent.host or socket.gethostname())


def host_token(name: str) -> str:
    """The name as one subject token; names that lose something stay distinct by a hash."""
    lowered = name.lower().replace(".", "_")
    token = re.sub(r"[^a-z0-9_-]", "-", lowered)
    if token == lowered and token:
        return token
    original = name.encode(errors="surrogateescape")  # the kernel takes any bytes for a name
    return f"{token}-{hashlib.sha256(original).hexdigest()[:8]}"


def load(
    path: Path | None = None,
    *,
    environ: Mapping[str, str] | None = None,
    overrides: Mapping[str, object] | None = None,
) -> Config:
    """Reads `path` (None: the default path, if it is there) and lays the overlays over it.

    overrides: dotted keys, as `{"nats.root": "acme.capture"}`; None values are left out.
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
    raise ConfigError(f"{next(named, path or DEFAULT_PATH)}: {words}")


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


# ---- checks that types cannot make -------------------------------------------------------------


def explain(error: msgspec.ValidationError) -> str:
    """msgspec's sentence, with the key in front and an unknown key named as such."""
    text, _, path = str(error).partition(" - at `$")
    section = path.rstrip("`").lstrip(".")
    unknown = re.fullmatch(r"Object contains unknown field `(.*)`", text)
    if unknown:
        return f"unknown key {section + '.' if section else ''}{unknown[1]}"
    return f"{section}: {text[:1].lower()}{text[1:]}" if section else text


class _RefusedError(Exception):
    """The key and what is wrong with its value."""


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
        refuse(f"nats.{logins[1]}", f"{' and '.join(logins)} are two ways to log in; keep one")
    for caller, verbs in config.policy.allow.items():
        for verb in verbs:
            if verb not in VERBS and verb not in (POLICY_ALL, POLICY_READ):
                refuse(
                    f"policy.allow.{caller}",
                    f"{verb!r} is no verb, nor {POLICY_ALL!r} or {POLICY_READ!r}",
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
    listen = re.fullmatch(r".+:(\d{1,5})", config.http.listen)
    if config.http.listen and (listen is None or int(listen[1]) > 65535):
        refuse("http.listen", "must be host:port, or empty for none")


def _names_server(text: str) -> bool:
    if not re.fullmatch(r"(nats|tls)://[^\s/]+/?|[^\s/:]+(:\d+)?", text):
        return False
    try:
        parts = urlsplit(text if "://" in text else f"nats://{text}")
        return bool(parts.hostname) and (parts.port is None or parts.port >= 0)
    except ValueError:  # an unclosed bracket, or what is no port
        return False


# ---- change, and the schema ----------------------------------------------------------------------


def changed_keys(old: Config, new: Config) -> list[str]:
    """Dotted keys whose values differ, in order."""
    before, after = flatten(old), flatten(new)
    return sorted(key for key in before.keys() | after.keys() if before.get(key) != after.get(key))


def flatten(config: Config) -> dict[str, object]:
    """Every key with its value: `{"nats.root": "capture", …}`."""
    sections: dict[str, dict[str, object]] = msgspec.to_builtins(config)
    return {
        f"{section}.{key}": value
        for section, keys in sections.items()
        for key, value in keys.items()
    }


def json_schema() -> dict[str, Any]:
    """schemas/config.json"""
    schema = msgspec.json.schema(Config)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "netsonde.toml",
        "description": "Configuration of the netsonde agent",
        **schema,
    }
