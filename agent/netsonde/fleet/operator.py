"""The accounts of roles.py as JWTs of a NATS operator. A host needs no entry on the server.

    operator              signs the accounts
    account SYS           the server's own events
    account AGENTS        its signing key makes the credentials of hosts, offline
    account STORE         JetStream
    account <client>      one per client

Each account has a scoped signing key: the account holds the permissions, and the server puts the
user's name and tags into them. A credential contains no permission, so a stolen signing key of
AGENTS makes hosts and nothing else.

    {{name()}}            the host
    {{tag(group)}}        one subject per label, from tags such as `group:site.ams`

No I/O: seeds in, text out.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..bus import nkey
from ..bus.nkey import ACCOUNT, OPERATOR
from .jwt import credentials, encode
from .leaf import HEAD, remote_lines
from .roles import (
    AGENTS,
    CONNECTION_TYPES,
    LEAF,
    LEAF_CONNECTION_TYPES,
    STORE,
    Account,
    Client,
    Host,
    Transport,
    administrator_permissions,
    agent_permissions,
    client_permissions,
    plan_accounts,
    stored_subjects,
    transport_lines,
    unread_subjects,
)

SYSTEM = "SYS"
NAME = "{{name()}}"
GROUPS = "{{tag(group)}}"
RESPONSE_NS = 15 * 60 * 10**9
UNLIMITED = {"subs": -1, "data": -1, "payload": -1}
_ACCOUNT_LIMITS = {**UNLIMITED, "imports": -1, "exports": -1, "wildcards": True, "conn": -1}
_SYSTEM_SCOPE = {"subscribe": {"allow": ["$SYS.>", "_INBOX.>"]}}
_STORED = {"mem_storage": -1, "disk_storage": -1, "streams": -1, "consumer": -1}


@dataclass(frozen=True, slots=True)
class Keys:
    """The public keys of one account. earlier: signing keys that are still valid. revoked: users,
    and the time up to which their credentials are refused. leaf: signs for leaf nodes."""

    account: str
    signing: str
    earlier: Sequence[str] = ()
    revoked: Mapping[str, int] = field(default_factory=dict)
    leaf: str = ""


def account_names(clients: Sequence[Client], *, jetstream: bool) -> list[str]:
    stored = [STORE] if jetstream else []
    return [SYSTEM, AGENTS, *stored, *(client.name for client in clients)]


def user_credentials(
    name: str, *, account: str, signing_seed: str, tags: Sequence[str] = (), lives_sec: int = 0
) -> tuple[str, str]:
    """Returns the user's public key and the text of a .creds file. account: its public key."""
    seed = nkey.make_seed()
    public = nkey.public_key(seed)
    # Without permissions: the scope of the signing key has them.
    claims: dict[str, Any] = {"type": "user", "issuer_account": account}
    if tags:
        claims["tags"] = list(tags)
    jwt = encode(
        claims, name=name, subject=public, seed=signing_seed, kind=ACCOUNT, lives_sec=lives_sec
    )
    return public, credentials(jwt, seed)


def host_tags(host: Host) -> list[str]:
    return [f"group:{key}.{value}" for key, value in sorted(host.labels.items())]


def operator_jwt(seed: str, system: str) -> str:
    """Returns the operator's JWT. system: the public key of the account SYS. A server needs the
    same one at each reload."""
    return encode(
        {"type": "operator", "system_account": system},
        name="netsonde",
        subject=nkey.public_key(seed, OPERATOR),
        seed=seed,
        kind=OPERATOR,
    )


def operator_config(
    root: str,
    clients: Sequence[Client],
    operator: str,
    operator_seed: str,
    keys: Mapping[str, Keys],
    transport: Transport,
) -> str:
    """Returns the text of nats-server.conf. operator: its JWT. keys: by
    account name."""
    plan = {SYSTEM: Account(), **plan_accounts(root, clients, None, transport)}
    scopes = _scopes(root, clients, transport)
    head = [
        "# Written by `netsonde nats setup --jwt`. To change it, run the command again.",
        "# It contains only public keys.",
        *transport_lines(transport),
    ]
    return _config(head, plan, scopes, operator, operator_seed, keys)


def leaf_config(
    root: str, operator: str, operator_seed: str, keys: Mapping[str, Keys], transport: Transport
) -> str:
    """Returns the text of leaf.conf. Its account AGENTS has the same key as at the hub, and other
    claims (leaf.py)."""
    scopes = {SYSTEM: _SYSTEM_SCOPE, AGENTS: _agent_scope(root, transport, transport.domain)}
    head = [*HEAD, *remote_lines("credentials", keys[AGENTS].account)]
    plan = {SYSTEM: Account(), AGENTS: Account()}
    return _config(head, plan, scopes, operator, operator_seed, keys)


def _config(
    head: Sequence[str],
    plan: Mapping[str, Account],
    scopes: Mapping[str, Mapping[str, Any]],
    operator: str,
    operator_seed: str,
    keys: Mapping[str, Keys],
) -> str:
    lines = [
        *head,
        f"operator: {operator}",
        f"system_account: {keys[SYSTEM].account}",
        "resolver: MEMORY",
        "resolver_preload: {",
    ]
    for name, account in plan.items():
        claims = _account_claims(account, keys, keys[name], scopes[name], name)
        jwt = encode(
            claims, name=name, subject=keys[name].account, seed=operator_seed, kind=OPERATOR
        )
        lines += [f"  # {name}", f"  {keys[name].account}: {json.dumps(jwt)}"]
    return "\n".join([*lines, "}", ""])


def _scopes(
    root: str, clients: Sequence[Client], transport: Transport
) -> dict[str, dict[str, Any]]:
    """Returns the permissions of the users of each account."""
    scopes: dict[str, dict[str, Any]] = {
        SYSTEM: _SYSTEM_SCOPE,
        AGENTS: _agent_scope(root, transport, ""),
        STORE: administrator_permissions(),
    }
    for client in clients:
        stored = stored_subjects(root, client, None, transport)
        controls = client.role == "controller" and stored
        denied = unread_subjects(root, transport.shards) if controls else ()
        scopes[client.name] = client_permissions(root, client.role, stored, denied)
    return scopes


def _agent_scope(root: str, transport: Transport, domain: str) -> dict[str, Any]:
    return agent_permissions(
        root,
        Host(NAME),
        jetstream=bool(transport.jetstream_dir),
        shards=transport.shards,
        domain=domain,
        group=f"{GROUPS}.>",
    )


def _user_scope(
    key: str, role: str, scope: Mapping[str, Any], types: Sequence[str] = CONNECTION_TYPES
) -> dict[str, Any]:
    """Returns a signing key with the permissions of its users."""
    template: dict[str, Any] = {
        "allowed_connection_types": types,
        "pub": scope.get("publish", {}),
        "sub": scope.get("subscribe", {}),
        **UNLIMITED,
    }
    if "allow_responses" in scope:
        template["resp"] = {"max": 1, "ttl": RESPONSE_NS}
    return {"kind": "user_scope", "key": key, "role": role, "template": template}


def _account_claims(
    account: Account, keys: Mapping[str, Keys], own: Keys, scope: Mapping[str, Any], name: str
) -> dict[str, Any]:
    leafs, limits = [], _ACCOUNT_LIMITS | (_STORED if account.jetstream else {})
    if own.leaf:
        leafs.append(_user_scope(own.leaf, LEAF, {}, LEAF_CONNECTION_TYPES))
        limits |= {"leaf": -1}
    return {
        "type": "account",
        "limits": limits,
        "signing_keys": [
            *(_user_scope(key, name, scope) for key in (own.signing, *own.earlier)),
            *leafs,
        ],
        "revocations": dict(own.revoked),
        "mappings": {old: [{"subject": new}] for old, new in account.mappings.items()},
        "exports": [
            {"name": subject, "subject": subject, "type": "service", "response_type": "Stream"}
            for subject in account.services
        ]
        + [{"name": subject, "subject": subject, "type": "stream"} for subject in account.streams],
        "imports": [
            {
                "name": one.subject,
                "subject": one.subject,
                "account": keys[one.account].account,
                "type": one.kind,
                "share": one.share,
            }
            | ({"local_subject": one.to} if one.to else {})
            for one in account.imports
        ],
    }
