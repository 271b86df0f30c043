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

from ..wire.requests import CaptureOptions

POLICY_ALL = "*"  # every verb
POLICY_ANYONE = "*"  # every caller
POLICY_FLEET = "fleet"  # fleet policies, as if they were a caller
POLICY_READ = "read"
POLICY_DELETE_ALL = "packets.delete.all"  # `packets.delete` with `all_owners`
TOKEN = re.compile(r"[a-z0-9_-]+")
Megabytes = Annotated[int, Meta(ge=1, le=1 << 20)]


class Section(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """Root of all sections."""


class AgentSection(Section, kw_only=True, frozen=True):
    """The host's identity."""

    host: Annotated[str, Meta(description="host token; default: from the host name")] = ""
    labels: Annotated[
        dict[str, str], Meta(description="groups of this host, key = value, lower-case")
    ] = {}


class NatsSection(Section, kw_only=True, frozen=True):
    """The NATS servers and one login method: creds, nkey, user or token_file."""

    servers: Annotated[
        list[str],
        Meta(min_length=1, description="nats:// or tls:// URLs, tried in an order of this host"),
    ] = msgspec.field(default_factory=lambda: ["nats://127.0.0.1:4222"])
    root: Annotated[str, Meta(description="root of all subjects, one or more tokens")] = "capture"
    jetstream_domain: Annotated[
        str,
        Meta(
            pattern=r"^[^\s.*>]*$",
            description="JetStream domain of streams and buckets; empty: the server's own",
        ),
    ] = ""
    creds: Annotated[str, Meta(description="NATS credentials file")] = ""
    nkey: Annotated[str, Meta(description="file with a user's nkey seed")] = ""
    user: str = ""
    password_file: Annotated[str, Meta(description="file with the password of user")] = ""
    token_file: Annotated[str, Meta(description="file with an authorization token")] = ""
    tls_ca: Annotated[str, Meta(description="PEM bundle that signs the server")] = ""
    tls_cert: Annotated[str, Meta(description="PEM client certificate")] = ""
    tls_key: Annotated[str, Meta(description="PEM key of tls_cert")] = ""
    tls_handshake_first: Annotated[
        bool, Meta(description="TLS before the server's INFO; set it on the server too")
    ] = False


class CaptureSection(Section, kw_only=True, frozen=True):
    """Limits of capture sessions."""

    live: Annotated[
        bool, Meta(description="false: start without privileges, for capture files only")
    ] = True
    replay_dirs: Annotated[
        list[str], Meta(description="directories of capture files for the backend `file`")
    ] = []
    ring_mb: Annotated[
        int, Meta(ge=1, le=1024, description="size of the kernel or device ring")
    ] = 64
    own_traffic: Annotated[
        Literal["exclude", "include"],
        Meta(description="packets of the agent's own connections to NATS, HTTP and collectors"),
    ] = "exclude"


class BufferSection(Section, kw_only=True, frozen=True):
    """The capture buffer on disk, and the destinations of retrieved packets."""

    dir: Annotated[str, Meta(description="directory of segment files; empty: memory only")] = ""
    disk_mb: Annotated[int, Meta(ge=4, le=1 << 30, description="limit of all segment files")] = 1024
    max_mb: Annotated[
        int,
        Meta(ge=0, le=65536, description="limit of buffer_size_mb; 0: a quarter of the memory"),
    ] = 0
    export_dir: Annotated[
        str, Meta(description="directory of packets retrieved to a file; empty: off")
    ] = ""
    export_mb: Annotated[Megabytes, Meta(description="limit of all files in export_dir")] = 1024
    bucket_mb: Annotated[
        Megabytes, Meta(description="limit of this host's object store bucket")
    ] = 1024
    bucket_hours: Annotated[int, Meta(ge=1, le=1 << 16, description="lifetime of its objects")] = 24


class FlowsSection(Section, kw_only=True, frozen=True):
    """The flow table and the flow stream."""

    encoding: Literal["json", "msgpack", "ipfix"] = "json"
    fields: Annotated[
        list[str],
        Meta(description="fields to publish, in the record's order; empty: all"),
    ] = []
    tunnel: Annotated[
        Literal["outer", "inner"], Meta(description="the IP header that identifies a flow")
    ] = "outer"
    vxlan_ports: Annotated[
        list[Annotated[int, Meta(ge=1, le=65535)]],
        Meta(min_length=1, max_length=8, description="UDP ports of VXLAN"),
    ] = msgspec.field(default_factory=lambda: [4789, 8472])
    labels: Annotated[
        list[Literal["tls", "quic", "dns", "http"]],
        Meta(description="protocols whose first payloads name a flow; empty: read no payload"),
    ] = []
    labels_mb: Annotated[
        int, Meta(ge=1, le=4096, description="memory for labels, of each worker")
    ] = 8
    owners: Annotated[
        Literal["auto", "off"],
        Meta(description="find the process of each flow, if the kernel and the privileges allow"),
    ] = "auto"
    quic_per_second: Annotated[
        int,
        Meta(ge=0, le=1 << 20, description="QUIC connections to decrypt, of each worker"),
    ] = 2000
    flow_table_size: Annotated[
        int, Meta(ge=16, le=1 << 26, description="flows of all workers; memory is allocated on use")
    ] = 262144
    record_ring_size: Annotated[
        int, Meta(ge=64, le=1 << 24, description="records queued for the bus, of all workers")
    ] = 65536
    jetstream: Annotated[bool, Meta(description="publish to JetStream through a spool on disk")] = (
        False
    )
    shards: Annotated[
        int, Meta(ge=1, le=1024, description="streams that share the hosts; equal on all agents")
    ] = 1
    servers: Annotated[
        list[str], Meta(description="servers for flow records only; empty: those of [nats]")
    ] = []
    spool_dir: Annotated[str, Meta(description="default: /var/lib/netsonde/spool")] = ""
    spool_mb: Annotated[
        Megabytes, Meta(description="limit of the spool; beyond it the oldest records are dropped")
    ] = 256
    stream_replicas: Annotated[
        int, Meta(ge=1, le=5, description="replicas of streams that the agent creates")
    ] = 1
    stream_max_age_hours: Annotated[
        int,
        Meta(
            ge=0, le=1 << 20, description="lifetime of messages in streams that the agent creates"
        ),
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
        int, Meta(ge=1, le=3600, description="interval of records of a long flow")
    ] = 60


class ExportSection(Section, kw_only=True, frozen=True):
    """NetFlow and IPFIX. Changes apply to collectors added later."""

    max_message_bytes: Annotated[
        int, Meta(ge=512, le=65000, description="limit of a datagram without IP and UDP header")
    ] = 1400
    profile: Annotated[
        Literal["compat", "full"],
        Meta(description="compat: elements that every collector knows; full: all elements"),
    ] = "compat"
    biflow: Annotated[bool, Meta(description="IPFIX: one record for both directions, RFC 5103")] = (
        False
    )
    enterprise_number: Annotated[
        int,
        Meta(ge=1, le=2**32 - 1, description="IPFIX, profile full: of labels and owners"),
    ] = 32473
    pace_mbps: Annotated[
        int, Meta(ge=1, le=100_000, description="rate limit to each collector")
    ] = 1000
    collectors: Annotated[
        list[StandingCollector], Meta(max_length=16, description="collectors of every session")
    ] = []


class EncryptionSection(Section, kw_only=True, frozen=True):
    """Sealing of the capture buffer."""

    key_dirs: list[str] = []


class FirmwareSection(Section, kw_only=True, frozen=True):
    """Firmware verification."""

    dirs: list[str] = []
    trusted_keys: Annotated[
        str, Meta(description="directory of PEM public keys, certificates and minisign keys")
    ] = ""
    max_mb: Annotated[Megabytes, Meta(description="size limit of firmware files")] = 16384
    rsa_pkcs1v15: Annotated[
        bool, Meta(description="accept RSA signatures with PKCS#1 v1.5 padding as well as PSS")
    ] = False


class PolicySection(Section, kw_only=True, frozen=True):
    """The verbs that callers may use, in addition to NATS permissions."""

    identity: Annotated[
        Literal["none", "server"],
        Meta(description="server: believe the caller's name that the NATS server adds"),
    ] = "none"
    allow: Annotated[
        dict[str, list[str]],
        Meta(
            description='caller = verbs, "read" or "*"; "*" is any other caller; empty: no limits'
        ),
    ] = {}
    hide: Annotated[
        dict[str, list[Literal["name", "process"]]],
        Meta(description='caller = what its replies leave out; "*" is any other caller'),
    ] = {}


class TapSection(Section, kw_only=True, frozen=True):
    """Live copies of packets: the verb `tap`."""

    taps: Annotated[
        int, Meta(ge=0, le=4, description="taps that may be open at once; 0: refuse all")
    ] = 2
    rate_kbps: Annotated[
        int, Meta(ge=0, le=10**7, description="kbit/s of all taps together; 0: no limit")
    ] = 20_000
    while_sealed: Annotated[
        bool, Meta(description="also copy packets while the capture buffer is sealed")
    ] = False


class LogSection(Section, kw_only=True, frozen=True):
    """The log on standard error."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Annotated[
        Literal["auto", "json", "console"], Meta(description="auto: console on a terminal")
    ] = "auto"


class HttpSection(Section, kw_only=True, frozen=True):
    """Prometheus /metrics, /healthz and /readyz."""

    listen: Annotated[str, Meta(description="host:port; empty: off")] = "127.0.0.1:9461"


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
    tap: TapSection = TapSection()
    log: LogSection = LogSection()
    http: HttpSection = HttpSection()
    session: Annotated[
        CaptureOptions | None, Meta(description="the capture that always runs, as in `start`")
    ] = None

    @property
    def host(self) -> str:
        """The host token in subjects."""
        return host_token(self.agent.host or socket.gethostname())


def host_token(name: str) -> str:
    """Returns the name as one subject token. A changed name gets a hash suffix to stay unique."""
    lowered = name.lower().replace(".", "_")
    token = re.sub(r"[^a-z0-9_-]", "-", lowered)
    if token == lowered and token:
        return token
    original = name.encode(errors="surrogateescape")  # a host name may hold any bytes
    return f"{token}-{hashlib.sha256(original).hexdigest()[:8]}"
