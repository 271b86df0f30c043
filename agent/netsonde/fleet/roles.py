"""A nats-server configuration that gives each host and client only the rights it needs.

    account AGENTS        one user per host: subscribes to its requests, replies to them,
                          publishes its own streams
    account STORE         JetStream: streams, buckets, consumers
    account <client>      one per client, so that no client sees another's replies. It imports
                          the subjects of its role. The server adds the account's name to each
                          request (`Nats-Request-Info`)

    role          requests                       subscriptions    JetStream
    controller    every verb                     the streams      inventory, policies, objects
    operator      verbs that change nothing      the streams      inventory and policies, to read
    tapper        those and `tap`                the streams      inventory and policies, to read
    collector     -                              the streams      the consumer with its name

JetStream's streams, buckets and consumers are created by `streams`, a user of STORE
(fleet/stores.py). No other user has that right: a stream can copy any subject, and a consumer
can deliver empty messages to any subject, for example `capture.stop`.

Two properties of nats-server shape the accounts. JetStream replies to whatever subject a request
names, without a check. Agents are in an account without JetStream, so such a reply reaches no
stream and no bucket. And `allow_responses` permits a reply to any message that a user receives.
So no agent may subscribe to a subject to which it may publish: with a message to itself, it could
permit itself any subject.

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
from ..bus.objects import bucket_name, site_bucket_name
from ..collect.lease import collectors_bucket
from ..config.sections import TOKEN, host_token
from ..errors import ConfigError
from ..spool.streams import events_stream, flows_stream, flows_streams
from ..wire.events import EVENT_KINDS
from ..wire.inventory import changes_subject, hosts_bucket
from ..wire.policy import RELEASE_KEY, announcement_subject, policy_bucket
from ..wire.subjects import flows_subject, shard_of, tapped_subject
from ..wire.verbs import VERBS

AGENTS = "AGENTS"
STORE = "STORE"
RESERVED = (AGENTS, STORE, "SYS")
STREAMS = "streams"  # the user that creates JetStream's streams and buckets
LEAF = "leaf"  # the user of the leaf nodes (leaf.py)
# nats-server does not check what a leaf node sends. So no other credential may enter as one.
CONNECTION_TYPES = ("STANDARD", "WEBSOCKET")
LEAF_CONNECTION_TYPES = ("LEAFNODE",)
LISTEN = "0.0.0.0:4222"
RESPONSE_EXPIRES = "15m"  # deadline of a reply
DISCOVERY = ("PING", "INFO", "STATS")

Role: TypeAlias = Literal["controller", "operator", "tapper", "collector"]
ROLES: tuple[Role, ...] = ("controller", "operator", "tapper", "collector")
TAPPING: tuple[Role, ...] = ("controller", "tapper")  # roles that may open taps

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
    certificate signed by this CA. domain: of the server's JetStream. leaf_listen: listen address
    for leaf nodes."""

    listen: str = LISTEN
    tls_cert: str = ""
    tls_key: str = ""
    tls_ca: str = ""
    tls_handshake_first: bool = False
    jetstream_dir: str = ""
    shards: int = 1
    domain: str = ""
    leaf_listen: str = ""


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
        if not _CLIENT.fullmatch(name) or name.upper() in RESERVED or name == STREAMS:
            raise ConfigError(
                f"{name!r} is reserved or not a client name of letters, digits, _ and -"
            )
    repeated = {name for name in names if names.count(name) > 1}
    if repeated:
        raise ConfigError(f"{', '.join(sorted(repeated))}: a client can have only one role")


# ---- permissions ----------------------------------------------------------------------------


def agent_permissions(
    root: str,
    host: Host,
    *,
    jetstream: bool = False,
    shards: int = 1,
    domain: str = "",
    group: str = "",
) -> dict[str, object]:
    """The subjects of one host. Replies are allowed only to requests that it received. domain:
    its JetStream domain. group: set in a template for all hosts; a pattern for the groups,
    instead of the host's labels."""
    api = partial(api_subject, domain)
    bucket, inventory = bucket_name(root, host.token), hosts_bucket(root)
    site = site_bucket_name(root)
    policies = policy_bucket(root)
    shard = shard_of(host.token, shards)
    records, flows = flows_subject(root, host.token, shard), [flows_stream(root, shard)]
    if group and shards > 1:
        records = flows_subject(root, f"{host.token}.*")
        flows = list(flows_streams(root, shards))
    key = f"$KV.{inventory}.{host.token}"
    stored = [
        *(api(f"STREAM.INFO.{name}") for name in (*flows, events_stream(root))),
        *(api(f"STREAM.{verb}.OBJ_{bucket}") for verb in ("INFO", "PURGE", "MSG.GET")),
        f"$O.{bucket}.>",
        *(f"$O.{site}.{part}.{host.token}.*" for part in "CM"),
    ]
    groups = [f"{root}.group.{key}.{value}.>" for key, value in sorted(host.labels.items())]
    if group:
        groups = [f"{root}.group.{group}"]
    return {
        "publish": {
            "allow": [
                records,
                f"{root}.stream.metrics.{host.token}",
                *(f"{root}.stream.events.{host.token}.{kind}" for kind in EVENT_KINDS),
                tapped_subject(root, "*", f"*.{host.token}"),
                key_subject(domain, inventory, host.token),
                api(f"DIRECT.GET.KV_{inventory}.{key}"),
                api(f"DIRECT.GET.KV_{policies}.$KV.{policies}.>"),
                # Also asked while JetStream is away; a refusal would then raise an alarm.
                api(f"STREAM.INFO.KV_{inventory}"),
                *(stored if jetstream else ()),
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
                changes_subject(root, host.token),
                f"$KV.{policies}.{RELEASE_KEY}",
                announcement_subject(root, RELEASE_KEY),
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
    root: str, client: Client, hosts: Iterable[Host] | None, shards: int = 1
) -> list[str]:
    """The JetStream subjects that a client's commands use. A collector pulls from its consumer
    and acks. Controllers and operators read the inventory and the policies. A controller also
    forgets hosts, applies policies and downloads the objects that hosts stored on its request.

    hosts: None if they are not known. A wildcard matches whole tokens, and the name of a bucket is
    one token. So only `*` covers the bucket of each host, and `unread_subjects` are denied.
    """
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
        names = ["*"]
        if hosts is not None:
            own = [bucket_name(root, host.token) for host in hosts]
            names = [f"OBJ_{bucket}" for bucket in (site_bucket_name(root), *own)]
        objects = [f"$JS.API.DIRECT.GET.{name}" for name in names]
        return [*reading, f"$KV.{inventory}.*", f"$KV.{policies}.>", *objects]
    return reading


def unread_subjects(root: str, shards: int = 1) -> list[str]:
    """The subjects to read streams that no controller needs. They are denied if it may read any
    bucket."""
    names = (*flows_streams(root, shards), events_stream(root), f"KV_{collectors_bucket(root)}")
    return [f"$JS.API.DIRECT.GET.{name}" for name in names]


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
    allowed = [name for name, verb in VERBS.items() if not verb.changes]
    control = []
    if role == "tapper":
        allowed.append("tap")
        control = [f"{root}.host.*.tap.*.{action}" for action in ("credit", "stop")]
    prefixes = (f"{root}.", f"{root}.host.*.", f"{root}.group.*.*.")
    return [f"{prefix}{verb}" for verb in allowed for prefix in prefixes] + control + discovery


def client_permissions(
    root: str, role: Role, stored: Sequence[str] = (), denied: Sequence[str] = ()
) -> dict[str, object]:
    """Permissions for its inbox, the streams and the requests of its role."""
    allowed = [*request_subjects(root, role), *stored]
    tapped = [tapped_subject(root, "mine")] if role in TAPPING else []
    publish = {"allow": allowed} if allowed else {"deny": [">"]}
    if denied:
        publish["deny"] = [*denied]
    return {
        "publish": publish,
        "subscribe": {"allow": ["_INBOX.>", f"{root}.stream.>", *tapped]},
    }


# ---- accounts -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Import:
    kind: Literal["service", "stream"]
    account: str
    subject: str
    share: bool = False  # add the requester's name
    to: str = ""  # the subject in the importing account, if it is another one


@dataclass(slots=True)
class Account:
    """mappings: subjects that the server replaces before it checks permissions. services: exported
    to the named accounts, whose requests get any number of replies. streams: likewise, for
    subscribers."""

    jetstream: bool = False
    mappings: Mapping[str, str] = field(default_factory=dict)
    services: dict[str, list[str]] = field(default_factory=dict)
    streams: dict[str, list[str]] = field(default_factory=dict)
    imports: list[Import] = field(default_factory=list)


def domain_mappings(domain: str) -> dict[str, str]:
    """Returns what the server maps in an account, so that a subject with its domain needs the
    same permission as the subject without one. nats-server makes these mappings in some accounts:
    not in those of JWTs without JetStream, and not in all after a reload."""
    names = ("STREAM", "CONSUMER", "DIRECT")
    found = {f"$JS.{domain}.API.{name}.>": f"$JS.API.{name}.>" for name in names}
    found |= {f"$JS.{domain}.API.INFO": "$JS.API.INFO", f"$JS.{domain}.API.$KV.>": "$KV.>"}
    return found if domain else {}


def agent_services(root: str) -> list[str]:
    """The subjects of STORE to which agents may send, each only with its own name."""
    return [f"{root}.stream.>", f"$KV.{hosts_bucket(root)}.*", "$O.>", "$JS.API.>"]


def agent_streams(root: str) -> list[str]:
    """The subjects of STORE that agents receive."""
    return [
        changes_subject(root, "*"),
        f"$KV.{policy_bucket(root)}.{RELEASE_KEY}",
        announcement_subject(root, RELEASE_KEY),
    ]


def stored_subjects(
    root: str, client: Client, hosts: Sequence[Host] | None, transport: Transport
) -> list[str]:
    if not transport.jetstream_dir:
        return []
    return jetstream_subjects(root, client, hosts, transport.shards)


def plan_accounts(
    root: str, clients: Sequence[Client], hosts: Sequence[Host] | None, transport: Transport
) -> dict[str, Account]:
    """Returns the accounts without their users. hosts: None if they are not known."""
    jetstream = bool(transport.jetstream_dir)
    mappings = domain_mappings(transport.domain)
    agents, store = Account(mappings=mappings), Account(jetstream=jetstream, mappings=mappings)
    accounts = {AGENTS: agents, STORE: store} if jetstream else {AGENTS: agents}
    requesters = [client.name for client in clients if client.role != "collector"]
    everyone = [client.name for client in clients]
    if requesters:
        agents.services = dict.fromkeys((f"{root}.>", "$SRV.>"), requesters)
    if everyone:
        agents.streams[f"{root}.stream.>"] = everyone
    if jetstream:
        for subject in agent_services(root):
            store.services[subject] = [AGENTS]
            agents.imports.append(Import("service", STORE, subject))
        for subject in agent_streams(root):
            store.streams[subject] = [AGENTS]
            agents.imports.append(Import("stream", STORE, subject))
    for client in clients:
        stored = stored_subjects(root, client, hosts, transport)
        requests = request_subjects(root, client.role)
        imports = [Import("service", AGENTS, one, share=True) for one in requests]
        account = Account(imports=imports, mappings=mappings)
        for subject in jetstream_imports(stored):
            store.services[subject] = [*store.services.get(subject, ()), client.name]
            account.imports.append(Import("service", STORE, subject))
        account.imports.append(Import("stream", AGENTS, f"{root}.stream.>"))
        if client.role in TAPPING:
            tapped = tapped_subject(root, client.name)
            agents.streams[tapped] = [client.name]
            mine = tapped_subject(root, "mine")
            account.imports.append(Import("stream", AGENTS, tapped, to=mine))
        accounts[client.name] = account
    return accounts


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
    jetstream = bool(transport.jetstream_dir)
    users: dict[str, list[object]] = {
        AGENTS: [
            host_user(
                nkeys[host.token],
                agent_permissions(root, host, jetstream=jetstream, shards=transport.shards),
            )
            for host in hosts
        ]
    }
    if transport.leaf_listen:
        users[AGENTS].append(
            {"nkey": nkeys[LEAF], "allowed_connection_types": LEAF_CONNECTION_TYPES}
        )
    if jetstream:
        users[STORE] = [host_user(nkeys[STREAMS], administrator_permissions())]
    for client in clients:
        stored = stored_subjects(root, client, hosts, transport)
        rights = client_permissions(root, client.role, stored)
        users[client.name] = [host_user(nkeys[client.name], rights)]
    accounts = plan_accounts(root, clients, hosts, transport)
    lines = [
        "# Written by `netsonde nats setup`. To change it, run the command again.",
        "# It contains only public keys.",
        *transport_lines(transport),
        "accounts {",
    ]
    for name, account in accounts.items():
        enabled = ["    jetstream: enabled"] if account.jetstream else []
        if account.mappings:
            enabled.append(f"    mappings: {render(account.mappings)}")
        block = {"users": users[name]} | _bindings(account)
        lines += [f"  {render(name)}: {{", *enabled, *block_lines(block, 4), "  }"]
    return "\n".join([*lines, "}", ""])


def host_user(key: str, rights: Mapping[str, object]) -> object:
    return {
        "nkey": key,
        "permissions": rights,
        "allowed_connection_types": CONNECTION_TYPES,
    }


def _bindings(account: Account) -> dict[str, list[object]]:
    """Returns the exports and imports of an account."""
    exports: list[object] = [
        # Type "stream": many hosts reply to one request.
        {"service": subject, "response_type": "stream", "accounts": importers}
        for subject, importers in account.services.items()
    ]
    exports += [
        {"stream": subject, "accounts": importers} for subject, importers in account.streams.items()
    ]
    imports: list[object] = [
        {one.kind: {"account": one.account, "subject": one.subject}}
        | ({"share": True} if one.share else {})
        | ({"to": one.to} if one.to else {})
        for one in account.imports
    ]
    return {"exports": exports, "imports": imports}


def transport_lines(transport: Transport) -> list[str]:
    """Returns the settings of the listener and of JetStream."""
    lines = [f"listen: {render(transport.listen)}"]
    tls = ["tls {", *(f"  {line}" for line in _tls(transport)), "}"] if transport.tls_cert else []
    lines += tls
    if transport.leaf_listen:
        inside = [f"listen: {render(transport.leaf_listen)}", "no_advertise: true", *tls]
        lines += ["leafnodes {", *(f"  {line}" for line in inside), "}"]
    if transport.jetstream_dir:
        domain = f", domain: {render(transport.domain)}" if transport.domain else ""
        lines.append(f"jetstream {{ store_dir: {render(transport.jetstream_dir)}{domain} }}")
    return lines


def _tls(transport: Transport) -> list[str]:
    lines = [f"cert_file: {render(transport.tls_cert)}", f"key_file: {render(transport.tls_key)}"]
    if transport.tls_ca:
        lines += [f"ca_file: {render(transport.tls_ca)}", "verify: true"]
    if transport.tls_handshake_first:
        lines.append("handshake_first: true")
    return lines


def block_lines(account: Mapping[str, Sequence[object]], indent: int) -> list[str]:
    """Renders a map of lists, one item per line."""
    pad = " " * indent
    lines = []
    for key, items in account.items():
        lines += [f"{pad}{key}: [", *(f"{pad}  {render(item)}" for item in items), f"{pad}]"]
    return lines


def render(value: object) -> str:
    """Renders a value in nats-server's dialect of JSON."""
    return json.dumps(value)
