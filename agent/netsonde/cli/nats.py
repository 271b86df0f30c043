"""`netsonde nats`: a nats-server configuration with a role for everyone, their keys, and what
they keep in JetStream."""

from __future__ import annotations

import asyncio
import os
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path

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
from .requests import add_connection_arguments, read_nats_section, whole

SECRET_MODE = 0o600


class NatsCommand:
    """Write a nats-server configuration with accounts and permissions.

    setup     writes into DIR: nats-server.conf, agents/<host>.nk and clients/<name>.nk
    streams   makes the JetStream streams, a bucket a host, and a consumer a collector

    Agents, controllers (every verb), operators (verbs that change nothing) and collectors
    (the streams) get a key each; the configuration holds only the public halves. Run it again
    with a longer list and the keys that are there stay; --rotate NAME makes a new one. Tell
    the server with `nats-server --signal reload`, and give each host its file: [nats] nkey.
    With --jetstream there is clients/streams.nk besides: the key for `streams`, which leaves
    alone what is there, and is run again when hosts or collectors are added.
    """

    name = "nats"

    def add_arguments(self, parser: ArgumentParser) -> None:
        actions = parser.add_subparsers(dest="action", metavar="setup|streams", required=True)
        setup = actions.add_parser("setup", help="write the server's configuration and keys")
        add_setup_arguments(setup)
        setup.set_defaults(act=run_setup)
        streams = actions.add_parser("streams", help="make what is kept in JetStream")
        add_streams_arguments(streams)
        streams.set_defaults(act=run_streams)

    def run(self, args: Namespace) -> int:
        return int(args.act(args))


def add_host_arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--hosts", metavar="FILE", help="the hosts, one a line, with their labels as k=v"
    )
    parser.add_argument(
        "--host", action="append", default=[], metavar="H", help="a host; can be repeated"
    )


def add_setup_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--out", metavar="DIR", required=True, help="where to write")
    add_host_arguments(parser)
    for role in ROLES:
        parser.add_argument(
            f"--{role}", action="append", default=[], metavar="NAME", help=f"a {role}'s name"
        )
    parser.add_argument(
        "--rotate", action="append", default=[], metavar="NAME", help="make a new key for it"
    )
    parser.add_argument("--root", default="capture", help="root of all subjects (capture)")
    parser.add_argument("--listen", default=LISTEN, metavar="HOST:PORT")
    parser.add_argument("--tls-cert", default="", metavar="FILE", help="the server's")
    parser.add_argument("--tls-key", default="", metavar="FILE", help="the server's")
    parser.add_argument(
        "--tls-ca", default="", metavar="FILE", help="clients need a certificate of this CA"
    )
    parser.add_argument(
        "--tls-handshake-first", action="store_true", help="TLS before the first word"
    )
    parser.add_argument(
        "--jetstream", default="", metavar="DIR", help="where the server keeps its streams"
    )


def add_streams_arguments(parser: ArgumentParser) -> None:
    add_host_arguments(parser)
    parser.add_argument(
        "--collector", action="append", default=[], metavar="NAME", help="a collector's name"
    )
    flows, buffer = FlowsSection(), BufferSection()
    for name, default, help_text in (
        ("--replicas", flows.stream_replicas, "of each stream"),
        ("--max-age-hours", flows.stream_max_age_hours, "of the streams; 0: no limit"),
        ("--bucket-mb", buffer.bucket_mb, "of each bucket"),
        ("--bucket-hours", buffer.bucket_hours, "of what is in a bucket"),
    ):
        parser.add_argument(
            name, type=whole(0), default=default, metavar="N", help=f"{help_text} ({default})"
        )
    add_connection_arguments(parser)


# ---- setup -----------------------------------------------------------------------------------


def run_setup(args: Namespace) -> int:
    hosts = read_hosts(args)
    clients = [Client(name, role) for role in ROLES for name in getattr(args, role)]
    check_clients(clients)
    if bool(args.tls_cert) != bool(args.tls_key):
        raise ConfigError("--tls-cert and --tls-key go together")
    transport = Transport(
        listen=args.listen,
        tls_cert=args.tls_cert,
        tls_key=args.tls_key,
        tls_ca=args.tls_ca,
        tls_handshake_first=args.tls_handshake_first,
        jetstream_dir=args.jetstream,
    )
    out = Path(args.out)
    try:
        text = write_setup(out, args.root, hosts, clients, args.rotate, transport)
    except OSError as error:
        raise ConfigError(f"{error.filename}: {error.strerror}") from None
    print(f"{text}: {len(hosts)} hosts, {len(clients)} clients")
    if not args.tls_cert:
        print("netsonde: without --tls-cert everything travels in clear", file=sys.stderr)
    return EXIT_OK


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
        raise ConfigError("no hosts: name them with --hosts or --host")
    return hosts


def write_setup(
    out: Path,
    root: str,
    hosts: Sequence[Host],
    clients: Sequence[Client],
    rotate: Sequence[str],
    transport: Transport,
) -> Path:
    """The configuration is written last, and whole: a server that reloads sees old or new."""
    files = {host.token: out / "agents" / f"{host.token}.nk" for host in hosts}
    if transport.jetstream_dir:
        files[STREAMS] = out / "clients" / f"{STREAMS}.nk"
    files |= {client.name: out / "clients" / f"{client.name}.nk" for client in clients}
    strangers = set(rotate) - files.keys()
    if strangers:
        raise ConfigError(f"--rotate {', '.join(sorted(strangers))}: no such host or client")
    for directory in ("agents", "clients"):
        (out / directory).mkdir(parents=True, exist_ok=True, mode=0o700)
    public = {name: keep_key(path, new=name in rotate) for name, path in files.items()}
    config = out / "nats-server.conf"
    replace(config, server_config(root, hosts, clients, public, transport), 0o644)
    return config


def keep_key(path: Path, *, new: bool) -> str:
    """The public key of the file, which is made if it is not there or a new one is wanted."""
    if new or not path.exists():
        replace(path, nkey.make_seed() + "\n", SECRET_MODE)
    try:
        return nkey.public_key(path.read_text().strip())
    except (nkey.DamagedSeedError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: {error}; --rotate makes a new one") from None


def replace(path: Path, text: str, mode: int) -> None:
    """Never half written, and never open to others, not even for a moment."""
    draft = path.with_name(f".{path.name}.new")
    draft.unlink(missing_ok=True)
    file = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    with os.fdopen(file, "w") as writer:
        writer.write(text)
        writer.flush()
        os.fsync(file)
    draft.replace(path)


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
        streams=StreamSettings(replicas=args.replicas, max_age_hours=args.max_age_hours),
        bucket_bytes_max=args.bucket_mb << 20,
        bucket_age_max_sec=args.bucket_hours * 3600,
    )
    async with connect(read_nats_section(args)) as client:
        wrong = await make_stores(client, stores)
    for words in wrong:
        print(f"netsonde: {words}", file=sys.stderr)
    print(f"2 streams, {len(hosts)} buckets, {len(args.collector)} consumers")
    return EXIT_REFUSED if wrong else EXIT_OK
