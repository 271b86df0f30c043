"""The sections and keys of the configuration: types, defaults, ranges.

schemas/config.json is generated from these types.
"""

from __future__ import annotations

import hashlib
import re
import socket
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

POLICY_ALL = "*"  # of verbs


POLICY_ANYONE = "*"  # of callers


POLICY_READ = "read"


TOKEN = re.compile(r"[a-z0-9_-]+")


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
