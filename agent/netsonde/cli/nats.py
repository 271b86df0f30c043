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
from ..config.sections import BufferSection, FlowsSection
from ..errors import EXIT_OK, EXIT_REFUSED, ConfigError
from ..fleet.roles import (
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
from ..wire.subjects import SHARDS_MAX
from .files import replaced_file
from .output import notify, put
from .requests import add_connection_arguments, read_nats_section, whole

SECRET_MODE = 0o600
ROOT = "capture"
EARLIER = "setup.json"
OPTIONS = {"jetstream_dir": "jetstream"}  # names of arguments that differ from the field's


class NatsCommand:
    """Write a nats-server configuration with accounts and permissions.

    setup     writes nats-server.conf, agents/<host>.nk and clients/<name>.nk to DIR
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
        actions = parser.add_subparsers(dest="action", metavar="setup|streams", required=True)
        setup = actions.add_parser("setup", help="write the server's configuration and keys")
        add_setup_arguments(setup)
        setup.set_defaults(act=run_setup)
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
        "--host", action="append", default=[], metavar="H", help="a host; can be repeated"
    )


def add_setup_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--out", metavar="DIR", required=True, help="output directory")
    add_host_arguments(parser)
    for role in ROLES:
        parser.add_argument(
            f"--{role}", action="append", default=[], metavar="NAME", help=f"a {role}'s name"
        )
    parser.add_argument(
        "--rotate", action="append", default=[], metavar="NAME", help="create a new key for NAME"
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
        "--shards", type=whole(1, SHARDS_MAX), default=1, metavar="P",
        help="[flows] shards of the agents (1)",
    )  # fmt: skip


def add_streams_arguments(parser: ArgumentParser) -> None:
    add_host_arguments(parser)
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
    hosts = read_hosts(args)
    clients = [Client(name, role) for role in ROLES for name in getattr(args, role)]
    out = Path(args.out)
    if args.add:
        hosts, clients = merge(args, read_earlier(out), hosts, clients)
    check_clients(clients)
    if bool(args.tls_cert) != bool(args.tls_key):
        raise ConfigError("--tls-cert and --tls-key must be used together")
    transport = Transport(
        listen=args.listen,
        tls_cert=args.tls_cert,
        tls_key=args.tls_key,
        tls_ca=args.tls_ca,
        tls_handshake_first=args.tls_handshake_first,
        jetstream_dir=args.jetstream,
        shards=args.shards,
    )
    try:
        text = write_setup(out, args.root, hosts, clients, args.rotate, transport)
        earlier = Earlier(args.root, hosts, clients, transport)
        replace(out / EARLIER, msgspec.json.encode(earlier).decode() + "\n", 0o644)
    except OSError as error:
        raise ConfigError(f"{error.filename}: {error.strerror}") from None
    put(f"{text}: {len(hosts)} hosts, {len(clients)} clients")
    if not args.tls_cert:
        notify("no --tls-cert, so connections are not encrypted")
    return EXIT_OK


class Earlier(msgspec.Struct):
    """The arguments of the last `setup`, without secrets, for `--add`."""

    root: str
    hosts: list[Host]
    clients: list[Client]
    transport: Transport


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
    for field in dataclasses.fields(Transport):
        name = OPTIONS.get(field.name, field.name)
        if getattr(args, name) == field.default:
            setattr(args, name, getattr(earlier.transport, field.name))
    all_hosts = {host.token: host for host in (*earlier.hosts, *hosts)}
    all_clients = {client.name: client for client in (*earlier.clients, *clients)}
    return list(all_hosts.values()), list(all_clients.values())


def read_hosts(args: Namespace) -> list[Host]:
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
    if not hosts:
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
    files |= {client.name: out / "clients" / f"{client.name}.nk" for client in clients}
    unknown = set(rotate) - files.keys()
    if unknown:
        raise ConfigError(f"--rotate {', '.join(sorted(unknown))}: no such host or client")
    for directory in ("agents", "clients"):
        (out / directory).mkdir(parents=True, exist_ok=True, mode=0o700)
    public = {name: ensure_key(path, new=name in rotate) for name, path in files.items()}
    config = out / "nats-server.conf"
    replace(config, server_config(root, hosts, clients, public, transport), 0o644)
    return config


def ensure_key(path: Path, *, new: bool) -> str:
    """Returns the public key of a file. Creates the file if it is missing or `new`."""
    if new or not path.exists():
        replace(path, nkey.make_seed() + "\n", SECRET_MODE)
    try:
        return nkey.public_key(path.read_text().strip())
    except (nkey.DamagedSeedError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: {error}; create a new key with --rotate") from None


def replace(path: Path, text: str, mode: int) -> None:
    """Writes a file as a whole, with these permissions from the start."""
    with replaced_file(path, mode) as file:
        file.write(text.encode())


# ---- streams ---------------------------------------------------------------------------------


def run_streams(args: Namespace) -> int:
    return asyncio.run(make_streams(args, read_hosts(args)))


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
    )
    async with connect(read_nats_section(args)) as client:
        warnings = await make_stores(client, stores)
    for warning in warnings:
        notify(warning)
    consumers = len(args.collector) * args.shards
    put(f"{1 + args.shards} streams, {len(hosts)} buckets, {consumers} consumers")
    return EXIT_REFUSED if warnings else EXIT_OK
