"""The JWT form of `netsonde nats`: an operator's accounts, and credentials made offline.

keys/operator.nk          signs the accounts
keys/<account>.nk         signs the credentials of one account's users
operator.json             accounts, options, revocations; no secrets
issued.jsonl              name and public key of each credential; no secrets
agents/<host>.creds, clients/<name>.creds, nats-server.conf
"""

from __future__ import annotations

import dataclasses
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec

from ..bus import nkey
from ..bus.nkey import ACCOUNT, OPERATOR, USER
from ..errors import EXIT_OK, ConfigError
from ..fleet.operator import (
    SYSTEM,
    Keys,
    account_names,
    host_tags,
    leaf_config,
    operator_config,
    operator_jwt,
    user_credentials,
)
from ..fleet.roles import (
    AGENTS,
    LEAF,
    STORE,
    STREAMS,
    Client,
    Host,
    Transport,
    check_clients,
    parse_hosts,
)
from ..wire.quantity import counted
from .files import replaced_file
from .output import put
from .requests import whole

SECRET_MODE, PUBLIC_MODE = 0o600, 0o644
STATE, ISSUED, CONFIG = "operator.json", "issued.jsonl", "nats-server.conf"
LEAF_CONFIG = "leaf.conf"
HOSTS = "agents"  # names the signing key of hosts in --rotate
DAY_SEC = 86_400
USERS = {SYSTEM: "sys", STORE: STREAMS}  # user of an account; a client's has the client's name


class State(msgspec.Struct):
    """The last setup. operator: its JWT. accounts: public keys by account name."""

    root: str
    clients: list[Client]
    transport: Transport
    accounts: dict[str, Keys]
    operator: str = ""


class Issued(msgspec.Struct):
    name: str
    key: str
    time: int


# ---- arguments -------------------------------------------------------------------------------


def add_out_argument(parser: ArgumentParser) -> None:
    parser.add_argument("--out", metavar="DIR", required=True, help="directory of the setup")


def add_issue_arguments(parser: ArgumentParser) -> None:
    add_out_argument(parser)
    parser.add_argument("words", nargs="*", metavar="HOST [K=V …]", help="a host and its labels")
    parser.add_argument(
        "--hosts", metavar="FILE", help="file with one host per line, then its labels as k=v"
    )
    parser.add_argument(
        "--days", type=whole(0), default=0, metavar="N", help="lifetime; 0: no limit (0)"
    )


def add_revoke_arguments(parser: ArgumentParser) -> None:
    add_out_argument(parser)
    parser.add_argument("names", nargs="+", metavar="NAME", help="a host, a client or a public key")


# ---- commands --------------------------------------------------------------------------------


def write_operator(
    out: Path,
    root: str,
    clients: Sequence[Client],
    transport: Transport,
    *,
    rotate: Sequence[str] = (),
    drop_earlier: bool = False,
) -> Path:
    """Writes what is missing: keys, the clients' credentials and the server's configuration."""
    check_clients(clients)
    accounts = account_names(clients, jetstream=bool(transport.jetstream_dir))
    rotated = {AGENTS if name == HOSTS else name for name in rotate}
    if unknown := rotated - {*accounts, *([LEAF] if transport.leaf_listen else [])}:
        raise ConfigError(f"--rotate {', '.join(sorted(unknown))}: no such client, nor `{HOSTS}`")
    for directory in ("keys", "agents", "clients"):
        (out / directory).mkdir(parents=True, exist_ok=True, mode=0o700)
    last = read_state(out) if (out / STATE).exists() else None
    earlier = last.accounts if last else {}
    keys = {
        name: _account_keys(
            out, name, earlier.get(name), new=name in rotated, drop_earlier=drop_earlier
        )
        for name in accounts
    }
    for name in accounts:
        user = USERS.get(name, name)
        path = out / "clients" / f"{user}.creds"
        if name != AGENTS and (name in rotated or not path.exists()):
            _issue(out, path, user, name, keys[name].account)
    if transport.leaf_listen:
        _add_leaf(out, keys, new=LEAF in rotated)
    return _write_state(
        out, State(root, list(clients), transport, keys, last.operator if last else "")
    )


def _add_leaf(out: Path, keys: dict[str, Keys], *, new: bool) -> None:
    """Makes the credential of the leaf nodes, with a signing key that no host's credential has."""
    signing = ensure_key(out / "keys" / f"{LEAF}.nk", ACCOUNT, new=new)
    keys[AGENTS] = dataclasses.replace(keys[AGENTS], leaf=signing)
    path = out / "clients" / f"{LEAF}.creds"
    if new or not path.exists():
        _issue(out, path, LEAF, LEAF, keys[AGENTS].account)


def run_issue(args: Namespace) -> int:
    """Makes credentials of hosts. Needs no server, only operator.json and keys/AGENTS.nk."""
    out = Path(args.out)
    lines = [" ".join(args.words)] if args.words else []
    if args.hosts:
        try:
            lines += Path(args.hosts).read_text().splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{args.hosts}: {error}") from None
    hosts = parse_hosts(lines)
    if not hosts:
        raise ConfigError("no hosts: name one, or use --hosts")
    issue_hosts(out, hosts, lives_sec=args.days * DAY_SEC)
    put(f"{out / 'agents'}: {counted(len(hosts), 'credential')}")
    return EXIT_OK


def issue_hosts(out: Path, hosts: Iterable[Host], *, lives_sec: int = 0) -> None:
    account = read_state(out).accounts[AGENTS].account
    (out / "agents").mkdir(exist_ok=True, mode=0o700)
    for host in hosts:
        path = out / "agents" / f"{host.token}.creds"
        _issue(out, path, host.token, AGENTS, account, tags=host_tags(host), lives_sec=lives_sec)


def run_revoke(args: Namespace) -> int:
    """Adds the keys of these hosts and clients to the revocations of their accounts."""
    out = Path(args.out)
    state, issued = read_state(out), _read_issued(out)
    for name in args.names:
        keys = [one.key for one in issued if name in (one.name, one.key)]
        if not keys and nkey.is_public(name, USER):
            keys = [name]  # made from a copy of this directory
        if not keys:
            raise ConfigError(f"{name}: no credential of that name in {out / ISSUED}")
        account = next((key for key, user in USERS.items() if user == name), name)
        account = account if account in state.accounts else AGENTS
        own = state.accounts[account]
        revoked = {**own.revoked, **dict.fromkeys(keys, int(time.time()))}
        state.accounts[account] = dataclasses.replace(own, revoked=revoked)
    config = _write_state(out, state)
    put(f"{config}: {', '.join(args.names)} revoked; reload the server")
    return EXIT_OK


def read_state(out: Path) -> State:
    try:
        return msgspec.json.decode((out / STATE).read_bytes(), type=State)
    except (OSError, msgspec.DecodeError) as error:
        raise ConfigError(
            f"{out / STATE}: {error}; run `netsonde nats setup --jwt` first"
        ) from None


# ---- files -----------------------------------------------------------------------------------


def _account_keys(
    out: Path, name: str, known: Keys | None, *, new: bool, drop_earlier: bool
) -> Keys:
    """Returns the keys of an account. Makes its signing key if it is missing or `new`. Earlier
    signing keys of hosts stay valid until `drop_earlier`."""
    signing = ensure_key(out / "keys" / f"{name}.nk", ACCOUNT, new=new)
    if known is None:  # the operator signs for the account, so its own seed is not kept
        return Keys(nkey.public_key(nkey.make_seed(ACCOUNT), ACCOUNT), signing)
    earlier = [] if drop_earlier or name != AGENTS else list(known.earlier)
    if name == AGENTS and signing != known.signing and not drop_earlier:
        earlier.append(known.signing)
    return Keys(known.account, signing, earlier, known.revoked)


def _issue(
    out: Path,
    path: Path,
    name: str,
    account: str,
    public: str,
    *,
    tags: Sequence[str] = (),
    lives_sec: int = 0,
) -> None:
    seed = _read_seed(out / "keys" / f"{account}.nk", ACCOUNT)
    key, text = user_credentials(
        name, account=public, signing_seed=seed, tags=tags, lives_sec=lives_sec
    )
    replace(path, text, SECRET_MODE)
    with (out / ISSUED).open("ab") as file:
        file.write(msgspec.json.encode(Issued(name, key, int(time.time()))) + b"\n")


def _read_issued(out: Path) -> list[Issued]:
    path = out / ISSUED
    try:
        lines = path.read_bytes().splitlines() if path.exists() else []
        return [msgspec.json.decode(line, type=Issued) for line in lines]
    except (OSError, msgspec.DecodeError) as error:
        raise ConfigError(f"{path}: {error}") from None


def _write_state(out: Path, state: State) -> Path:
    seed = _read_seed_or_new(out / "keys" / "operator.nk")
    state.operator = state.operator or operator_jwt(seed, state.accounts[SYSTEM].account)
    config = out / CONFIG
    text = operator_config(
        state.root, state.clients, state.operator, seed, state.accounts, state.transport
    )
    replace(out / STATE, msgspec.json.encode(state).decode() + "\n", PUBLIC_MODE)
    replace(config, text, PUBLIC_MODE)
    if state.transport.leaf_listen:
        leaf = leaf_config(state.root, state.operator, seed, state.accounts, state.transport)
        replace(out / LEAF_CONFIG, leaf, PUBLIC_MODE)
    return config


def _read_seed_or_new(path: Path) -> str:
    ensure_key(path, OPERATOR, new=False)
    return _read_seed(path, OPERATOR)


def ensure_key(path: Path, kind: int, *, new: bool) -> str:
    """Returns the public key of a file. Creates the file if it is missing or `new`."""
    if new or not path.exists():
        replace(path, nkey.make_seed(kind) + "\n", SECRET_MODE)
    return nkey.public_key(_read_seed(path, kind), kind)


def _read_seed(path: Path, kind: int) -> str:
    try:
        seed = path.read_text().strip()
        nkey.public_key(seed, kind)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None
    except (nkey.DamagedSeedError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: {error}; create a new key with --rotate") from None
    return seed


def replace(path: Path, text: str, mode: int) -> None:
    """Writes a file as a whole, with these permissions from the start."""
    with replaced_file(path, mode) as file:
        file.write(text.encode())
