"""The nats-server configuration of a site: a leaf node that carries the account AGENTS to the hub.

The agents of a site use their own credentials at its server. Its server has no streams of the
fleet: agents use the hub's JetStream by the subjects of the hub's domain. So the permissions here
name the subjects with that domain. The hub maps them to those without it (roles.domain_mappings).
The account has no imports here, because the hub has them. With the same imports here, the site's
own JetStream would answer.

nats-server does not check what a leaf node sends. The key `leaf` therefore stands for the whole
account AGENTS: every host, and JetStream's API. No other key may enter as a leaf node.

No I/O: names, public keys and JWTs in, text out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from .roles import AGENTS, Host, Transport, agent_permissions, block_lines, host_user, render

HEAD = [
    "# The server of a site: a leaf node of the hub. Written by `netsonde nats setup`.",
    "# It contains only public keys. Set these variables: NAME, LISTEN, HUB_LEAFS and LEAF_KEY.",
    "server_name: $NAME",
    "listen: $LISTEN",
]


def remote_lines(login: str, account: str) -> list[str]:
    """Returns the connection to the hub. login: `nkey`, a seed, or `credentials`, a path."""
    remote = f"{{ urls: $HUB_LEAFS, {login}: $LEAF_KEY, account: {render(account)} }}"
    return [f'leafnodes {{ reconnect: "1s", remotes: [ {remote} ] }}']


def leaf_config(
    root: str, hosts: Sequence[Host], nkeys: Mapping[str, str], transport: Transport
) -> str:
    """Returns the text of leaf.conf in the static form, with a user per host."""
    users = [
        host_user(
            nkeys[host.token],
            agent_permissions(
                root, host, jetstream=True, shards=transport.shards, domain=transport.domain
            ),
        )
        for host in hosts
    ]
    return "\n".join(
        [
            *HEAD,
            *remote_lines("nkey", AGENTS),
            "accounts {",
            f"  {render(AGENTS)}: {{",
            *block_lines({"users": users}, 4),
            "  }",
            "}",
            "",
        ]
    )
