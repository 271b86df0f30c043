"""A nats-server configuration that gives each host and client only the rights it needs.

    account AGENTS        one user per host: subscribes to its requests, replies to them,
                          publishes its own streams
    account <client>      one per client, so that no client sees another's replies. It imports
                          the subjects of its role. The server adds the account's name to each
                          request (`Nats-Request-Info`)

    role          requests                       subscriptions    JetStream
    controller    every verb                     the streams      inventory, policies, objects
    operator      verbs that change nothing      the streams      inventory and policies, to read
    collector     -                              the streams      the consumer with its name

JetStream's streams, buckets and consumers are created by `streams`, a user of AGENTS
(fleet/stores.py). No other user has that right: a stream can copy any subject, and a consumer
can deliver empty messages to any subject, for example `capture.stop`.

No I/O: names and public nkeys in, text out. No secrets.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Literal, TypeAlias

from ..bus.jetstream import api as api_subject
from ..bus.jetstream import key_subject
from ..bus.objects import bucket_name
from ..collect.lease import collectors_bucket
from ..config.sections import TOKEN, host_token
from ..errors import ConfigError
from ..spool.streams import events_stream, flows_stream, flows_streams
from ..wire.events import EVENT_KINDS
from ..wire.inventory import hosts_bucket
from ..wire.policy import RELEASE_KEY, policy_bucket
from ..wire.subjects import flows_subject, shard_of
from ..wire.verbs import VERBS

AGENTS = "AGENTS"
STREAMS = "streams"  # the user that creates JetStream's streams and buckets
LISTEN = "0.0.0.0:4222"
RESPONSE_EXPIRES = "15m"  # deadline of a reply
DISCOVERY = ("PING", "INFO", "STATS")

Role: TypeAlias = Literal["controller", "operator", "collector"]
ROLES: tuple[Role, ...] = ("controller", "operator", "collector")

_CLIENT = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}")


@dataclass(frozen=True, slots=True)
class Host:
    token: str
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Client:
    name: str
    role: Role


@dataclass(frozen=True, slots=True)
class Transport:
    """Listen address (host:port) and files of the server. tls_ca: clients must have a
    certificate signed by this CA. shards: of the flow records."""

    listen: str = LISTEN
    tls_cert: str = ""
    tls_key: str = ""
    tls_ca: str = ""
    tls_handshake_first: bool = False
    jetstream_dir: str = ""
    shards: int = 1


def parse_hosts(lines: Iterable[str]) -> list[Host]:
    """Reads one host per line: its name, then its labels as k=v. `#` starts a comment. Raises
    ConfigError for a malformed label or a duplicate host."""
    hosts: dict[str, Host] = {}
    for number, line in enumerate(lines, 1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        labels = {}
        for word in words[1:]:
            key, separator, value = word.partition("=")
            if not separator or not TOKEN.fullmatch(key) or not TOKEN.fullmatch(value):
                raise ConfigError(f"line {number}: {word!r} is not key=value of a-z, 0-9, _ and -")
            labels[key] = value
        token = host_token(words[0])
        if token in hosts:
            raise ConfigError(f"line {number}: duplicate host {token}")
        hosts[token] = Host(token, labels)
    return list(hosts.values())


def check_clients(clients: Sequence[Client]) -> None:
    names = [client.name for client in clients]
    for name in names:
        if not _CLIENT.fullmatch(name) or name.upper() in (AGENTS, "SYS") or name == STREAMS:
            raise ConfigError(
                f"{name!r} is reserved or not a client name of letters, digits, _ and -"
            )
    repeated = {name for name in names if names.count(name) > 1}
    if repeated:
        raise ConfigError(f"{', '.join(sorted(repeated))}: a client can have only one role")


# ---- permissions ----------------------------------------------------------------------------


def agent_permissions(
    root: str, host: Host, *, jetstream: bool = False, shards: int = 1, domain: str = ""
) -> dict[str, object]:
    """The subjects of one host. Replies are allowed only to requests that it received. domain:
    its JetStream domain."""
    api = partial(api_subject, domain)
    bucket, inventory = bucket_name(root, host.token), hosts_bucket(root)
    policies, shard = policy_bucket(root), shard_of(host.token, shards)
    flows = flows_stream(root, shard)
    key = f"$KV.{inventory}.{host.token}"
    stored = [
        *(api(f"STREAM.INFO.{name}") for name in (flows, events_stream(root))),
        *(api(f"STREAM.{verb}.OBJ_{bucket}") for verb in ("INFO", "PURGE", "MSG.GET")),
        f"$O.{bucket}.>",
    ]
    groups = [f"{root}.group.{key}.{value}.>" for key, value in sorted(host.labels.items())]
    return {
        "publish": {
            "allow": [
                flows_subject(root, host.token, shard),
                f"{root}.stream.metrics.{host.token}",
                *(f"{root}.stream.events.{host.token}.{kind}" for kind in EVENT_KINDS),
                key_subject(domain, inventory, host.token),
                api(f"DIRECT.GET.KV_{inventory}.{key}"),
                api(f"DIRECT.GET.KV_{policies}.$KV.{policies}.>"),
                *(stored if jetstream else (api(f"STREAM.INFO.KV_{inventory}"),)),
            ]
        },
        "subscribe": {
            "allow": [
                *(f"{root}.{verb}" for verb in VERBS),
                f"{root}.host.{host.token}.>",
                *groups,
                *(
                    f"$SRV.{kind}{rest}"
                    for kind in DISCOVERY
                    for rest in ("", ".netsonde", f".netsonde.{host.token}")
                ),
                f"_INBOX_{host.token}.>",
                key,
                f"$KV.{policies}.{RELEASE_KEY}",
            ]
        },
        "allow_responses": {"max": 1, "expires": RESPONSE_EXPIRES},
    }


def administrator_permissions() -> dict[str, object]:
    """Permissions of the user `streams`: all of JetStream, no subject of the fleet."""
    return {
        "publish": {"allow": ["$JS.API.>", "$JS.ACK.>", "$JS.FC.>", "$O.>", "$KV.>"]},
        "subscribe": {"allow": ["_INBOX.>"]},
    }


def jetstream_subjects(
    root: str, client: Client, hosts: Iterable[Host], shards: int = 1
) -> list[str]:
    """The JetStream subjects that a client's commands use. A collector pulls from its consumer
    and acks. Controllers and operators read the inventory and the policies. A controller also
    forgets hosts, applies policies and downloads the objects that hosts stored on its request."""
    inventory, policies = hosts_bucket(root), policy_bucket(root)
    reading = [
        *(f"$JS.API.STREAM.INFO.KV_{bucket}" for bucket in (inventory, policies)),
        f"$JS.API.DIRECT.GET.KV_{inventory}",
        f"$JS.API.DIRECT.GET.KV_{policies}.$KV.{policies}.>",
    ]
    if client.role == "collector":
        leases = collectors_bucket(root)
        keys = f"$KV.{leases}.{client.name}.>"
        sharing = [keys, f"$JS.API.DIRECT.GET.KV_{leases}.{keys}"] if shards > 1 else []
        return sharing + [
            subject
            for stream in flows_streams(root, shards)
            for subject in (
                f"$JS.API.CONSUMER.INFO.{stream}.{client.name}",
                f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{client.name}",
                f"$JS.ACK.{stream}.{client.name}.>",
            )
        ]
    if client.role == "controller":
        objects = [f"$JS.API.DIRECT.GET.OBJ_{bucket_name(root, host.token)}" for host in hosts]
        return [*reading, f"$KV.{inventory}.*", f"$KV.{policies}.>", *objects]
    return reading


def jetstream_imports(stored: Sequence[str]) -> list[str]:
    """The imports for these subjects. With JetStream on, nats-server gives every account its own
    `$JS.API.>`, except for Direct Get. Its reply ("not enabled for account") would race with ours
    unless exactly that subject is imported. The permissions restrict its use."""
    own = any(subject.startswith(("$JS.API.CONSUMER.", "$JS.API.STREAM.")) for subject in stored)
    if own:  # a second import of the same subject would double each request
        stored = ["$JS.API.>" if subject.startswith("$JS.API.") else subject for subject in stored]
    return list(dict.fromkeys(stored))


def request_subjects(root: str, role: Role) -> list[str]:
    """Returns the request subjects that a role may use."""
    if role == "collector":
        return []
    discovery = [
        f"$SRV.{kind}{rest}" for kind in DISCOVERY for rest in ("", ".netsonde", ".netsonde.*")
    ]
    if role == "controller":
        verbs = [f"{root}.{verb}" for verb in VERBS]
        return [*verbs, f"{root}.host.*.>", f"{root}.group.*.*.>", *discovery]
    reading = [name for name, verb in VERBS.items() if not verb.changes]
    prefixes = (f"{root}.", f"{root}.host.*.", f"{root}.group.*.*.")
    return [f"{prefix}{verb}" for verb in reading for prefix in prefixes] + discovery


def client_permissions(root: str, role: Role, stored: Sequence[str] = ()) -> dict[str, object]:
    """Permissions for its inbox, the streams and the requests of its role."""
    allowed = [*request_subjects(root, role), *stored]
    return {
        "publish": {"allow": allowed} if allowed else {"deny": [">"]},
        "subscribe": {"allow": ["_INBOX.>", f"{root}.stream.>"]},
    }


# ---- the file ---------------------------------------------------------------------------------


def server_config(
    root: str,
    hosts: Sequence[Host],
    clients: Sequence[Client],
    nkeys: Mapping[str, str],
    transport: Transport,
) -> str:
    """Returns the text of the file. nkeys: public keys by host token and client name."""
    check_clients(clients)
    shared = {host.token for host in hosts} & {STREAMS, *(client.name for client in clients)}
    if shared:
        raise ConfigError(f"{', '.join(sorted(shared))}: used as a host name and as a client name")
    agents = _agents(root, hosts, clients, nkeys, transport)
    accounts: dict[str, dict[str, Sequence[object]]] = {AGENTS: agents}
    for client in clients:
        stored = (
            jetstream_subjects(root, client, hosts, transport.shards)
            if transport.jetstream_dir
            else []
        )
        accounts[client.name] = _client(root, client, nkeys[client.name], stored)
    lines = [
        "# Written by `netsonde nats setup`. To change it, run the command again.",
        "# It contains only public keys.",
        f"listen: {_value(transport.listen)}",
    ]
    if transport.tls_cert:
        lines += ["tls {", *(f"  {line}" for line in _tls(transport)), "}"]
    if transport.jetstream_dir:
        lines.append(f"jetstream {{ store_dir: {_value(transport.jetstream_dir)} }}")
    lines += ["accounts {"]
    for name, account in accounts.items():
        enabled = ["    jetstream: enabled"] if name == AGENTS and transport.jetstream_dir else []
        lines += [f"  {_value(name)}: {{", *enabled, *_block(account, 4), "  }"]
    return "\n".join([*lines, "}", ""])


def _agents(
    root: str,
    hosts: Sequence[Host],
    clients: Sequence[Client],
    nkeys: Mapping[str, str],
    transport: Transport,
) -> dict[str, Sequence[object]]:
    jetstream, shards = bool(transport.jetstream_dir), transport.shards
    requesters = [client.name for client in clients if client.role != "collector"]
    everyone = [client.name for client in clients]
    services = dict.fromkeys((f"{root}.>", "$SRV.>"), requesters)
    if jetstream:
        for client in clients:
            for subject in jetstream_imports(jetstream_subjects(root, client, hosts, shards)):
                services[subject] = [*services.get(subject, ()), client.name]
    users: list[object] = [
        {
            "nkey": nkeys[host.token],
            "permissions": agent_permissions(root, host, jetstream=jetstream, shards=shards),
        }
        for host in hosts
    ]
    if jetstream:
        users.append({"nkey": nkeys[STREAMS], "permissions": administrator_permissions()})
    return {
        "users": users,
        # Type "stream": many hosts reply to one request.
        "exports": [
            {"service": subject, "response_type": "stream", "accounts": accounts}
            for subject, accounts in services.items()
            if accounts
        ]
        + ([{"stream": f"{root}.stream.>", "accounts": everyone}] if everyone else []),
    }


def _client(
    root: str, client: Client, nkey: str, stored: Sequence[str]
) -> dict[str, Sequence[object]]:
    return {
        "users": [{"nkey": nkey, "permissions": client_permissions(root, client.role, stored)}],
        "imports": [
            {"service": {"account": AGENTS, "subject": subject}, "share": True}
            for subject in request_subjects(root, client.role)
        ]
        + [
            {"service": {"account": AGENTS, "subject": subject}}
            for subject in jetstream_imports(stored)
        ]
        + [{"stream": {"account": AGENTS, "subject": f"{root}.stream.>"}}],
    }


def _tls(transport: Transport) -> list[str]:
    lines = [f"cert_file: {_value(transport.tls_cert)}", f"key_file: {_value(transport.tls_key)}"]
    if transport.tls_ca:
        lines += [f"ca_file: {_value(transport.tls_ca)}", "verify: true"]
    if transport.tls_handshake_first:
        lines.append("handshake_first: true")
    return lines


def _block(account: Mapping[str, Sequence[object]], indent: int) -> list[str]:
    """Renders a map of lists, one item per line, in nats-server's dialect of JSON."""
    pad = " " * indent
    lines = []
    for key, items in account.items():
        lines += [f"{pad}{key}: [", *(f"{pad}  {_value(item)}" for item in items), f"{pad}]"]
    return lines


def _value(value: object) -> str:
    return json.dumps(value)
