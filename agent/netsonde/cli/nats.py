"""`netsonde nats`: creates a nats-server configuration with roles and keys, and the JetStream
streams, buckets and consumers."""

from __future__ import annotations

import asyncio
import dataclasses
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path

import msgspec

from ..bus import nkey
from ..config.sections import TOKEN, BufferSection, FlowsSection
from ..errors import EXIT_OK, EXIT_REFUSED, ConfigError
from ..fleet.leaf import leaf_config
from ..fleet.roles import (
    LEAF,
    LISTEN,
    ROLES,
    STREAMS,
    Client,
    Host,
    Transport,
    check_clients,
    parse_hosts,
    server_config,
)
from ..wire.quantity import counted
from ..wire.subjects import SHARDS_MAX
from .nats_operator import (
    LEAF_CONFIG,
    add_issue_arguments,
    add_revoke_arguments,
    ensure_key,
    issue_hosts,
    replace,
    run_issue,
    run_revoke,
    write_operator,
)
from .output import notify, put
from .requests import add_connection_arguments, read_nats_section, whole

ROOT = "capture"
EARLIER = "setup.json"
# Names of arguments that differ from the field's.
OPTIONS = {"jetstream_dir": "jetstream", "domain": "jetstream_domain"}


class NatsCommand:
    """Write a nats-server configuration with accounts and permissions.

    setup     writes nats-server.conf, agents/<host>.nk and clients/<name>.nk to DIR
    host      makes the credentials of hosts offline, after `setup --jwt`
    revoke    refuses the credentials of a host or client, after `setup --jwt`
    streams   creates the JetStream streams, a bucket per host, a consumer per collector

    Each agent, controller (every verb), operator (verbs that change nothing) and collector
    (the streams) gets a key. The configuration contains only public keys. A second run keeps
    existing keys; --rotate NAME creates a new one; --add keeps the hosts, clients and options of
    the last run. Reload with `nats-server --signal reload` and copy its key file to each host
    ([nats] nkey). --jetstream also writes clients/streams.nk, the key for `streams`. Run that
    again for new hosts; existing objects do not change.
    """

    name = "nats"

    def add_arguments(self, parser: ArgumentParser) -> None:
        actions = parser.add_subparsers(
            dest="action", metavar="setup|host|revoke|streams", required=True
        )
        setup = actions.add_parser("setup", help="write the server's configuration and keys")
        add_setup_arguments(setup)
        setup.set_defaults(act=run_setup)
        issue = actions.add_parser("host", help="make a host's credentials offline")
        add_issue_arguments(issue)
        issue.set_defaults(act=run_issue)
        revoke = actions.add_parser("revoke", help="refuse credentials")
        add_revoke_arguments(revoke)
        revoke.set_defaults(act=run_revoke)
        streams = actions.add_parser("streams", help="create streams, buckets and consumers")
        add_streams_arguments(streams)
        streams.set_defaults(act=run_streams)

    def run(self, args: Namespace) -> int:
        return int(args.act(args))


def add_host_arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--hosts", metavar="FILE", help="file with one host per line, then its labels as k=v"
    )
    parser.add_argument(
        "--host", action="append", default=[], metavar="H",
        help="a host, or 'H k=v' with its labels; can be repeated",
    )  # fmt: skip


def add_setup_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--out", metavar="DIR", required=True, help="output directory")
    add_host_arguments(parser)
    parser.add_argument(
        "--operator", action="append", default=[], metavar="NAME", nargs="?", const="",
        help="an operator's name; without NAME: the same as --jwt",
    )  # fmt: skip
    for role in ROLES:
        if role != "operator":
            parser.add_argument(
                f"--{role}", action="append", default=[], metavar="NAME", help=f"a {role}'s name"
            )
    parser.add_argument(
        "--rotate", action="append", default=[], metavar="NAME", help="create a new key for NAME"
    )
    parser.add_argument(
        "--jwt", action="store_true", help="use JWTs of an operator; hosts need no server file"
    )
    parser.add_argument(
        "--drop-earlier", action="store_true", help="--jwt: refuse earlier signing keys of hosts"
    )
    parser.add_argument(
        "--add", action="store_true", help="keep the hosts, clients and options of the last setup"
    )
    parser.add_argument("--root", default=ROOT, help="root of all subjects (capture)")
    parser.add_argument("--listen", default=LISTEN, metavar="HOST:PORT")
    parser.add_argument("--tls-cert", default="", metavar="FILE", help="the server's certificate")
    parser.add_argument("--tls-key", default="", metavar="FILE", help="the server's private key")
    parser.add_argument(
        "--tls-ca", default="", metavar="FILE", help="require client certificates of this CA"
    )
    parser.add_argument(
        "--tls-handshake-first", action="store_true", help="start TLS before the NATS protocol"
    )
    parser.add_argument(
        "--jetstream", default="", metavar="DIR", help="the server's directory for streams"
    )
    parser.add_argument(
        "--jetstream-domain", default="", metavar="NAME", help="--jetstream: the server's domain"
    )
    parser.add_argument(
        "--leaf-listen", default="", metavar="HOST:PORT",
        help="--jetstream-domain: listen for leaf nodes, and write leaf.conf for their servers",
    )  # fmt: skip
    parser.add_argument(
        "--shards", type=whole(1, SHARDS_MAX), default=1, metavar="P",
        help="[flows] shards of the agents (1)",
    )  # fmt: skip


def add_streams_arguments(parser: ArgumentParser) -> None:
    add_host_arguments(parser)
    parser.add_argument(
        "--site-bucket", action="store_true", help="one bucket for all hosts, not one per host"
    )
    parser.add_argument(
        "--collector", action="append", default=[], metavar="NAME", help="a collector's name"
    )
    flows, buffer = FlowsSection(), BufferSection()
    parser.add_argument(
        "--shards", type=whole(1, SHARDS_MAX), default=1, metavar="P",
        help="[flows] shards of the agents: one stream for each (1)",
    )  # fmt: skip
    for name, default, help_text in (
        ("--replicas", flows.stream_replicas, "replicas of each stream"),
        ("--max-age-hours", flows.stream_max_age_hours, "maximum age in the streams; 0: no limit"),
        ("--bucket-mb", buffer.bucket_mb, "maximum size of each bucket in MiB"),
        ("--bucket-hours", buffer.bucket_hours, "maximum age in a bucket"),
    ):
        parser.add_argument(
            name, type=whole(0), default=default, metavar="N", help=f"{help_text} ({default})"
        )
    add_connection_arguments(parser)


# ---- setup -----------------------------------------------------------------------------------


def run_setup(args: Namespace) -> int:
    if "" in args.operator:  # --operator without a name
        args.jwt = True
        args.operator = [name for name in args.operator if name]
    hosts = read_hosts(args, required=not (args.jwt or args.add))
    clients = [Client(name, role) for role in ROLES for name in getattr(args, role)]
    out = Path(args.out)
    if args.add:
        hosts, clients = merge(args, read_earlier(out), hosts, clients)
    check_clients(clients)
    transport = read_transport(
        args, {*(one.token for one in hosts), *(one.name for one in clients)}
    )
    try:
        if args.jwt:
            text = setup_operator(args, out, hosts, clients, transport)
        else:
            text = write_setup(out, args.root, hosts, clients, args.rotate, transport)
        earlier = Earlier(args.root, [] if args.jwt else hosts, clients, transport, args.jwt)
        replace(out / EARLIER, msgspec.json.encode(earlier).decode() + "\n", 0o644)
    except OSError as error:
        raise ConfigError(f"{error.filename}: {error.strerror}") from None
    put(f"{text}: {counted(len(hosts), 'host')}, {counted(len(clients), 'client')}")
    if not args.tls_cert:
        notify("no --tls-cert, so connections are not encrypted")
    return EXIT_OK


def read_transport(args: Namespace, names: set[str]) -> Transport:
    """names: of the hosts and clients. Raises ConfigError."""
    if bool(args.tls_cert) != bool(args.tls_key):
        raise ConfigError("--tls-cert and --tls-key must be used together")
    if args.jetstream_domain and not (args.jetstream and TOKEN.fullmatch(args.jetstream_domain)):
        raise ConfigError("--jetstream-domain needs --jetstream, and a name of a-z, 0-9, _ and -")
    if args.leaf_listen and not args.jetstream_domain:
        raise ConfigError("--leaf-listen needs --jetstream-domain")
    if args.leaf_listen and LEAF in names:
        raise ConfigError(f"--leaf-listen: no host or client can have the name {LEAF!r}")
    return Transport(
        listen=args.listen,
        tls_cert=args.tls_cert,
        tls_key=args.tls_key,
        tls_ca=args.tls_ca,
        tls_handshake_first=args.tls_handshake_first,
        jetstream_dir=args.jetstream,
        shards=args.shards,
        domain=args.jetstream_domain,
        leaf_listen=args.leaf_listen,
    )


def setup_operator(
    args: Namespace,
    out: Path,
    hosts: Sequence[Host],
    clients: Sequence[Client],
    transport: Transport,
) -> Path:
    text = write_operator(
        out, args.root, clients, transport, rotate=args.rotate, drop_earlier=args.drop_earlier
    )
    issue_hosts(
        out, [host for host in hosts if not (out / "agents" / f"{host.token}.creds").exists()]
    )
    return text


class Earlier(msgspec.Struct):
    """The arguments of the last `setup`, without secrets, for `--add`."""

    root: str
    hosts: list[Host]
    clients: list[Client]
    transport: Transport
    jwt: bool = False


def read_earlier(out: Path) -> Earlier:
    try:
        return msgspec.json.decode((out / EARLIER).read_bytes(), type=Earlier)
    except (OSError, msgspec.DecodeError) as error:
        raise ConfigError(f"{out / EARLIER}: {error}; --add needs an earlier setup") from None


def merge(
    args: Namespace, earlier: Earlier, hosts: Sequence[Host], clients: Sequence[Client]
) -> tuple[list[Host], list[Client]]:
    """Adds hosts and clients to the earlier ones. Fills options that were not given."""
    args.root = earlier.root if args.root == ROOT else args.root
    args.jwt = args.jwt or earlier.jwt
    for field in dataclasses.fields(Transport):
        name = OPTIONS.get(field.name, field.name)
        if getattr(args, name) == field.default:
            setattr(args, name, getattr(earlier.transport, field.name))
    all_hosts = {host.token: host for host in (*earlier.hosts, *hosts)}
    all_clients = {client.name: client for client in (*earlier.clients, *clients)}
    return list(all_hosts.values()), list(all_clients.values())


def read_hosts(args: Namespace, *, required: bool = True) -> list[Host]:
    lines: list[str] = list(args.host)
    if args.hosts:
        try:
            lines = Path(args.hosts).read_text().splitlines() + lines
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{args.hosts}: {error}") from None
    try:
        hosts = parse_hosts(lines)
    except ConfigError as error:
        raise ConfigError(f"{args.hosts or '--host'}: {error.detail}") from None
    if required and not hosts:
        raise ConfigError("no hosts: use --hosts or --host")
    return hosts


def write_setup(
    out: Path,
    root: str,
    hosts: Sequence[Host],
    clients: Sequence[Client],
    rotate: Sequence[str],
    transport: Transport,
) -> Path:
    """Writes keys, then atomically the configuration: a reload reads the old or new file."""
    files = {host.token: out / "agents" / f"{host.token}.nk" for host in hosts}
    if transport.jetstream_dir:
        files[STREAMS] = out / "clients" / f"{STREAMS}.nk"
    if transport.leaf_listen:
        files[LEAF] = out / "clients" / f"{LEAF}.nk"
    files |= {client.name: out / "clients" / f"{client.name}.nk" for client in clients}
    unknown = set(rotate) - files.keys()
    if unknown:
        raise ConfigError(f"--rotate {', '.join(sorted(unknown))}: no such host or client")
    for directory in ("agents", "clients"):
        (out / directory).mkdir(parents=True, exist_ok=True, mode=0o700)
    public = {name: ensure_key(path, nkey.USER, new=name in rotate) for name, path in files.items()}
    config = out / "nats-server.conf"
    replace(config, server_config(root, hosts, clients, public, transport), 0o644)
    if transport.leaf_listen:
        replace(out / LEAF_CONFIG, leaf_config(root, hosts, public, transport), 0o644)
    return config


# ---- streams ---------------------------------------------------------------------------------


def run_streams(args: Namespace) -> int:
    return asyncio.run(make_streams(args, read_hosts(args, required=not args.site_bucket)))


async def make_streams(args: Namespace, hosts: Sequence[Host]) -> int:
    from ..fleet.client import connect
    from ..fleet.stores import Stores, make_stores
    from ..spool.streams import StreamSettings

    check_clients([Client(name, "collector") for name in args.collector])
    stores = Stores(
        hosts=[host.token for host in hosts],
        collectors=args.collector,
        streams=StreamSettings(
            replicas=args.replicas, max_age_hours=args.max_age_hours, shards=args.shards
        ),
        bucket_bytes_max=args.bucket_mb << 20,
        bucket_age_max_sec=args.bucket_hours * 3600,
        site_bucket=args.site_bucket,
    )
    async with connect(read_nats_section(args)) as client:
        warnings = await make_stores(client, stores)
    for warning in warnings:
        notify(warning)
    consumers = len(args.collector) * args.shards
    buckets = 1 if args.site_bucket else len(hosts)
    counts = (1 + args.shards, "stream"), (buckets, "bucket"), (consumers, "consumer")
    put(", ".join(counted(count, noun) for count, noun in counts))
    return EXIT_REFUSED if warnings else EXIT_OK
